-- What was metered, of what a witness counted of the same tenants, meters and hours: one row, none without a witness. What is metered
-- beyond what the witness saw of one tenant does not make up for what is missing of another. `ratio` as in WITNESS_RATIO.
WITH seen AS (
    SELECT tenant_id, meter, (sum(count) * $ratio)::DECIMAL(38, 9) AS expected
    FROM witness
    WHERE bucket_start >= $start_instant AND bucket_start < $end_instant
    GROUP BY ALL
),
watched AS (
    SELECT min(bucket_start) AS first_hour, max(bucket_start) + INTERVAL 1 HOUR AS last_hour
    FROM witness
    WHERE bucket_start >= $start_instant AND bucket_start < $end_instant
),
metered AS (
    SELECT tenant_id, meter, sum(quantity) AS quantity
    FROM stored_once
    CROSS JOIN watched
    WHERE event_time >= watched.first_hour AND event_time < watched.last_hour
    GROUP BY ALL
)
SELECT
    NULL::VARCHAR AS currency,
    sum(least(greatest(coalesce(metered.quantity, 0), 0), seen.expected))::DECIMAL(38, 9) AS part,
    sum(seen.expected)::DECIMAL(38, 9) AS whole
FROM seen
LEFT JOIN metered USING (tenant_id, meter)
HAVING count(*) > 0
