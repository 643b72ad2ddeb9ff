-- Whether a provider reports usage by days. One row, none where it has no list of usage.
SELECT max("end" - start) >= INTERVAL 1 DAY AS is_daily
FROM provider_quantity
WHERE adapter = $adapter
GROUP BY adapter
