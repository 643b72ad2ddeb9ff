-- percentage, event by event in the order of time: the first events and the first money are free, and what a charged event
-- is worth is raised to a minimum or cut to a maximum. Source: price models, section 2.3.
-- Open is the allowance of an event while it is one of the first `free_events` and what came before it leaves something of
-- `free_units`; one that is not given is unlimited if the other is, and with neither nothing is free. An event that fits
-- whole into what is left is free; of the first that does not the rest is free, and the allowance is closed for good.
-- The meter has no negative quantities where something is free, so the sums only rise. A plan may read the edge otherwise: the
-- event that ends exactly on the free units is free of its units, and pays the rest (edge_pays).
-- part `limit`: what the limits change, and for how many events.
INSERT INTO charge
WITH ordered AS (
    SELECT
        span.span_id,
        price.price_id,
        selection.group_key,
        event.quantity,
        row_number() OVER earlier AS place,
        sum(event.quantity) OVER earlier AS quantity_so_far,
        price.edge_pays,
        terms.* EXCLUDE (plan_key, price_id)
    FROM usage_event AS event
    JOIN billing_span AS span
        ON span.tenant_id = event.tenant_id
        AND event.event_time >= span.service_start
        AND event.event_time < span.service_end
    JOIN price ON price.plan_key = span.plan_key AND price.meter = event.meter AND price.is_by_event
    JOIN price_percentage AS terms ON terms.plan_key = price.plan_key AND terms.price_id = price.price_id
    JOIN selection
        ON selection.selector_set = span.plan_key
        AND selection.selector_id = price.price_id
        AND selection.attributes = coalesce(event.attributes, '{}')
    SEMI JOIN rated_usage AS due
        ON due.span_id = span.span_id AND due.price_id = price.price_id AND due.group_key = selection.group_key
    WINDOW earlier AS (
        PARTITION BY span.span_id, price.price_id, selection.group_key
        ORDER BY event.event_time, event.recorded_at, event.producer_id, event.segment, event.row
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
),
allowed AS (
    SELECT
        *,
        (free_events IS NOT NULL OR free_units IS NOT NULL) AND place <= coalesce(free_events, place) AS is_open,
        quantity_so_far <= coalesce(free_units, quantity_so_far) AS fits,
        is_open AND fits AND NOT (edge_pays AND quantity_so_far = coalesce(free_units, quantity_so_far + 1)) AS is_free,
        CASE
            WHEN is_open AND fits THEN quantity
            WHEN is_open THEN greatest(free_units - (quantity_so_far - quantity), 0)
            ELSE 0
        END::DECIMAL(38, 9) AS free_quantity
    FROM ordered
),
worked_out AS (
    SELECT
        span_id,
        price_id,
        group_key,
        unit_price,
        fixed_amount,
        free_quantity,
        is_free,
        quantity - free_quantity AS charged_quantity,
        charged_quantity * unit_price + fixed_amount AS plain_amount,
        CASE
            WHEN is_free THEN 0
            ELSE limited_amount(plain_amount, event_minimum, event_maximum) - plain_amount
        END::DECIMAL(38, 21) AS limit_amount
    FROM allowed
),
summed AS (
    SELECT
        span_id,
        price_id,
        group_key,
        unit_price,
        fixed_amount,
        sum(free_quantity) AS free_quantity,
        sum(charged_quantity) AS charged_quantity,
        count_if(NOT is_free)::DECIMAL(38, 9) AS charged_events,
        count_if(worked_out.limit_amount <> 0)::DECIMAL(38, 9) AS limited_events,
        sum(worked_out.limit_amount) AS limit_amount
    FROM worked_out
    GROUP BY ALL
)
SELECT span_id, price_id, group_key, '' AS cell_key, 0 AS tier, 'included' AS part, free_quantity, 0 AS unit_price, 0 AS exact_amount
FROM summed
WHERE free_quantity > 0
UNION ALL
SELECT span_id, price_id, group_key, '', 1, 'unit', charged_quantity, unit_price, charged_quantity * unit_price
FROM summed
WHERE charged_quantity <> 0
UNION ALL
SELECT span_id, price_id, group_key, '', 1, 'fixed', charged_events, fixed_amount, charged_events * fixed_amount
FROM summed
WHERE charged_events > 0 AND fixed_amount <> 0
UNION ALL
SELECT span_id, price_id, group_key, '', 1, 'limit', limited_events, 0, limit_amount
FROM summed
WHERE limit_amount <> 0
