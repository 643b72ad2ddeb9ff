-- Usage events that are not billed because they were told too late. One row per event; none until somebody refuses some.
CREATE OR REPLACE TABLE late_event (producer_id VARCHAR, segment BIGINT, row INTEGER, tenant_id VARCHAR)
