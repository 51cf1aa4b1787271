-- scalars_thing_test 1.0: accepted events, one row each.
CREATE TEMP TABLE judged AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE event = 'scalars_thing_test' AND hour >= @start AND hour < @end
  ),
  fresh AS (
    SELECT r.event_id, r.event, r.received_at, r.hour, r.payload
    FROM `shop.events_raw.received` AS r
    LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
    WHERE r.event = 'scalars_thing_test' AND r.hour >= @start AND r.hour < @end
      AND d.line IS NULL AND NOT r.refused
      AND NOT (
        ARRAY_LENGTH(r.faults) > 0
        AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE REGEXP_CONTAINS(f.path, '^(?:/params/price$|/params/blob(?:/|$))'))
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
      JSON_QUERY(payload, '$.params.item_id') AS item_id__text,
      JSON_QUERY(payload, '$.params.count') AS count__text,
      JSON_QUERY(payload, '$.params.ratio') AS ratio__text,
      JSON_QUERY(payload, '$.params.price') AS price__text,
      JSON_QUERY(payload, '$.params.sold') AS sold__text,
      JSON_QUERY(payload, '$.params.seen_at') AS seen_at__text,
      JSON_QUERY(payload, '$.params.day') AS day__text,
      JSON_QUERY(payload, '$.params.blob') AS blob__text
    FROM fresh
  ),
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at) AS _micros,
      JSON_VALUE(item_id__text, '$') AS item_id,
      SAFE_CAST(JSON_VALUE(count__text, '$') AS INT64) AS count,
      SAFE_CAST(ratio__text AS FLOAT64) AS ratio,
      CASE WHEN REGEXP_CONTAINS(JSON_VALUE(price__text, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN COALESCE(CAST(CAST(SAFE_CAST(CONCAT(REPLACE(JSON_VALUE(price__text, '$'), '.', ''), REPEAT('0', 9 - IF(STRPOS(JSON_VALUE(price__text, '$'), '.') = 0, 0, LENGTH(JSON_VALUE(price__text, '$')) - STRPOS(JSON_VALUE(price__text, '$'), '.')))) AS INT64) AS NUMERIC) * NUMERIC '0.000000001' AS NUMERIC), SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC)) ELSE SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC) END AS price,
      CASE sold__text WHEN 'true' THEN TRUE WHEN 'false' THEN FALSE END AS sold,
      SAFE_CAST(JSON_VALUE(seen_at__text, '$') AS TIMESTAMP) AS seen_at,
      SAFE_CAST(JSON_VALUE(day__text, '$') AS DATE) AS day,
      CASE WHEN blob__text != 'null' THEN JSON_QUERY(PARSE_JSON(CONCAT('[', blob__text, ']'), wide_number_mode => 'round'), '$[0]') END AS blob,
      IF(STARTS_WITH(_params, '{') AND (LENGTH(_params) != 1 + IFNULL(11 + LENGTH(item_id__text), 0) + IFNULL(9 + LENGTH(count__text), 0) + IFNULL(9 + LENGTH(ratio__text), 0) + IFNULL(9 + LENGTH(price__text), 0) + IFNULL(8 + LENGTH(sold__text), 0) + IFNULL(11 + LENGTH(seen_at__text), 0) + IFNULL(7 + LENGTH(day__text), 0) + IFNULL(8 + LENGTH(blob__text), 0)), TO_JSON_STRING(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(PARSE_JSON(_params, wide_number_mode => 'round'), '$.item_id'), '$.count'), '$.ratio'), '$.price'), '$.sold'), '$.seen_at'), '$.day'), '$.blob')), NULL) AS _params_own
    FROM fields
  )
SELECT
  event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour,
  CASE
    WHEN sent_at IS NULL THEN event_time
    WHEN _micros BETWEEN UNIX_MICROS(TIMESTAMP '0001-01-01 00:00:00+00') AND UNIX_MICROS(TIMESTAMP '9999-12-31 23:59:59.999999+00') THEN TIMESTAMP_MICROS(_micros)
  END AS occurred_at,
  item_id, count, ratio, price, sold, seen_at, day, blob, 
  IF(_params_own IS NULL, NULL, PARSE_JSON(NULLIF(_params_own, '{}'), wide_number_mode => 'round')) AS _extra,
  (STARTS_WITH(item_id__text, '"'))
    AND (IFNULL(count__text, 'null') = 'null' OR (CAST(count AS STRING) = JSON_VALUE(count__text, '$') OR count__text = '-0'))
    AND (IFNULL(ratio__text, 'null') = 'null' OR (SUBSTR(ratio__text, 1, 1) NOT IN ('"', 't', 'f') AND ratio IS NOT NULL))
    AND (IFNULL(price__text, 'null') = 'null' OR CASE WHEN REGEXP_CONTAINS(JSON_VALUE(price__text, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN TRUE WHEN SUBSTR(price__text, 1, 1) NOT IN ('"', 't', 'f') THEN SAFE_CAST(CAST(SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC) AS STRING) AS FLOAT64) = SAFE_CAST(JSON_VALUE(price__text, '$') AS FLOAT64) END)
    AND (IFNULL(SUBSTR(sold__text, 1, 1), 'n') IN ('t', 'f', 'n'))
    AND (IFNULL(seen_at__text, 'null') = 'null' OR (REGEXP_CONTAINS(JSON_VALUE(seen_at__text, '$'), r'^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)$') AND seen_at BETWEEN TIMESTAMP '0001-01-01 00:00:00+00' AND TIMESTAMP '9999-12-31 23:59:59.999999+00'))
    AND (IFNULL(day__text, 'null') = 'null' OR (LENGTH(JSON_VALUE(day__text, '$')) = 10 AND CAST(day AS STRING) = JSON_VALUE(day__text, '$'))) AS _valid__
FROM typed;

BEGIN TRANSACTION;

DELETE FROM `shop.events.scalars_thing_test` AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO `shop.events.scalars_thing_test`
  (event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, item_id, count, ratio, price, sold, seen_at, day, blob, _extra)
SELECT event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, item_id, count, ratio, price, sold, seen_at, day, blob, _extra
FROM judged
WHERE _valid__;

COMMIT TRANSACTION;
