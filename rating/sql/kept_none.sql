-- Nothing was kept. The columns of KEPT_SPAN: which slot the worth of a span is kept under, and under which terms.
CREATE OR REPLACE VIEW kept_span AS
SELECT 0::BIGINT AS slot, subscription_id, tenant_id, account_id, terms
FROM asked_span
WHERE false
