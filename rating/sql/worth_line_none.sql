-- WORTH_LINE without a line; see worth_line. One row per (span, price, group) that is due.
CREATE OR REPLACE TABLE worth_line (
    span_id BIGINT, price_id VARCHAR, group_key VARCHAR, event_count BIGINT, quantity DECIMAL(38, 9),
    exact_amount DECIMAL(38, 21), amount DECIMAL(38, 12)
)
