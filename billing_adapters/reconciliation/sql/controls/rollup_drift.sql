-- control: ROLLUP_DRIFT
-- version: 1
-- point: P4
-- compares: what rollups hold of the months of the period with the usage events of the data files that they were made of
-- catches: rollups that are stale or count twice, which invoices of large lakes are made from
-- class: AT_RISK
-- owner: OPS
-- money: E1
-- act: delete the folder `lake/derived` and reconcile again; invoices that were made meanwhile are corrected by the next close
-- cadence: close
-- needs: rollup_total
-- needs: rollup_source_total
SELECT
    tenant_id,
    meter,
    CASE WHEN coalesce(rolled.quantity, 0) > coalesce(source.quantity, 0) THEN 'more_than_stored' ELSE 'less_than_stored' END AS reason,
    abs(coalesce(rolled.rows, 0) - coalesce(source.rows, 0))::BIGINT AS rows,
    coalesce(source.quantity, 0)::DECIMAL(38, 9) AS quantity_expected,
    coalesce(rolled.quantity, 0)::DECIMAL(38, 9) AS quantity_actual,
    abs(coalesce(rolled.quantity, 0) - coalesce(source.quantity, 0))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN coalesce(rolled.quantity, 0) > coalesce(source.quantity, 0) THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    $start_instant AS occurred_at,
    'rollups hold ' || coalesce(rolled.rows, 0) || ' usage events, their data files ' || coalesce(source.rows, 0) AS detail
FROM rollup_total AS rolled
FULL JOIN rollup_source_total AS source USING (tenant_id, meter)
WHERE (rolled.rows, rolled.quantity) IS DISTINCT FROM (source.rows, source.quantity)
ORDER BY ALL
