-- The counts of every hour and event, from the tables themselves (those of accepted rows come with the call); a row here says that the hour's work is done.
BEGIN TRANSACTION;

DELETE FROM {ledger} AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO {ledger}
  (hour, event, received, accepted, rejected, duplicates, conflicting,
   contract_version, contract_digest, landing_digest, materialized_at)
WITH
  landing AS (
    SELECT l.hour, l.digest
    FROM UNNEST(@landing) AS l
    WHERE l.hour >= @start AND l.hour < @end
  ),
  contract AS (
    SELECT c.event, c.version, c.digest
    FROM UNNEST([
      STRUCT('' AS event, '' AS version, '' AS digest){contracts}
    ]) AS c
    WHERE c.event != ''
  ),
  counted AS (
    SELECT hour, event, COUNT(*) AS received, 0 AS accepted, 0 AS rejected, 0 AS duplicates, 0 AS conflicting
    FROM {received}
    WHERE hour >= @start AND hour < @end
    GROUP BY hour, event
    UNION ALL
    SELECT hour, event, 0, 0, COUNT(*), 0, 0
    FROM {rejected}
    WHERE hour >= @start AND hour < @end
    GROUP BY hour, event
    UNION ALL
    SELECT hour, event, 0, 0, 0, COUNT(*), COUNTIF(conflicting)
    FROM {duplicates}
    WHERE hour >= @start AND hour < @end
    GROUP BY hour, event
    UNION ALL
    SELECT a.hour, a.event, 0, a.accepted, 0, 0, 0
    FROM UNNEST(@accepted) AS a
    UNION ALL
    SELECT landing.hour, contract.event, 0, 0, 0, 0, 0
    FROM landing CROSS JOIN contract
  ),
  summed AS (
    SELECT hour, event, SUM(received) AS received, SUM(accepted) AS accepted, SUM(rejected) AS rejected,
      SUM(duplicates) AS duplicates, SUM(conflicting) AS conflicting
    FROM counted
    GROUP BY hour, event
  )
SELECT s.hour, s.event, s.received, s.accepted, s.rejected, s.duplicates, s.conflicting,
  contract.version, contract.digest, landing.digest, @started_at
FROM summed AS s
LEFT JOIN contract ON contract.event = s.event
LEFT JOIN landing ON landing.hour = s.hour;

COMMIT TRANSACTION;
