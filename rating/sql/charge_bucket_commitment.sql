-- What is promised for every bucket of time: beyond the amount a bucket is dearer by its factor (part `bucket_overage`), and what
-- is missing in a bucket that is over is owed (part `bucket_shortfall`), also in one without any use. A bucket is partial at the
-- edges of the service and promises the whole amount. One row per (span, price, part). Source: price models, section 4.2.
INSERT INTO charge
WITH bucket AS (
    SELECT
        *,
        lead(bucket_start) OVER (PARTITION BY part, timezone ORDER BY bucket_start) AS next_start,
        strftime(bucket_start, '%Y-%m-%dT%H:%M:%SZ') AS cell_key
    FROM time_bucket
),
promised AS (
    SELECT
        span.span_id,
        price.price_id,
        price.committed,
        price.overage,
        price.is_trued_up,
        bucket.cell_key,
        least(coalesce(bucket.next_start, span.service_end), span.service_end) AS bucket_end
    FROM span
    JOIN billing_span USING (span_id)
    JOIN price ON price.plan_key = billing_span.plan_key AND price.committed IS NOT NULL
    JOIN bucket
        ON bucket.part = price.bucket
        AND bucket.timezone = span.timezone
        AND bucket.bucket_start < span.service_end
        AND coalesce(bucket.next_start, span.service_end) > span.service_start
    WHERE price.due = 'any' OR billing_span.period_end <= $as_of
),
spent AS (
    SELECT span_id, price_id, cell_key, sum(exact_amount)::DECIMAL(38, 21) AS amount
    FROM charge
    GROUP BY ALL
),
compared AS (
    SELECT promised.*, (coalesce(spent.amount, 0) - promised.committed)::DECIMAL(38, 21) AS beyond
    FROM promised
    LEFT JOIN spent USING (span_id, price_id, cell_key)
)
SELECT
    span_id,
    price_id,
    '' AS group_key,
    '' AS cell_key,
    0 AS tier,
    'bucket_overage' AS part,
    count(*)::DECIMAL(38, 9) AS quantity,
    0 AS unit_price,
    sum(ratio_of(beyond, overage))::DECIMAL(38, 21) AS exact_amount
FROM compared
WHERE beyond > 0 AND overage > 0
GROUP BY span_id, price_id
UNION ALL
SELECT
    span_id,
    price_id,
    '' AS group_key,
    '' AS cell_key,
    0 AS tier,
    'bucket_shortfall' AS part,
    count(*)::DECIMAL(38, 9) AS quantity,
    0 AS unit_price,
    -sum(beyond)::DECIMAL(38, 21) AS exact_amount
FROM compared
WHERE beyond < 0 AND is_trued_up AND bucket_end <= $as_of
GROUP BY span_id, price_id
