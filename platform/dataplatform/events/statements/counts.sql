-- What was received, by event and hour, and what of it has found its place; the rest has to be rejected.
WITH
  counted AS (
    SELECT event, hour, COUNT(*) AS received, 0 AS accepted, 0 AS duplicates
    FROM {received}
    WHERE hour >= @start AND hour < @end
    GROUP BY event, hour
    UNION ALL
    SELECT event, hour, 0, 0, COUNT(*)
    FROM {duplicates}
    WHERE hour >= @start AND hour < @end
    GROUP BY event, hour{accepted}
  )
SELECT event, hour, SUM(received) AS received, SUM(accepted) AS accepted, SUM(duplicates) AS duplicates
FROM counted
GROUP BY event, hour
HAVING SUM(received) > 0
ORDER BY event, hour
