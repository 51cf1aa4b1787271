-- arrays_thing_test 1.0: accepted events, one row each.
CREATE TEMP TABLE judged AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE event = 'arrays_thing_test' AND hour >= @start AND hour < @end
  ),
  fresh AS (
    SELECT r.event_id, r.event, r.received_at, r.hour, r.payload
    FROM `shop.events_raw.received` AS r
    LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
    WHERE r.event = 'arrays_thing_test' AND r.hour >= @start AND r.hour < @end
      AND d.line IS NULL AND NOT r.refused
      AND NOT (
        ARRAY_LENGTH(r.faults) > 0
        AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE REGEXP_CONTAINS(f.path, '^(?:/params/items/[0-9]+/prices/[0-9]+$)'))
      )
  ),
  fields AS (  -- the JSON text of each parameter; NULL where it is missing
    SELECT event_id, event, received_at, hour,
      SAFE_CAST(JSON_VALUE(payload, '$.event_time') AS TIMESTAMP) AS event_time,
      SAFE_CAST(JSON_VALUE(payload, '$.sent_at') AS TIMESTAMP) AS sent_at,
      JSON_VALUE(payload, '$.user_id') AS user_id,
      JSON_VALUE(payload, '$.device_id') AS device_id,
      JSON_VALUE(payload, '$.session_id') AS session_id,
      JSON_VALUE(payload, '$.platform') AS platform,
      JSON_VALUE(payload, '$.app_version') AS app_version,
      JSON_QUERY(payload, '$.params') AS _params,
      JSON_QUERY(payload, '$.params.tags') AS tags__text,
      JSON_QUERY(payload, '$.params.items') AS items__text
    FROM fresh
  ),
  arrays AS (  -- each repeated parameter, read element by element in one pass
    SELECT *,
      (SELECT AS STRUCT
        ARRAY_AGG(JSON_VALUE(e, '$') IGNORE NULLS ORDER BY o) AS items,
        LOGICAL_AND(IFNULL(IFNULL(e, 'null') != 'null' AND STARTS_WITH(e, '"'), FALSE)) AS valid
      FROM UNNEST(IF(STARTS_WITH(tags__text, '['), JSON_QUERY_ARRAY(tags__text, '$'), [])) AS e WITH OFFSET AS o) AS tags__textread,
      (SELECT AS STRUCT
        ARRAY_AGG(STRUCT(JSON_VALUE(m0, '$') AS id, IFNULL(m1_read.items, []) AS prices, IF(IFNULL(m2, 'null') = 'null', NULL, STRUCT(SAFE_CAST(JSON_VALUE(m2_0, '$') AS INT64) AS width)) AS size) ORDER BY o) AS items,
        LOGICAL_AND(IFNULL(STARTS_WITH(e, '{') AND STARTS_WITH(m0, '"') AND (IFNULL(m1, 'null') = 'null' OR (STARTS_WITH(m1, '[') AND IFNULL(m1_read.valid, TRUE))) AND IFNULL(SUBSTR(m2, 1, 1), 'n') IN ('{', 'n') AND (IFNULL(m2_0, 'null') = 'null' OR (CAST(SAFE_CAST(JSON_VALUE(m2_0, '$') AS INT64) AS STRING) = JSON_VALUE(m2_0, '$') OR m2_0 = '-0')), FALSE)) AS valid,
        IF(LOGICAL_OR(NULLIF(CONCAT('{', ARRAY_TO_STRING([NULLIF(SUBSTR(e_own, 2, LENGTH(e_own) - 2), ''), CONCAT('"size":', NULLIF(m2_own, '{}'))], ','), '}'), '{}') IS NOT NULL), ARRAY_TO_STRING(ARRAY_AGG(IFNULL(NULLIF(CONCAT('{', ARRAY_TO_STRING([NULLIF(SUBSTR(e_own, 2, LENGTH(e_own) - 2), ''), CONCAT('"size":', NULLIF(m2_own, '{}'))], ','), '}'), '{}'), '{}') ORDER BY o), ','), NULL) AS extra
      FROM (SELECT o, e, m0, m1, m2, m2_0, m1_read, IF(STARTS_WITH(e, '{') AND (LENGTH(e) != 1 + IFNULL(6 + LENGTH(m0), 0) + IFNULL(10 + LENGTH(m1), 0) + IFNULL(8 + IF(STARTS_WITH(m2, '{'), 1 + IFNULL(9 + LENGTH(m2_0), 0), LENGTH(m2)), 0)), TO_JSON_STRING(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(PARSE_JSON(e, wide_number_mode => 'round'), '$.id'), '$.prices'), '$.size')), NULL) AS e_own, IF(STARTS_WITH(m2, '{') AND LENGTH(m2) != IF(STARTS_WITH(m2, '{'), 1 + IFNULL(9 + LENGTH(m2_0), 0), LENGTH(m2)), TO_JSON_STRING(JSON_REMOVE(PARSE_JSON(m2, wide_number_mode => 'round'), '$.width')), NULL) AS m2_own
          FROM (SELECT o, e, m0, m1, m2, m2_0, (SELECT AS STRUCT
            ARRAY_AGG(CASE WHEN REGEXP_CONTAINS(JSON_VALUE(e, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN COALESCE(CAST(CAST(SAFE_CAST(CONCAT(REPLACE(JSON_VALUE(e, '$'), '.', ''), REPEAT('0', 9 - IF(STRPOS(JSON_VALUE(e, '$'), '.') = 0, 0, LENGTH(JSON_VALUE(e, '$')) - STRPOS(JSON_VALUE(e, '$'), '.')))) AS INT64) AS NUMERIC) * NUMERIC '0.000000001' AS NUMERIC), SAFE_CAST(JSON_VALUE(e, '$') AS NUMERIC)) ELSE SAFE_CAST(JSON_VALUE(e, '$') AS NUMERIC) END IGNORE NULLS ORDER BY o) AS items,
            LOGICAL_AND(IFNULL(IFNULL(e, 'null') != 'null' AND CASE WHEN REGEXP_CONTAINS(JSON_VALUE(e, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN TRUE WHEN SUBSTR(e, 1, 1) NOT IN ('"', 't', 'f') THEN SAFE_CAST(CAST(SAFE_CAST(JSON_VALUE(e, '$') AS NUMERIC) AS STRING) AS FLOAT64) = SAFE_CAST(JSON_VALUE(e, '$') AS FLOAT64) END, FALSE)) AS valid
          FROM UNNEST(IF(STARTS_WITH(m1, '['), JSON_QUERY_ARRAY(m1, '$'), [])) AS e WITH OFFSET AS o) AS m1_read
          FROM (SELECT o, e, JSON_QUERY(e, '$.id') AS m0, JSON_QUERY(e, '$.prices') AS m1, JSON_QUERY(e, '$.size') AS m2, JSON_QUERY(e, '$.size.width') AS m2_0
          FROM UNNEST(IF(STARTS_WITH(items__text, '['), JSON_QUERY_ARRAY(items__text, '$'), [])) AS e WITH OFFSET AS o)))) AS items__textread
    FROM fields
  ),
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at) AS _micros,
      IF(STARTS_WITH(_params, '{') AND (LENGTH(_params) != 1 + IFNULL(8 + LENGTH(tags__text), 0) + IFNULL(9 + LENGTH(items__text), 0) OR items__textread.extra IS NOT NULL), TO_JSON_STRING(JSON_REMOVE(JSON_REMOVE(PARSE_JSON(_params, wide_number_mode => 'round'), '$.tags'), '$.items')), NULL) AS _params_own
    FROM arrays
  )
