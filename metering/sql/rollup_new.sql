-- ROLLUP: mergeable states. One row per (tenant, meter, attributes, cell of time), perhaps more than one: states add up.
CREATE OR REPLACE TABLE rollup_new (
    tenant_id VARCHAR NOT NULL,
    meter VARCHAR NOT NULL,
    attributes VARCHAR NOT NULL,
    cell_start TIMESTAMPTZ NOT NULL,
    cell_end TIMESTAMPTZ NOT NULL,
    event_count BIGINT NOT NULL,
    quantity_sum DECIMAL(38, 9) NOT NULL,
    quantity_max DECIMAL(38, 9) NOT NULL,
    quantity_min DECIMAL(38, 9) NOT NULL
)
