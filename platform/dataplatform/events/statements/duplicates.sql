-- All events that were received before, within the look-back, under the same name and id.
-- The order of what was received is (received_at, file, line). Payloads are not read: their digests tell conflicts.
BEGIN TRANSACTION;

DELETE FROM {duplicates} AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO {duplicates}
  (event_id, event, hour, received_at, first_received_at, conflicting, file, line)
WITH
  again AS (  -- ids that were received more than once
    SELECT event, event_id
    FROM {received}
    WHERE hour >= TIMESTAMP_SUB(@start, INTERVAL @lookback_hours HOUR) AND hour < @end AND event_id IS NOT NULL
    GROUP BY event, event_id
    HAVING COUNT(*) > 1 AND MAX(hour) >= @start
  ),
  repeated AS (
    SELECT r.event, r.event_id, r.hour, r.received_at, r.file, r.line, r.payload_digest
    FROM {received} AS r
    JOIN again ON again.event = r.event AND again.event_id = r.event_id
    WHERE r.hour >= TIMESTAMP_SUB(@start, INTERVAL @lookback_hours HOUR) AND r.hour < @end
  ),
  first_of_hour AS (
    SELECT *
    FROM repeated
    WHERE TRUE
    QUALIFY ROW_NUMBER() OVER (PARTITION BY event, event_id, hour ORDER BY received_at, file, line) = 1
  ),
  first_of_lookback AS (  -- for each hour an id was received in: the first of it within that hour's look-back
    SELECT late.event, late.event_id, late.hour AS late_hour, early.hour, early.received_at, early.file, early.line,
      early.payload_digest
    FROM first_of_hour AS late
    JOIN first_of_hour AS early
      ON early.event = late.event AND early.event_id = late.event_id
      AND early.hour <= late.hour AND early.hour >= TIMESTAMP_SUB(late.hour, INTERVAL @lookback_hours HOUR)
    WHERE late.hour >= @start
    QUALIFY ROW_NUMBER() OVER (PARTITION BY late.event, late.event_id, late.hour ORDER BY early.hour) = 1
  )
SELECT
  r.event_id, r.event, r.hour, r.received_at,
  f.received_at, r.payload_digest != f.payload_digest, r.file, r.line
FROM repeated AS r
JOIN first_of_lookback AS f ON f.event = r.event AND f.event_id = r.event_id AND f.late_hour = r.hour
WHERE r.hour >= @start AND NOT (r.hour = f.hour AND r.file = f.file AND r.line = f.line);

COMMIT TRANSACTION;
