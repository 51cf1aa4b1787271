-- no_thing_test 1.0: accepted events, one row each.
CREATE TEMP TABLE judged AS
WITH
  duplicate AS (
    SELECT hour, file, line
    FROM `shop.events.duplicates`
    WHERE event = 'no_thing_test' AND hour >= @start AND hour < @end
  ),
  fresh AS (
    SELECT r.event_id, r.event, r.received_at, r.hour, r.payload
    FROM `shop.events_raw.received` AS r
    LEFT JOIN duplicate AS d ON d.hour = r.hour AND d.file = r.file AND d.line = r.line
    WHERE r.event = 'no_thing_test' AND r.hour >= @start AND r.hour < @end
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
      JSON_QUERY(payload, '$.params') AS _params
    FROM fresh
  ),
  typed AS (  -- the values; NULL where a text has not the form of the type
    SELECT *,
      UNIX_MICROS(event_time) + UNIX_MICROS(received_at) - UNIX_MICROS(sent_at) AS _micros,
      IF(STARTS_WITH(_params, '{') AND (LENGTH(_params) != 1), TO_JSON_STRING(PARSE_JSON(_params, wide_number_mode => 'round')), NULL) AS _params_own
    FROM fields
  )
SELECT
  event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour,
  CASE
    WHEN sent_at IS NULL THEN event_time
    WHEN _micros BETWEEN UNIX_MICROS(TIMESTAMP '0001-01-01 00:00:00+00') AND UNIX_MICROS(TIMESTAMP '9999-12-31 23:59:59.999999+00') THEN TIMESTAMP_MICROS(_micros)
  END AS occurred_at,
  
  IF(_params_own IS NULL, NULL, PARSE_JSON(NULLIF(_params_own, '{}'), wide_number_mode => 'round')) AS _extra,
  TRUE AS _valid__
FROM typed;

BEGIN TRANSACTION;

DELETE FROM `shop.events.no_thing_test` AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO `shop.events.no_thing_test`
  (event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, _extra)
SELECT event_id, event, event_time, sent_at, user_id, device_id, session_id, platform, app_version, received_at, hour, occurred_at, _extra
FROM judged
WHERE _valid__;

COMMIT TRANSACTION;
