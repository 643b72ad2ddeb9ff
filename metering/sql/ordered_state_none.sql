-- States that need the order of events, or their times: see ordered_state. Empty until a selector asks for some.
CREATE OR REPLACE TABLE ordered_state (
    span_id BIGINT,
    meter VARCHAR,
    attributes VARCHAR,
    event_count BIGINT,
    quantity_sum DECIMAL(38, 9),
    quantity_max DECIMAL(38, 9),
    quantity_min DECIMAL(38, 9),
    first_event STRUCT(
        event_time TIMESTAMPTZ,
        recorded_at TIMESTAMPTZ,
        producer_id VARCHAR,
        segment BIGINT,
        row INTEGER,
        quantity DECIMAL(38, 9)
    ),
    last_event STRUCT(
        event_time TIMESTAMPTZ,
        recorded_at TIMESTAMPTZ,
        producer_id VARCHAR,
        segment BIGINT,
        row INTEGER,
        quantity DECIMAL(38, 9)
    ),
    level_time HUGEINT
)
