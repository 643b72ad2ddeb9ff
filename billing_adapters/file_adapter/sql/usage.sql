-- USAGE as finance reads it: what each price of each subscription counted in the billing periods being invoiced.
-- One row per (tenant, meter, subscription, billing period, price, group). Quantities are those of the meter, before any
-- price; prices that are not due yet are here too. A price that groups by nothing has no attributes.
SELECT
    billing_span.tenant_id,
    usage.meter,
    price.unit,
    billing_span.account_id,
    billing_span.subscription_id,
    billing_span.plan,
    billing_span.plan_version,
    price.price_id,
    nullif(usage.group_key, '') AS attributes,
    billing_span.period_start AS billing_period_start,
    billing_span.period_end AS billing_period_end,
    billing_span.service_start AS service_period_start,
    billing_span.service_end AS service_period_end,
    usage.event_count,
    usage.quantity
FROM usage
JOIN billing_span USING (span_id)
JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = usage.selector_id
WHERE billing_span.is_current
ORDER BY ALL
