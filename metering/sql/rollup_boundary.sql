-- The instants at which spans begin or end, and how many of them. One row per instant.
SELECT boundary, count(*) AS spans
FROM (
    SELECT service_start AS boundary FROM span
    UNION ALL
    SELECT service_end FROM span
)
GROUP BY boundary
ORDER BY spans DESC, boundary
LIMIT 64
