-- INVOICE_LINE: the lines of this close in their order on paper. One row per line; ids are hashes of what makes the line
-- unique, so that whoever computes this close computes the same ids.
CREATE OR REPLACE TABLE invoice_line AS
WITH identified AS (
    SELECT
        *,
        'inv-' || left(sha256(concat_ws(chr(31), $close_id, account_id, currency)), 24) AS invoice_id,
        epoch_us(period_start)::VARCHAR AS period_text,
        epoch_us(service_start)::VARCHAR AS service_text
    FROM line_to_book
)
SELECT
    * EXCLUDE (period_text, service_text),
    'line-' || left(
        sha256(concat_ws(chr(31), invoice_id, subscription_id, period_text, service_text, price_id, group_key)), 24
    ) AS line_id,
    row_number() OVER (
        PARTITION BY invoice_id
        ORDER BY tenant_id, subscription_id, period_start DESC, service_start, price_position, price_id, group_key
    ) AS position
FROM identified
