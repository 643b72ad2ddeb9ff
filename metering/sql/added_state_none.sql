-- States that add up, whatever the order of their events. One row per (span, meter, attributes), perhaps more than one.
-- Empty until rollups and events are added.
CREATE OR REPLACE TABLE added_state (
    span_id BIGINT NOT NULL,
    meter VARCHAR NOT NULL,
    attributes VARCHAR NOT NULL,
    event_count BIGINT NOT NULL,
    quantity_sum DECIMAL(38, 9) NOT NULL,
    quantity_max DECIMAL(38, 9) NOT NULL,
    quantity_min DECIMAL(38, 9) NOT NULL
)
