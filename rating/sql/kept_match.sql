-- The spans that are asked for beside those that were kept under the very same terms. One row per span of either; a span
-- without a slot is new or has other terms now, a slot without a span is not asked for any more.
CREATE OR REPLACE TABLE kept_match AS
SELECT asked.span_id, kept.slot, coalesce(asked.tenant_id, kept.tenant_id) AS tenant_id
FROM asked_span AS asked
FULL OUTER JOIN kept_span AS kept
    ON kept.subscription_id = asked.subscription_id
    AND kept.tenant_id = asked.tenant_id
    AND kept.account_id = asked.account_id
    AND kept.terms = asked.terms
