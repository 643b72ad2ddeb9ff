-- Usage: how much of what was used. One row per (span, selector, group, cell); units of the meter, decimal(38, 9), exact.
-- A selector without group keys, cells and buckets always has its row, with quantity 0 when there was no event; others
-- have rows only for what has an event. The cell key of a bucket is its start in UTC, also of the calendar's bucket that
-- began before the span. Max, min and last of nothing are 0. Negative results stay visible here.
CREATE OR REPLACE TABLE usage AS
WITH state AS (
    SELECT '' AS part, NULL::TIMESTAMPTZ AS part_start, usage_state.* FROM usage_state
    UNION ALL
    SELECT * FROM part_state
),
selected AS (
    SELECT
        span.span_id,
        selector.selector_id,
        selector.aggregation,
        selector.unique_attribute,
        selection.group_key,
        CASE
            WHEN selector.bucket IS NULL THEN selection.cell_key
            ELSE strftime(state.part_start, '%Y-%m-%dT%H:%M:%SZ')
        END AS cell_key,
        state.* EXCLUDE (span_id)
    FROM state
    JOIN span USING (span_id)
    JOIN selector ON selector.selector_set = span.selector_set AND selector.meter = state.meter
    JOIN selector_part
        ON selector_part.selector_set = selector.selector_set
        AND selector_part.selector_id = selector.selector_id
        AND selector_part.part = state.part
    JOIN selection
        ON selection.selector_set = selector.selector_set
        AND selection.selector_id = selector.selector_id
        AND selection.attributes = state.attributes
),
taken AS (
    SELECT
        span_id,
        selector_id,
        group_key,
        cell_key,
        sum(event_count) AS event_count,
        sum(quantity_sum) AS quantity_sum,
        max(quantity_max) AS quantity_max,
        min(quantity_min) AS quantity_min,
        max(last_event).quantity AS quantity_last
    FROM selected
    GROUP BY ALL
),
distinct_values AS (
    SELECT
        selected.span_id,
        selected.selector_id,
        selected.group_key,
        selected.cell_key,
        count(DISTINCT present.value) AS unique_count
    FROM selected
    JOIN attribute_value AS present
        ON present.attributes = selected.attributes AND present.attribute = selected.unique_attribute
    WHERE selected.aggregation = 'unique_count'
    GROUP BY ALL
)
SELECT
    span.span_id,
    selector.selector_id,
    selector.meter,
    coalesce(taken.group_key, '') AS group_key,
    coalesce(taken.cell_key, '') AS cell_key,
    coalesce(taken.event_count, 0)::BIGINT AS event_count,
    coalesce(
        CASE selector.aggregation
            WHEN 'count' THEN taken.event_count::DECIMAL(38, 9)
            WHEN 'sum' THEN taken.quantity_sum
            WHEN 'max' THEN taken.quantity_max
            WHEN 'min' THEN taken.quantity_min
            WHEN 'last' THEN taken.quantity_last
            WHEN 'unique_count' THEN distinct_values.unique_count::DECIMAL(38, 9)
        END,
        0
    )::DECIMAL(38, 9) AS quantity
FROM span
JOIN selector USING (selector_set)
LEFT JOIN taken ON taken.span_id = span.span_id AND taken.selector_id = selector.selector_id
LEFT JOIN distinct_values
    ON distinct_values.span_id = taken.span_id
    AND distinct_values.selector_id = taken.selector_id
    AND distinct_values.group_key = taken.group_key
    AND distinct_values.cell_key = taken.cell_key
WHERE taken.span_id IS NOT NULL
    OR (len(selector.group_attributes) = 0 AND len(selector.cell_attributes) = 0 AND selector.bucket IS NULL)
