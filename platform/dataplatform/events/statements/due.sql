-- What has to be materialised (again), and why, by comparing the ledger with the manifests and contracts of now.
WITH
  landing AS (
    SELECT l.hour, l.digest
    FROM UNNEST(@landing) AS l
    WHERE l.hour >= @start AND l.hour < @end
  ),
  contract AS (
    SELECT c.event, c.digest
    FROM UNNEST([
      STRUCT('' AS event, '' AS digest){contracts}
    ]) AS c
    WHERE c.event != ''
  ),
  done AS (
    SELECT hour, event, landing_digest, contract_digest, materialized_at
    FROM {ledger}
    WHERE hour >= @start AND hour < @end
  ),
  loaded_since AS (  -- hours loaded after later hours were materialised that look back on them; by equal hours, for engines hash them
    SELECT early.hour, done.hour AS late_hour, done.event
    FROM (SELECT hour, MIN(materialized_at) AS materialized_at FROM done GROUP BY hour) AS late
    CROSS JOIN UNNEST(GENERATE_ARRAY(1, @lookback_hours)) AS distance
    JOIN {loads} AS early ON early.hour = TIMESTAMP_SUB(late.hour, INTERVAL distance HOUR)
    JOIN done ON done.hour = late.hour
    WHERE early.loaded_at > late.materialized_at AND early.loaded_at > done.materialized_at
  ),
  shared AS (  -- of these, hours with ids in common
    SELECT DISTINCT since.event, since.late_hour AS hour
    FROM loaded_since AS since
    JOIN {received} AS early ON early.hour = since.hour AND early.event = since.event
    JOIN {received} AS late
      ON late.hour = since.late_hour AND late.event = since.event AND late.event_id = early.event_id
    WHERE early.hour >= TIMESTAMP_SUB(@start, INTERVAL @lookback_hours HOUR) AND early.hour < @end
      AND late.hour >= @start AND late.hour < @end
  ),
  compared AS (
    SELECT contract.event, landing.hour,
      CASE
        WHEN done.hour IS NULL THEN 'new'
        WHEN IFNULL(done.landing_digest, '') != landing.digest THEN 'landing'
        WHEN IFNULL(done.contract_digest, '') != contract.digest THEN 'contract'
      END AS reason
    FROM landing
    CROSS JOIN contract
    LEFT JOIN done ON done.hour = landing.hour AND done.event = contract.event
  )
SELECT event, hour, reason
FROM compared
WHERE reason IS NOT NULL
UNION ALL
SELECT done.event, done.hour, 'contract'  -- it was retired: what it took is an unknown event now
FROM done
JOIN landing ON landing.hour = done.hour
LEFT JOIN contract ON contract.event = done.event
WHERE done.contract_digest IS NOT NULL AND contract.event IS NULL
UNION ALL
SELECT shared.event, shared.hour, 'earlier'
FROM shared
LEFT JOIN compared ON compared.event = shared.event AND compared.hour = shared.hour
WHERE compared.reason IS NULL
ORDER BY hour, event
