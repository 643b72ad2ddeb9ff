-- Usage: how much of what was used. One row per (span, selector, group); units of the meter, decimal(38, 9), exact.
-- A selector without group keys always has its row, with quantity 0 when there was no event; one with group keys has
-- rows only for groups with an event. Max, min and last of nothing are 0. Negative results stay visible here.
CREATE OR REPLACE TABLE usage AS
WITH taken AS (
    SELECT
        span.span_id,
        selection.selector_id,
        selection.group_key,
        sum(state.event_count) AS event_count,
        sum(state.quantity_sum) AS quantity_sum,
        max(state.quantity_max) AS quantity_max,
        min(state.quantity_min) AS quantity_min,
        max(state.last_event).quantity AS quantity_last
    FROM usage_state AS state
    JOIN span USING (span_id)
    JOIN selector ON selector.selector_set = span.selector_set AND selector.meter = state.meter
    JOIN selection
        ON selection.selector_set = selector.selector_set
        AND selection.selector_id = selector.selector_id
        AND selection.attributes = state.attributes
    GROUP BY ALL
),
distinct_values AS (
    SELECT span.span_id, selection.selector_id, selection.group_key, count(DISTINCT present.value) AS unique_count
    FROM usage_state AS state
    JOIN span USING (span_id)
    JOIN selector ON selector.selector_set = span.selector_set AND selector.meter = state.meter
    JOIN selection
        ON selection.selector_set = selector.selector_set
        AND selection.selector_id = selector.selector_id
        AND selection.attributes = state.attributes
    JOIN attribute_value AS present
        ON present.attributes = state.attributes AND present.attribute = selector.unique_attribute
    WHERE selector.aggregation = 'unique_count'
    GROUP BY ALL
)
SELECT
    span.span_id,
    selector.selector_id,
    selector.meter,
    coalesce(taken.group_key, '') AS group_key,
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
WHERE taken.span_id IS NOT NULL OR len(selector.group_attributes) = 0
