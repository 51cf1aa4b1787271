-- Duplicates are decided before anything else; an event is either a duplicate, or accepted, or rejected.
CREATE TEMP TABLE fresh AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE hour >= @start AND hour < @end
  ),
  accepted AS (  -- an id is accepted once in a range and its look-back
    SELECT event, event_id, hour FROM `shop.events.arrays_thing_test` WHERE hour >= @start AND hour < @end
  )
SELECT r.event, r.hour, r.file, r.line, r.payload, r.faults, NOT (r.refused AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE f.code IN ('not_json', 'not_object', 'duplicate_key', 'nul_character', 'lone_surrogate', 'too_deep', 'array_too_long', 'number_too_large'))) AS readable
FROM `shop.events_raw.received` AS r
LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
LEFT JOIN accepted AS a ON a.event = r.event AND a.event_id = r.event_id AND a.hour = r.hour
WHERE r.hour >= @start AND r.hour < @end AND d.line IS NULL AND a.event_id IS NULL AND r.event IN ('arrays_thing_test');

-- What the door has told of each, and what its contract has found.
CREATE TEMP TABLE found (
  hour TIMESTAMP, file STRING, line INT64, contract_version STRING,
  told ARRAY<STRUCT<path STRING, code STRING, message STRING>>,
  found ARRAY<STRUCT<path STRING, code STRING, message STRING>>
);

-- arrays_thing_test 1.0
INSERT INTO found (hour, file, line, contract_version, told, found)
WITH
  own AS (
    SELECT * FROM fresh WHERE event = 'arrays_thing_test'
  ),
  fields AS (  -- the JSON text of each parameter; NULL where it is missing, and where the event cannot be read
    SELECT hour, file, line, readable, faults,
      JSON_QUERY(IF(readable, payload, NULL), '$.params') AS _params,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.tags') AS tags__text,
      JSON_QUERY(IF(readable, payload, NULL), '$.params.items') AS items__text
    FROM own
  )
SELECT hour, file, line, '1.0',
  IF(ARRAY_LENGTH(faults) = 0, [], ARRAY(
    SELECT AS STRUCT f.path AS path, f.code AS code, f.message AS message
    FROM UNNEST(faults) AS f WHERE f.code != 'inexact_number' OR (readable AND REGEXP_CONTAINS(f.path, '^(?:/params/items/[0-9]+/prices/[0-9]+$)'))
  )),
  IF(NOT readable, [], ARRAY_CONCAT(
    IF(SUBSTR(tags__text, 1, 1) NOT IN ('[', 'n'), [STRUCT('/params/tags' AS path, 'wrong_type' AS code, 'not an array' AS message)], []),
    ARRAY(
          SELECT AS STRUCT r.path AS path, r.code AS code, r.message AS message
          FROM (SELECT o0, NULLIF(e, 'null') AS e FROM UNNEST(IF(STARTS_WITH(tags__text, '['), JSON_QUERY_ARRAY(tags__text, '$'), [])) AS e WITH OFFSET AS o0) AS x, UNNEST(ARRAY_CONCAT(
            IF(e IS NULL, [STRUCT(CONCAT('/params/tags/', CAST(o0 AS STRING)) AS path, 'null_element' AS code, 'an element is null' AS message)], []),
            IF(SUBSTR(e, 1, 1) NOT IN ('"', 'n'), [STRUCT(CONCAT('/params/tags/', CAST(o0 AS STRING)) AS path, 'wrong_type' AS code, 'not a string' AS message)], [])
          )) AS r),
    IF(SUBSTR(items__text, 1, 1) NOT IN ('[', 'n'), [STRUCT('/params/items' AS path, 'wrong_type' AS code, 'not an array' AS message)], []),
    ARRAY(
          SELECT AS STRUCT r.path AS path, r.code AS code, r.message AS message
          FROM (SELECT o0, NULLIF(e, 'null') AS e, JSON_QUERY(e, '$.id') AS m0, JSON_QUERY(e, '$.prices') AS m1, JSON_QUERY(e, '$.size') AS m2, JSON_QUERY(e, '$.size.width') AS m2_0 FROM UNNEST(IF(STARTS_WITH(items__text, '['), JSON_QUERY_ARRAY(items__text, '$'), [])) AS e WITH OFFSET AS o0) AS x, UNNEST(ARRAY_CONCAT(
            IF(e IS NULL, [STRUCT(CONCAT('/params/items/', CAST(o0 AS STRING)) AS path, 'null_element' AS code, 'an element is null' AS message)], []),
            IF(SUBSTR(e, 1, 1) NOT IN ('{', 'n'), [STRUCT(CONCAT('/params/items/', CAST(o0 AS STRING)) AS path, 'wrong_type' AS code, 'not an object' AS message)], []),
            IF(STARTS_WITH(e, '{') AND IFNULL(m0, 'null') = 'null', [STRUCT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/id') AS path, 'missing' AS code, 'required, but missing or null' AS message)], []),
            IF(SUBSTR(m0, 1, 1) NOT IN ('"', 'n'), [STRUCT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/id') AS path, 'wrong_type' AS code, 'not a string' AS message)], []),
            IF(SUBSTR(m1, 1, 1) NOT IN ('[', 'n'), [STRUCT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/prices') AS path, 'wrong_type' AS code, 'not an array' AS message)], []),
            ARRAY(
              SELECT AS STRUCT r.path AS path, r.code AS code, r.message AS message
              FROM (SELECT o1, NULLIF(e, 'null') AS e FROM UNNEST(IF(STARTS_WITH(m1, '['), JSON_QUERY_ARRAY(m1, '$'), [])) AS e WITH OFFSET AS o1) AS x, UNNEST(ARRAY_CONCAT(
                IF(e IS NULL, [STRUCT(CONCAT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/prices/'), CAST(o1 AS STRING)) AS path, 'null_element' AS code, 'an element is null' AS message)], []),
                IF(IFNULL(e, 'null') != 'null' AND NOT IFNULL(CASE WHEN REGEXP_CONTAINS(JSON_VALUE(e, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN TRUE WHEN SUBSTR(e, 1, 1) NOT IN ('"', 't', 'f') THEN SAFE_CAST(CAST(SAFE_CAST(JSON_VALUE(e, '$') AS NUMERIC) AS STRING) AS FLOAT64) = SAFE_CAST(JSON_VALUE(e, '$') AS FLOAT64) END, FALSE), [STRUCT(CONCAT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/prices/'), CAST(o1 AS STRING)) AS path, 'wrong_type' AS code, 'not a decimal of at most 29 digits before and 9 after the point' AS message)], [])
              )) AS r),
            IF(SUBSTR(m2, 1, 1) NOT IN ('{', 'n'), [STRUCT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/size') AS path, 'wrong_type' AS code, 'not an object' AS message)], []),
            IF(IFNULL(m2_0, 'null') != 'null' AND NOT IFNULL(CAST(SAFE_CAST(JSON_VALUE(m2_0, '$') AS INT64) AS STRING) = JSON_VALUE(m2_0, '$') OR m2_0 = '-0', FALSE), [STRUCT(CONCAT(CONCAT('/params/items/', CAST(o0 AS STRING)), '/size/width') AS path, 'wrong_type' AS code, 'not an integer of 64 bits, as a number or in a string' AS message)], [])
          )) AS r)
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
