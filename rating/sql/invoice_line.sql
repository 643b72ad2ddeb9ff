-- INVOICE_LINE: the lines of this close in their order on paper. One row per line; ids are hashes of what makes the line
-- unique, so that whoever computes this close computes the same ids.
CREATE OR REPLACE TABLE invoice_line AS
WITH invoice AS (
    SELECT
        account_id,
        currency,
        'inv-' || left(sha256(concat_ws(chr(31), $close_id, account_id, currency)), 24) AS invoice_id
    FROM (SELECT DISTINCT account_id, currency FROM line_to_book)
),
-- Spans are put in order once, so that lines are compared by numbers first.
span_in_order AS (
    SELECT
        span_id,
        row_number() OVER (ORDER BY tenant_id, subscription_id, period_start DESC, service_start) AS span_position,
        concat_ws(chr(31), subscription_id, epoch_us(period_start)::VARCHAR, epoch_us(service_start)::VARCHAR) AS span_text
    FROM (SELECT DISTINCT span_id, tenant_id, subscription_id, period_start, service_start FROM line_to_book)
)
SELECT
    line.*,
    invoice.invoice_id,
    'line-' || left(
        sha256(concat_ws(chr(31), invoice.invoice_id, span_in_order.span_text, line.price_id, line.group_key)), 24
    ) AS line_id,
    row_number() OVER (
        PARTITION BY invoice.invoice_id
        ORDER BY span_in_order.span_position, line.price_position, line.price_id, line.group_key
    ) AS position
FROM line_to_book AS line
JOIN invoice USING (account_id, currency)
JOIN span_in_order USING (span_id)
