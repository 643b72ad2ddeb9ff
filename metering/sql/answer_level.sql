-- time_weighted_sum of levels: every event sets the level, which lasts until the next one or the end of the service period.
-- At one instant the last in order wins, because the others last no time. The level at the start is what history left, if
-- the meter carries it. Billionths of a unit times microseconds are whole numbers; the division comes once, at the end.
INSERT INTO answer
WITH changed AS (
    SELECT
        span.span_id,
        selector.selector_set,
        selector.selector_id,
        selection.group_key,
        selection.cell_key,
        1 AS event_count,
        event.event_time AS since,
        event.recorded_at,
        event.producer_id,
        event.segment,
        event.row,
        event.quantity
    FROM usage_event AS event
    JOIN span
        ON span.tenant_id = event.tenant_id
        AND event.event_time >= span.service_start
        AND event.event_time < span.service_end
    JOIN selector
        ON selector.selector_set = span.selector_set AND selector.meter = event.meter AND selector.way = 'level'
    JOIN selection
        ON selection.selector_set = selector.selector_set
        AND selection.selector_id = selector.selector_id
        AND selection.attributes = coalesce(event.attributes, '{}')
    UNION ALL
    SELECT
        selected.span_id,
        selected.selector_set,
        selected.selector_id,
        selected.group_key,
        selected.cell_key,
        0 AS event_count,
        any_value(span.service_start) AS since,
        NULL AS recorded_at,
        NULL AS producer_id,
        NULL AS segment,
        NULL AS row,
        max(selected.last_event).quantity AS quantity
    FROM selected
    JOIN span USING (span_id)
    WHERE selected.way = 'level' AND selected.part = 'carried'
    GROUP BY selected.span_id, selected.selector_set, selected.selector_id, selected.group_key, selected.cell_key
),
lasting AS (
    SELECT
        changed.*,
        span.period_start,
        span.period_end,
        epoch_us(lead(changed.since, 1, span.service_end) OVER (
            PARTITION BY changed.span_id, changed.selector_id, changed.group_key, changed.cell_key
            ORDER BY changed.since, changed.event_count, changed.recorded_at, changed.producer_id, changed.segment, changed.row
        )) - epoch_us(changed.since) AS lasting_us
    FROM changed
    JOIN span USING (span_id)
)
SELECT
    lasting.span_id,
    lasting.selector_id,
    lasting.group_key,
    lasting.cell_key,
    sum(lasting.event_count)::BIGINT AS event_count,
    from_billionths(
        divide_half_away(
            sum((lasting.quantity * 1000000000)::HUGEINT * lasting.lasting_us)::HUGEINT,
            any_value(coalesce(selector.per_us, epoch_us(lasting.period_end) - epoch_us(lasting.period_start)))::HUGEINT
        )
    ) AS quantity
FROM lasting
JOIN selector USING (selector_set, selector_id)
GROUP BY lasting.span_id, lasting.selector_id, lasting.group_key, lasting.cell_key
