-- The largest differences of matching, of every status but `match`. One row per (key, currency), at most $rows per status.
SELECT * EXCLUDE (place)
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY status
            ORDER BY abs(coalesce(amount_difference, 0)) DESC, abs(coalesce(quantity_difference, 0)) DESC, key, currency
        ) AS place
    FROM matched
    WHERE status <> 'match'
)
WHERE place <= $rows
ORDER BY status, place
