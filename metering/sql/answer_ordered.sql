-- What depends on the order of events or on their times: first, last, and the sum of changes of a level over time.
-- The mean over time divides once, at the end, by the full billing period, also of a part of it.
INSERT INTO answer
WITH taken AS (
    SELECT
        span_id,
        selector_set,
        selector_id,
        group_key,
        cell_key,
        sum(event_count) AS event_count,
        min(first_event).quantity AS quantity_first,
        max(last_event).quantity AS quantity_last,
        sum(level_time)::HUGEINT AS level_time
    FROM selected
    WHERE way = 'ordered'
    GROUP BY ALL
),
measured AS (
    SELECT
        taken.* EXCLUDE (selector_set),
        selector.aggregation,
        coalesce(selector.per_us, epoch_us(span.period_end) - epoch_us(span.period_start))::HUGEINT AS divisor
    FROM taken
    JOIN span USING (span_id)
    JOIN selector
        ON selector.selector_set = taken.selector_set AND selector.selector_id = taken.selector_id
)
SELECT
    span_id,
    selector_id,
    group_key,
    cell_key,
    event_count::BIGINT AS event_count,
    CASE aggregation
        WHEN 'first' THEN quantity_first
        WHEN 'last' THEN quantity_last
        WHEN 'time_weighted_sum' THEN from_billionths(divide_half_away(level_time, divisor))
    END::DECIMAL(38, 9) AS quantity
FROM measured
