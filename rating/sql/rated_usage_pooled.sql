-- The quantities of prices whose groups share something: one pool of included units, or one set of tiers. Grain as rated_usage.
-- Also of prices that give a part of a period its share of the included units, or include what grants cover, and of those that
-- price the largest group only (of equal ones the first key): the others are shown, and what they are is included.
-- Groups take from the pool, and climb the tiers, in the order of their keys; each bucket of time begins anew.
INSERT INTO rated_usage BY NAME
WITH converted AS (
    SELECT
        usage.span_id,
        price.plan_key,
        price.price_id,
        price.price_type,
        usage.group_key,
        usage.cell_key,
        usage.event_count,
        convert_quantity(
            greatest(usage.quantity, 0)::DECIMAL(38, 9),
            price.convert_numerator::HUGEINT,
            price.convert_denominator::HUGEINT,
            price.convert_step::HUGEINT,
            price.convert_rounding
        ) AS converted_quantity,
        coalesce(included_share.included, price.included, 0) AS included,
        price.included_is_pooled,
        price.tiers_are_pooled,
        price.priced_is_largest,
        price.tiers_end
    FROM usage_to_rate AS usage
    JOIN billing_span USING (span_id)
    JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = usage.selector_id
    LEFT JOIN included_share
        ON included_share.span_id = usage.span_id
        AND included_share.price_id = price.price_id
        AND price.included_is_by_span
    WHERE (price.due = 'any' OR (price.due = 'end' AND billing_span.period_end <= $as_of))
        AND price.is_pooled
),
taken AS (
    SELECT
        *,
        coalesce(sum(converted_quantity) OVER earlier_groups, 0) AS converted_before,
        CASE WHEN included_is_pooled THEN greatest(included - converted_before, 0) ELSE included END AS included_left,
        least(converted_quantity, included_left)::DECIMAL(38, 9) AS included_quantity,
        (converted_quantity - included_quantity)::DECIMAL(38, 9) AS quantity
    FROM converted
    WINDOW earlier_groups AS (
        PARTITION BY span_id, price_id, cell_key
        ORDER BY group_key
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
climbed AS (
    SELECT
        *,
        coalesce(sum(quantity) OVER earlier_groups, 0) AS quantity_before,
        sum(quantity) OVER (PARTITION BY span_id, price_id, cell_key) AS quantity_of_all,
        row_number() OVER (PARTITION BY span_id, price_id, cell_key ORDER BY group_key) AS place,
        NOT priced_is_largest
        OR row_number() OVER (PARTITION BY span_id, price_id, cell_key ORDER BY quantity DESC, group_key) = 1 AS is_priced
    FROM taken
    WINDOW earlier_groups AS (
        PARTITION BY span_id, price_id, cell_key
        ORDER BY group_key
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
)
SELECT
    span_id,
    plan_key,
    price_id,
    price_type,
    group_key,
    cell_key,
    event_count,
    converted_quantity,
    CASE WHEN is_priced THEN included_quantity ELSE converted_quantity END::DECIMAL(38, 9) AS included_quantity,
    CASE
        WHEN tiers_are_pooled THEN greatest(least(quantity, coalesce(tiers_end - quantity_before, quantity)), 0)
        WHEN is_priced THEN least(quantity, coalesce(tiers_end, quantity))
        ELSE 0
    END::DECIMAL(38, 9) AS quantity,
    CASE WHEN tiers_are_pooled THEN quantity_before ELSE 0 END::DECIMAL(38, 9) AS tiers_from,
    least(
        CASE WHEN tiers_are_pooled THEN quantity_of_all WHEN is_priced THEN climbed.quantity ELSE 0 END,
        coalesce(tiers_end, quantity_of_all)
    )::DECIMAL(38, 9) AS tiers_reached,
    is_priced AND (NOT tiers_are_pooled OR place = 1) AS is_first_group
FROM climbed
