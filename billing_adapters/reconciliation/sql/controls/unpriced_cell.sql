-- control: UNPRICED_CELL
-- version: 1
-- point: P4
-- compares: what a price takes with what it has an amount for
-- catches: a matrix without that cell and without a default, an event whose own price cannot be read, a value without
--     a weight
-- class: AT_RISK
-- owner: FIN, SALES
-- money: E4
-- act: a default, or the missing cell in a new plan version, bills it
-- cadence: close
-- needs: unpriced_usage
-- needs: billing_span
-- needs: price
SELECT
    span.tenant_id,
    price.meter,
    'no_amount_' || unpriced.price_id AS reason,
    sum(unpriced.event_count)::BIGINT AS rows,
    sum(unpriced.quantity)::DECIMAL(38, 9) AS quantity_difference,
    'price ' || unpriced.price_id || ' has no amount at ' || left(min(unpriced.cell_key), 200) AS detail
FROM unpriced_usage AS unpriced
JOIN billing_span AS span USING (span_id)
JOIN price ON price.plan_key = span.plan_key AND price.price_id = unpriced.price_id
WHERE span.is_current
GROUP BY span.tenant_id, price.meter, unpriced.price_id
ORDER BY ALL
