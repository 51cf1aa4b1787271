-- Duplicates are decided before anything else; an event is either a duplicate, or accepted, or rejected.
CREATE TEMP TABLE fresh AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE hour >= @start AND hour < @end
  ),
  accepted AS (  -- an id is accepted once in a range and its look-back
    SELECT event, event_id, hour FROM `shop.events.scalars_thing_test` WHERE hour >= @start AND hour < @end
  )
SELECT r.event, r.hour, r.file, r.line, r.payload, r.faults, NOT (r.refused AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE f.code IN ('not_json', 'not_object', 'duplicate_key', 'nul_character', 'lone_surrogate', 'too_deep', 'array_too_long', 'number_too_large'))) AS readable
FROM `shop.events_raw.received` AS r
LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
LEFT JOIN accepted AS a ON a.event = r.event AND a.event_id = r.event_id AND a.hour = r.hour
WHERE r.hour >= @start AND r.hour < @end AND d.line IS NULL AND a.event_id IS NULL AND r.event IN ('scalars_thing_test');

-- What the door has told of each, and what its contract has found.
CREATE TEMP TABLE found (
  hour TIMESTAMP, file STRING, line INT64, contract_version STRING,
  told ARRAY<STRUCT<path STRING, code STRING, message STRING>>,
  found ARRAY<STRUCT<path STRING, code STRING, message STRING>>
);

-- scalars_thing_test 1.0
INSERT INTO found (hour, file, line, contract_version, told, found)
WITH
  own AS (
    SELECT * FROM fresh WHERE event = 'scalars_thing_test'
  ),
  fields AS (  -- the JSON text of each parameter; NULL where it is missing, and where the event cannot be read
    SELECT hour, file, line, readable, faults,
      JSON_QUERY(IF(readable, payload, NULL), '$.params') AS _params,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.item_id') AS item_id__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.count') AS count__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.ratio') AS ratio__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.price') AS price__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.sold') AS sold__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.seen_at') AS seen_at__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.day') AS day__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.blob') AS blob__text
    FROM own
  ),
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      SAFE_CAST(JSON_VALUE(count__text, '$') AS INT64) AS count,
      SAFE_CAST(ratio__text AS FLOAT64) AS ratio,
      SAFE_CAST(JSON_VALUE(seen_at__text, '$') AS TIMESTAMP) AS seen_at,
      SAFE_CAST(JSON_VALUE(day__text, '$') AS DATE) AS day
    FROM fields
  )
SELECT hour, file, line, '1.0',
  IF(ARRAY_LENGTH(faults) = 0, [], ARRAY(
    SELECT AS STRUCT f.path AS path, f.code AS code, f.message AS message
    FROM UNNEST(faults) AS f WHERE f.code != 'inexact_number' OR (readable AND REGEXP_CONTAINS(f.path, '^(?:/params/price$|/params/blob(?:/|$))'))
  )),
  IF(NOT readable, [], ARRAY_CONCAT(
    IF(IFNULL(item_id__text, 'null') = 'null', [STRUCT('/params/item_id' AS path, 'missing' AS code, 'required, but missing or null' AS message)], []),
    IF(SUBSTR(item_id__text, 1, 1) NOT IN ('"', 'n'), [STRUCT('/params/item_id' AS path, 'wrong_type' AS code, 'not a string' AS message)], []),
    IF(IFNULL(count__text, 'null') != 'null' AND NOT IFNULL(CAST(count AS STRING) = JSON_VALUE(count__text, '$') OR count__text = '-0', FALSE), [STRUCT('/params/count' AS path, 'wrong_type' AS code, 'not an integer of 64 bits, as a number or in a string' AS message)], []),
    IF(IFNULL(ratio__text, 'null') != 'null' AND NOT IFNULL(SUBSTR(ratio__text, 1, 1) NOT IN ('"', 't', 'f') AND ratio IS NOT NULL, FALSE), [STRUCT('/params/ratio' AS path, 'wrong_type' AS code, 'not a number' AS message)], []),
    IF(IFNULL(price__text, 'null') != 'null' AND NOT IFNULL(CASE WHEN REGEXP_CONTAINS(JSON_VALUE(price__text, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN TRUE WHEN SUBSTR(price__text, 1, 1) NOT IN ('"', 't', 'f') THEN SAFE_CAST(CAST(SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC) AS STRING) AS FLOAT64) = SAFE_CAST(JSON_VALUE(price__text, '$') AS FLOAT64) END, FALSE), [STRUCT('/params/price' AS path, 'wrong_type' AS code, 'not a decimal of at most 29 digits before and 9 after the point' AS message)], []),
    IF(SUBSTR(sold__text, 1, 1) NOT IN ('t', 'f', 'n'), [STRUCT('/params/sold' AS path, 'wrong_type' AS code, 'not true or false' AS message)], []),
    IF(IFNULL(seen_at__text, 'null') != 'null' AND NOT IFNULL(REGEXP_CONTAINS(JSON_VALUE(seen_at__text, '$'), r'^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)$') AND seen_at BETWEEN TIMESTAMP '0001-01-01 00:00:00+00' AND TIMESTAMP '9999-12-31 23:59:59.999999+00', FALSE), [STRUCT('/params/seen_at' AS path, 'wrong_type' AS code, 'not a time such as 2026-01-31T23:59:59.123456+09:00' AS message)], []),
    IF(IFNULL(day__text, 'null') != 'null' AND NOT IFNULL(LENGTH(JSON_VALUE(day__text, '$')) = 10 AND CAST(day AS STRING) = JSON_VALUE(day__text, '$'), FALSE), [STRUCT('/params/day' AS path, 'wrong_type' AS code, 'not a date such as 2026-01-31' AS message)], [])
  ))
FROM typed;

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
