-- Hours and events whose accepted, rejected and duplicate rows do not add up to what was received.
SELECT event, hour, received, accepted, rejected, duplicates
FROM {ledger}
WHERE hour >= @start AND hour < @end AND accepted + rejected + duplicates != received
ORDER BY hour, event
