-- Duplicates are decided before anything else; an event is either a duplicate, or accepted, or rejected.
CREATE TEMP TABLE fresh AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE hour >= @start AND hour < @end
  ),
  accepted AS (  -- an id is accepted once in a range and its look-back
    SELECT event, event_id, hour FROM `shop.events.no_thing_test` WHERE hour >= @start AND hour < @end
  )
SELECT r.event, r.hour, r.file, r.line, r.payload, r.faults, NOT (r.refused AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE f.code IN ('not_json', 'not_object', 'duplicate_key', 'nul_character', 'lone_surrogate', 'too_deep', 'array_too_long', 'number_too_large'))) AS readable
FROM `shop.events_raw.received` AS r
LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
LEFT JOIN accepted AS a ON a.event = r.event AND a.event_id = r.event_id AND a.hour = r.hour
WHERE r.hour >= @start AND r.hour < @end AND d.line IS NULL AND a.event_id IS NULL AND r.event IN ('no_thing_test');

-- What the door has told of each, and what its contract has found.
CREATE TEMP TABLE found (
  hour TIMESTAMP, file STRING, line INT64, contract_version STRING,
  told ARRAY<STRUCT<path STRING, code STRING, message STRING>>,
  found ARRAY<STRUCT<path STRING, code STRING, message STRING>>
);

-- no_thing_test 1.0
INSERT INTO found (hour, file, line, contract_version, told, found)
WITH
  own AS (
    SELECT * FROM fresh WHERE event = 'no_thing_test'
  ),
  fields AS (  -- the JSON text of each parameter; NULL where it is missing, and where the event cannot be read
    SELECT hour, file, line, readable, faults,
      JSON_QUERY(IF(readable, payload, NULL), '$.params') AS _params
    FROM own
  )
SELECT hour, file, line, '1.0',
  IF(ARRAY_LENGTH(faults) = 0, [], ARRAY(
    SELECT AS STRUCT f.path AS path, f.code AS code, f.message AS message
    FROM UNNEST(faults) AS f WHERE f.code != 'inexact_number'
  )),
  IF(NOT readable, [], ARRAY_CONCAT(
    IF(FALSE, [STRUCT('' AS path, '' AS code, '' AS message)], [])
  ))
FROM fields;

BEGIN TRANSACTION;

DELETE FROM `shop.events.rejected` AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO `shop.events.rejected`
  (event_id, event, hour, received_at, source, payload, contract_version, reasons, file, line)
SELECT r.event_id, r.event, r.hour, r.received_at, r.source, r.payload, f.contract_version,
  IF(ARRAY_LENGTH(f.told) = 0, f.found, ARRAY_CONCAT(f.told, ARRAY(  -- what the door has told is not told again
    SELECT AS STRUCT x.path AS path, x.code AS code, x.message AS message
    FROM UNNEST(f.found) AS x WHERE x.path NOT IN (SELECT t.path FROM UNNEST(f.told) AS t)
  ))),
  r.file, r.line
FROM `shop.events_raw.received` AS r
JOIN found AS f ON f.hour = r.hour AND f.file = r.file AND f.line = r.line
WHERE r.hour >= @start AND r.hour < @end AND ARRAY_LENGTH(f.told) + ARRAY_LENGTH(f.found) > 0;

COMMIT TRANSACTION;
