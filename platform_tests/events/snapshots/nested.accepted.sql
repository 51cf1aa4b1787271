-- nested_thing_test 1.0: accepted events, one row each.
CREATE TEMP TABLE judged AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE event = 'nested_thing_test' AND hour >= @start AND hour < @end
  ),
  fresh AS (
    SELECT r.event_id, r.event, r.received_at, r.hour, r.payload
    FROM `shop.events_raw.received` AS r
    LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
    WHERE r.event = 'nested_thing_test' AND r.hour >= @start AND r.hour < @end
      AND d.line IS NULL AND NOT r.refused
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
      JSON_QUERY(payload, '$.params.seller') AS seller__text,
      JSON_QUERY(payload, '$.params.seller.id') AS seller__id__text,
      JSON_QUERY(payload, '$.params.seller.address') AS seller__address__text,
      JSON_QUERY(payload, '$.params.seller.address.city') AS seller__address__city__text,
      JSON_QUERY(payload, '$.params.order') AS order__text
    FROM fresh
  ),
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at) AS _micros,
      SAFE_CAST(JSON_VALUE(seller__id__text, '$') AS INT64) AS seller__id,
      JSON_VALUE(seller__address__city__text, '$') AS seller__address__city,
      JSON_VALUE(order__text, '$') AS `order`,
      IF(STARTS_WITH(_params, '{') AND (LENGTH(_params) != 1 + IFNULL(10 + IF(STARTS_WITH(seller__text, '{'), 1 + IFNULL(6 + LENGTH(seller__id__text), 0) + IFNULL(11 + IF(STARTS_WITH(seller__address__text, '{'), 1 + IFNULL(8 + LENGTH(seller__address__city__text), 0), LENGTH(seller__address__text)), 0), LENGTH(seller__text)), 0) + IFNULL(9 + LENGTH(order__text), 0)), TO_JSON_STRING(JSON_REMOVE(JSON_REMOVE(PARSE_JSON(_params, wide_number_mode => 'round'), '$.seller'), '$.order')), NULL) AS _params_own,
      IF(STARTS_WITH(seller__text, '{') AND LENGTH(seller__text) != IF(STARTS_WITH(seller__text, '{'), 1 + IFNULL(6 + LENGTH(seller__id__text), 0) + IFNULL(11 + IF(STARTS_WITH(seller__address__text, '{'), 1 + IFNULL(8 + LENGTH(seller__address__city__text), 0), LENGTH(seller__address__text)), 0), LENGTH(seller__text)), TO_JSON_STRING(JSON_REMOVE(JSON_REMOVE(PARSE_JSON(seller__text, wide_number_mode => 'round'), '$.id'), '$.address')), NULL) AS seller__text_own,
      IF(STARTS_WITH(seller__address__text, '{') AND LENGTH(seller__address__text) != IF(STARTS_WITH(seller__address__text, '{'), 1 + IFNULL(8 + LENGTH(seller__address__city__text), 0), LENGTH(seller__address__text)), TO_JSON_STRING(JSON_REMOVE(PARSE_JSON(seller__address__text, wide_number_mode => 'round'), '$.city')), NULL) AS seller__address__text_own
    FROM fields
  )
SELECT
  event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour,
  CASE
    WHEN sent_at IS NULL THEN event_time
    WHEN _micros BETWEEN UNIX_MICROS(TIMESTAMP '0001-01-01 00:00:00+00') AND UNIX_MICROS(TIMESTAMP '9999-12-31 23:59:59.999999+00') THEN TIMESTAMP_MICROS(_micros)
  END AS occurred_at,
  seller__id, seller__address__city, `order`, 
  IF(_params_own IS NULL, NULL, PARSE_JSON(NULLIF(CONCAT('{', ARRAY_TO_STRING([NULLIF(SUBSTR(_params_own, 2, LENGTH(_params_own) - 2), ''), CONCAT('"seller":', NULLIF(CONCAT('{', ARRAY_TO_STRING([NULLIF(SUBSTR(seller__text_own, 2, LENGTH(seller__text_own) - 2), ''), CONCAT('"address":', NULLIF(seller__address__text_own, '{}'))], ','), '}'), '{}'))], ','), '}'), '{}'), wide_number_mode => 'round')) AS _extra,
  (STARTS_WITH(seller__text, '{'))
    AND (IFNULL(seller__text, 'null') = 'null' OR (CAST(seller__id AS STRING) = JSON_VALUE(seller__id__text, '$') OR seller__id__text = '-0'))
    AND (IFNULL(SUBSTR(seller__address__text, 1, 1), 'n') IN ('{', 'n'))
    AND (IFNULL(seller__address__text, 'null') = 'null' OR STARTS_WITH(seller__address__city__text, '"'))
    AND (IFNULL(SUBSTR(order__text, 1, 1), 'n') IN ('"', 'n')) AS _valid__
FROM typed;

BEGIN TRANSACTION;

DELETE FROM `shop.events.nested_thing_test` AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO `shop.events.nested_thing_test`
  (event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, seller__id, seller__address__city, `order`, _extra)
SELECT event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, seller__id, seller__address__city, `order`, _extra
FROM judged
WHERE _valid__;

COMMIT TRANSACTION;
