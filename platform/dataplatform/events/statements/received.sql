-- Puts the rows of the landed files of a range of hours in place of what events_raw.received has for it.
BEGIN TRANSACTION;

DELETE FROM {received} AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO {received}
  (hour, received_at, source, event, event_id, payload, faults, file, line, payload_digest, refused)
SELECT
  TIMESTAMP_TRUNC(received_at, HOUR),
  received_at, source, event, event_id, payload, faults, file, line,
  TO_HEX(MD5(payload)),
  EXISTS (SELECT 1 FROM UNNEST(faults) AS f WHERE f.code != 'inexact_number')
FROM {staging}
WHERE received_at >= @start AND received_at < @end;

COMMIT TRANSACTION;
