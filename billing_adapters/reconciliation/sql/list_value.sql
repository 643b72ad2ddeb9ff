-- What the billing periods are worth before and after everything that is taken off or added to prices, in exact money.
-- One row per (currency, bucket): `list_value` is what prices say; `discounts` and `maximums` lower it, `commitments` raise it
-- by what was promised and not used, and lower it where use beyond a commitment costs less. Rated value is their sum.
-- For reading only: all of it is from one table, so that it proves nothing.
SELECT
    span.currency,
    CASE
        WHEN charge.part LIKE 'discount:%' THEN 'discounts'
        WHEN charge.part LIKE 'maximum:%' THEN 'maximums'
        WHEN charge.part LIKE 'overage:%' OR charge.part IN ('minimum', 'bucket_shortfall') THEN 'commitments'
        ELSE 'list_value'
    END AS bucket,
    sum(charge.exact_amount) AS amount
FROM charge
JOIN billing_span AS span USING (span_id)
GROUP BY ALL
ORDER BY ALL