SELECT
  event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour,
  CASE
    WHEN sent_at IS NULL THEN event_time
    WHEN _micros BETWEEN UNIX_MICROS(TIMESTAMP '0001-01-01 00:00:00+00') AND UNIX_MICROS(TIMESTAMP '9999-12-31 23:59:59.999999+00') THEN TIMESTAMP_MICROS(_micros)
  END AS occurred_at,
  IFNULL(tags__textread.items, []) AS tags, IFNULL(items__textread.items, []) AS items, 
  IF(_params_own IS NULL, NULL, PARSE_JSON(NULLIF(CONCAT('{', ARRAY_TO_STRING([NULLIF(SUBSTR(_params_own, 2, LENGTH(_params_own) - 2), ''), CONCAT('"items":', '[', items__textread.extra, ']')], ','), '}'), '{}'), wide_number_mode => 'round')) AS _extra,
  (IFNULL(tags__text, 'null') = 'null' OR (STARTS_WITH(tags__text, '[') AND IFNULL(tags__textread.valid, TRUE)))
    AND (IFNULL(items__text, 'null') = 'null' OR (STARTS_WITH(items__text, '[') AND IFNULL(items__textread.valid, TRUE))) AS _valid__
FROM typed;

BEGIN TRANSACTION;

DELETE FROM `shop.events.arrays_thing_test` AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO `shop.events.arrays_thing_test`
  (event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, tags, items, _extra)
SELECT event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, tags, items, _extra
FROM judged
WHERE _valid__;

COMMIT TRANSACTION;
