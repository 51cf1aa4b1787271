-- Notes from which manifest each hour of the range was loaded; an hour loaded again is what makes later hours due.
BEGIN TRANSACTION;

DELETE FROM {loads} AS t
WHERE t.hour >= @start AND t.hour < @end;

INSERT INTO {loads} (hour, landing_digest, loaded_at)
SELECT landing.hour, landing.digest, CURRENT_TIMESTAMP()
FROM UNNEST(@landing) AS landing
WHERE landing.hour >= @start AND landing.hour < @end;

COMMIT TRANSACTION;
