-- A recurring sum, prorated by days: what was carried for the days of the service period, and every change from the date of
-- its event to the last date, both ends counted, over the days of the full billing period. Dates are those of the zone.
-- April, carried 10, +6 on the 16th: (10 x 30 + 6 x 15) / 30 = 13.
INSERT INTO answer
WITH weighed AS (
    SELECT
        selected.*,
        (selected.quantity_sum * 1000000000)::HUGEINT
            * (span_day.last_day - coalesce(time_bucket.day, span_day.first_day) + 1) AS billionth_days,
        span_day.full_days
    FROM selected
    JOIN span USING (span_id)
    JOIN span_day USING (span_id)
    LEFT JOIN time_bucket
        ON time_bucket.part = selected.part
        AND time_bucket.timezone = span.timezone
        AND time_bucket.bucket_start = selected.part_start
    WHERE selected.way = 'sum_by_day'
)
SELECT
    span_id,
    selector_id,
    group_key,
    cell_key,
    sum(event_count)::BIGINT AS event_count,
    from_billionths(divide_half_away(sum(billionth_days)::HUGEINT, any_value(full_days)::HUGEINT)) AS quantity
FROM weighed
GROUP BY ALL
