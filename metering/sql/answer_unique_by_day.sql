-- A recurring unique count, prorated by days: per key the dates on which it was in at some time, over the dates of the full
-- billing period, divided once. A key that is in at the end of one date is in on every date until its next event, and on
-- that one too; added and removed on one date is that date; removed and added again on one date is no gap.
INSERT INTO answer
WITH key_day AS (
    SELECT
        selected.span_id,
        selected.selector_id,
        selected.group_key,
        selected.cell_key,
        present.value AS key,
        -- What history left stands as a day before the first one.
        coalesce(time_bucket.day, span_day.first_day - 1) AS day,
        any_value(span_day.last_day) AS last_day,
        any_value(span_day.full_days) AS full_days,
        time_bucket.day IS NULL AS is_carried,
        sum(selected.event_count) AS event_count,
        bool_or(coalesce(operation.value, 'add') <> 'remove') AS is_added,
        max({ordered: selected.last_event, operation: coalesce(operation.value, 'add')}).operation <> 'remove' AS stays
    FROM selected
    JOIN selector USING (selector_set, selector_id)
    JOIN span ON span.span_id = selected.span_id
    JOIN span_day ON span_day.span_id = selected.span_id
    LEFT JOIN time_bucket
        ON time_bucket.part = selected.part
        AND time_bucket.timezone = span.timezone
        AND time_bucket.bucket_start = selected.part_start
    LEFT JOIN attribute_value AS present
        ON present.attributes = selected.attributes AND present.attribute = selector.unique_attribute
    LEFT JOIN attribute_value AS operation
        ON operation.attributes = selected.attributes AND operation.attribute = selector.operation_attribute
    WHERE selected.way = 'unique_by_day'
    GROUP BY ALL
),
followed AS (
    SELECT
        *,
        coalesce(lag(stays) OVER (key_in_order), false) AS was_in,
        lead(day, 1, last_day + 1) OVER (key_in_order) AS next_day
    FROM key_day
    WINDOW key_in_order AS (PARTITION BY span_id, selector_id, group_key, cell_key, key ORDER BY day)
)
SELECT
    span_id,
    selector_id,
    group_key,
    cell_key,
    sum(event_count)::BIGINT AS event_count,
    from_billionths(
        divide_half_away(
            sum(
                CASE WHEN key IS NULL THEN 0 ELSE 1 END
                * (
                    CASE WHEN NOT is_carried AND (is_added OR was_in) THEN 1 ELSE 0 END
                    + CASE WHEN stays THEN next_day - day - 1 ELSE 0 END
                )
            )::HUGEINT * 1000000000,
            any_value(full_days)::HUGEINT
        )
    ) AS quantity
FROM followed
GROUP BY ALL
