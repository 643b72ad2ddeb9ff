-- Use that a price takes and has no amount for. Empty until a price that can have such use is rated (unpriced_usage).
CREATE OR REPLACE TABLE unpriced_usage (
    span_id BIGINT, price_id VARCHAR, group_key VARCHAR, cell_key VARCHAR, event_count BIGINT, quantity DECIMAL(38, 9)
)
