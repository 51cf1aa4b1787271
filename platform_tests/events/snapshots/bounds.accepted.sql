-- bounds_thing_test 1.0: accepted events, one row each.
CREATE TEMP TABLE judged AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE event = 'bounds_thing_test' AND hour >= @start AND hour < @end
  ),
  fresh AS (
    SELECT r.event_id, r.event, r.received_at, r.hour, r.payload
    FROM `shop.events_raw.received` AS r
    LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
    WHERE r.event = 'bounds_thing_test' AND r.hour >= @start AND r.hour < @end
      AND d.line IS NULL AND NOT r.refused
      AND NOT (
        ARRAY_LENGTH(r.faults) > 0
        AND EXISTS (SELECT 1 FROM UNNEST(r.faults) AS f WHERE REGEXP_CONTAINS(f.path, '^(?:/params/price$)'))
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
      JSON_QUERY(payload, '$.params.kind') AS kind__text,
      JSON_QUERY(payload, '$.params.currency') AS currency__text,
      JSON_QUERY(payload, '$.params.stars') AS stars__text,
      JSON_QUERY(payload, '$.params.price') AS price__text,
      JSON_QUERY(payload, '$.params.since') AS since__text
    FROM fresh
  ),
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at) AS _micros,
      JSON_VALUE(kind__text, '$') AS kind,
      JSON_VALUE(currency__text, '$') AS currency,
      SAFE_CAST(JSON_VALUE(stars__text, '$') AS INT64) AS stars,
      CASE WHEN REGEXP_CONTAINS(JSON_VALUE(price__text, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN COALESCE(CAST(CAST(SAFE_CAST(CONCAT(REPLACE(JSON_VALUE(price__text, '$'), '.', ''), REPEAT('0', 9 - IF(STRPOS(JSON_VALUE(price__text, '$'), '.') = 0, 0, LENGTH(JSON_VALUE(price__text, '$')) - STRPOS(JSON_VALUE(price__text, '$'), '.')))) AS INT64) AS NUMERIC) * NUMERIC '0.000000001' AS NUMERIC), SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC)) ELSE SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC) END AS price,
      SAFE_CAST(JSON_VALUE(since__text, '$') AS TIMESTAMP) AS since,
      IF(STARTS_WITH(_params, '{') AND (LENGTH(_params) != 1 + IFNULL(8 + LENGTH(kind__text), 0) + IFNULL(12 + LENGTH(currency__text), 0) + IFNULL(9 + LENGTH(stars__text), 0) + IFNULL(9 + LENGTH(price__text), 0) + IFNULL(9 + LENGTH(since__text), 0)), TO_JSON_STRING(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(JSON_REMOVE(PARSE_JSON(_params, wide_number_mode => 'round'), '$.kind'), '$.currency'), '$.stars'), '$.price'), '$.since')), NULL) AS _params_own
    FROM fields
  )
SELECT
  event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour,
  CASE
    WHEN sent_at IS NULL THEN event_time
    WHEN _micros BETWEEN UNIX_MICROS(TIMESTAMP '0001-01-01 00:00:00+00') AND UNIX_MICROS(TIMESTAMP '9999-12-31 23:59:59.999999+00') THEN TIMESTAMP_MICROS(_micros)
  END AS occurred_at,
  kind, currency, stars, price, since, 
  IF(_params_own IS NULL, NULL, PARSE_JSON(NULLIF(_params_own, '{}'), wide_number_mode => 'round')) AS _extra,
  (IFNULL(kind__text, 'null') = 'null' OR (STARTS_WITH(kind__text, '"') AND kind IN ('it\'s', 'new')))
    AND (STARTS_WITH(currency__text, '"') AND REGEXP_CONTAINS(currency, '^(?:[A-Z]{3})$'))
    AND (IFNULL(stars__text, 'null') = 'null' OR ((CAST(stars AS STRING) = JSON_VALUE(stars__text, '$') OR stars__text = '-0') AND stars >= 1 AND stars <= 5))
    AND (IFNULL(price__text, 'null') = 'null' OR (CASE WHEN REGEXP_CONTAINS(JSON_VALUE(price__text, '$'), r'^-?(0|[1-9][0-9]{0,28})(\.[0-9]{1,9})?$') THEN TRUE WHEN SUBSTR(price__text, 1, 1) NOT IN ('"', 't', 'f') THEN SAFE_CAST(CAST(SAFE_CAST(JSON_VALUE(price__text, '$') AS NUMERIC) AS STRING) AS FLOAT64) = SAFE_CAST(JSON_VALUE(price__text, '$') AS FLOAT64) END AND price >= NUMERIC '0.01'))
    AND (IFNULL(since__text, 'null') = 'null' OR ((REGEXP_CONTAINS(JSON_VALUE(since__text, '$'), r'^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)$') AND since BETWEEN TIMESTAMP '0001-01-01 00:00:00+00' AND TIMESTAMP '9999-12-31 23:59:59.999999+00') AND since >= TIMESTAMP '2020-01-01 00:00:00.000000+00')) AS _valid__
FROM typed;

BEGIN TRANSACTION;

DELETE FROM `shop.events.bounds_thing_test` AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO `shop.events.bounds_thing_test`
  (event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, kind, currency, stars, price, since, _extra)
SELECT event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, kind, currency, stars, price, since, _extra
FROM judged
WHERE _valid__;

COMMIT TRANSACTION;
