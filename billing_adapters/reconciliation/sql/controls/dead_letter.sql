-- control: DEAD_LETTER
-- version: 2
-- point: P2
-- compares: the rows that were recorded with those that passed every check: what was refused, and why
-- catches: a deployment that breaks a field
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: correct the rows and record them again; the next invoice books them
-- cadence: delivery
-- needs: dead_lettered
SELECT
    nullif(tenant_id, '') AS tenant_id,
    nullif(meter, '') AS meter,
    reason,
    count(*) AS rows,
    abs(sum(quantity))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN sum(quantity) < 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    count(*) || ' row(s) were refused: ' || replace(reason, '_', ' ') || '; they are in ' || count(DISTINCT (producer_id, segment))
        || ' segment(s), the first ' || min(producer_id || ' #' || segment) AS detail
FROM dead_lettered
GROUP BY dead_lettered.tenant_id, dead_lettered.meter, reason
ORDER BY ALL
