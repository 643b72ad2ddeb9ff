-- DEAD_LETTER compares the rows that were recorded with those that passed every check: what was refused, and why.
-- Catches a deployment that breaks a field. Class AT_RISK: correct the rows and replay them; the next invoice books them.
-- Acts: ENG. One row per (tenant, meter, reason of the refusal); null where the name itself could not be read.
SELECT
    nullif(tenant_id, '') AS tenant_id,
    nullif(meter, '') AS meter,
    reason,
    count(*) AS rows,
    sum(quantity)::DECIMAL(38, 9) AS quantity_difference,
    count(DISTINCT (producer_id, segment)) || ' segment(s), first ' || min(producer_id || ' #' || segment) AS detail
FROM dead_lettered
GROUP BY dead_lettered.tenant_id, dead_lettered.meter, reason
ORDER BY ALL
