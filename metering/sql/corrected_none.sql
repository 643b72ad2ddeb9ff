-- The same as corrected, of events among which none corrects another: nothing is voided or replaced. No row.
CREATE OR REPLACE TABLE corrected (producer_id VARCHAR, segment BIGINT, row INTEGER, tenant_id VARCHAR)
