-- INVOICE_LINE: the lines of this close with all their words. One row per line; ids are hashes of what makes the line unique,
-- so that whoever computes this close computes the same ids. A view: words are put to the numbers only where they are read.
-- What is worth something has the words of its span and price, what is not any more those it was booked with.
CREATE OR REPLACE VIEW invoice_line AS
WITH worded AS (
    SELECT
        line.*,
        coalesce(span.subscription_id, booked.subscription_id) AS subscription_id,
        coalesce(span.period_start, booked.period_start) AS period_start,
        coalesce(span.service_start, booked.service_start) AS service_start,
        coalesce(span.currency, booked.currency) AS currency,
        coalesce(span.tenant_id, booked.tenant_id) AS tenant_id,
        coalesce(span.account_id, booked.account_id) AS account_id,
        coalesce(span.plan, booked.plan) AS plan,
        coalesce(span.plan_version, booked.plan_version) AS plan_version,
        coalesce(
            price.price_type, CASE WHEN minimum.minimum_id IS NOT NULL THEN 'minimum' END, booked.price_type
        ) AS price_type,
        coalesce(price.meter, booked.meter) AS meter,
        coalesce(price.unit, booked.unit) AS unit,
        coalesce(price.description, minimum.description, booked.description) AS description,
        coalesce(span.period_end, booked.period_end) AS period_end,
        coalesce(span.service_end, booked.service_end) AS service_end
    FROM line_in_order AS line
    LEFT JOIN billing_span AS span ON span.span_id = line.span_id AND line.is_worth
    LEFT JOIN price ON price.plan_key = span.plan_key AND price.price_id = line.price_id
    LEFT JOIN minimum ON minimum.span_id = span.span_id AND minimum.minimum_id = line.price_id
    LEFT JOIN booked_line AS booked
        ON booked.span_id = line.span_id AND booked.price_id = line.price_id AND booked.group_key = line.group_key
),
invoice AS (
    SELECT
        account_id,
        currency,
        'inv-' || left(sha256(concat_ws(chr(31), close_id, account_id, currency)), 24) AS invoice_id
    FROM (
        SELECT account_id, currency FROM billing_span
        UNION
        SELECT account_id, currency FROM booked_line
    )
    JOIN invoice_close ON true
)
SELECT
    worded.*,
    CASE
        WHEN NOT worded.is_current THEN 'correction'
        WHEN worded.price_type IN ('flat', 'minimum') THEN worded.price_type
        ELSE 'usage'
    END AS kind,
    invoice.invoice_id,
    'line-' || left(
        sha256(
            concat_ws(
                chr(31),
                invoice.invoice_id,
                worded.subscription_id,
                epoch_us(worded.period_start)::VARCHAR,
                epoch_us(worded.service_start)::VARCHAR,
                worded.price_id,
                worded.group_key
            )
        ),
        24
    ) AS line_id
FROM worded
JOIN invoice USING (account_id, currency)
