-- What attribution handed to the prices of the period: one row per (account, tenant, meter, currency). A usage event counts once
-- for every price that takes it. Quantities are units of the meter, as aggregated, of the prices that count in these.
-- Due: as in rated_usage; what waits for the end of its period is handed over then.
SELECT
    span.account_id,
    span.tenant_id,
    usage.meter,
    span.currency,
    sum(usage.event_count)::BIGINT AS event_count,
    coalesce(sum(greatest(usage.quantity, 0)) FILTER (as_metered.price_id IS NOT NULL), 0)::DECIMAL(38, 9) AS quantity
FROM usage
JOIN billing_span AS span USING (span_id)
JOIN price ON price.plan_key = span.plan_key AND price.price_id = usage.selector_id
LEFT JOIN price_as_metered AS as_metered ON as_metered.plan_key = price.plan_key AND as_metered.price_id = price.price_id
WHERE span.is_current AND (price.due = 'any' OR span.period_end <= $as_of)
GROUP BY ALL
HAVING sum(usage.event_count) > 0
ORDER BY ALL
