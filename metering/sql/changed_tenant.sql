-- The tenants of whom one snapshot has an event that the other has not. One row per tenant.
-- `cut` and `cut_before` are the two; a producer that is not in a cut has no segment there.
SELECT DISTINCT event.tenant_id
FROM data_file AS event
LEFT JOIN cut ON cut.producer_id = event.producer_id
LEFT JOIN cut_before ON cut_before.producer_id = event.producer_id
WHERE (event.segment <= coalesce(cut.last_segment, -1)) <> (event.segment <= coalesce(cut_before.last_segment, -1))
ORDER BY event.tenant_id
