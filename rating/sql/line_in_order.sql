-- The lines of this close in their order on paper, in numbers only. One row per line to book: the number of its invoice, and
-- its position there. Spans are put in order once, so that lines are compared by numbers first.
-- A line that is worth nothing any more goes to the account, and stands where, it was booked.
CREATE OR REPLACE TABLE line_in_order AS
WITH gone AS (
    SELECT booked_line.*
    FROM booked_line
    JOIN line_to_book USING (span_id, price_id, group_key)
    WHERE NOT line_to_book.is_worth
),
place AS (
    SELECT
        span_id,
        price_id,
        group_key,
        dense_rank() OVER (ORDER BY account_id, currency) AS invoice_number,
        dense_rank() OVER (ORDER BY tenant_id, subscription_id, period_start DESC, service_start) AS span_position
    FROM (
        SELECT
            span_id, NULL AS price_id, NULL AS group_key, account_id, currency, tenant_id, subscription_id, period_start,
            service_start
        FROM billing_span
        UNION ALL
        SELECT
            span_id, price_id, group_key, account_id, currency, tenant_id, subscription_id, period_start, service_start
        FROM gone
    )
),
placed AS (
    SELECT
        line.*,
        place.invoice_number,
        place.span_position,
        coalesce(price.position, minimum.position, 1000000) AS price_position
    FROM line_to_book AS line
    JOIN place ON place.span_id = line.span_id AND place.price_id IS NULL
    JOIN billing_span ON billing_span.span_id = line.span_id
    LEFT JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = line.price_id
    LEFT JOIN minimum ON minimum.span_id = line.span_id AND minimum.minimum_id = line.price_id
    WHERE line.is_worth
    UNION ALL
    SELECT line.*, place.invoice_number, place.span_position, 1000000 AS price_position
    FROM line_to_book AS line
    JOIN place USING (span_id, price_id, group_key)
    WHERE NOT line.is_worth
)
SELECT
    placed.*,
    row_number() OVER () AS line_number,
    row_number() OVER (
        PARTITION BY invoice_number ORDER BY span_position, price_position, price_id, group_key
    ) AS position
FROM placed
