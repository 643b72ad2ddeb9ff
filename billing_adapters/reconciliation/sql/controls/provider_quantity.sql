-- control: PROVIDER_QUANTITY
-- version: 1
-- point: P7
-- compares: the quantity that was sent per account, name at the provider and window with what the provider has of it
-- catches: usage that was lost or overwritten at the provider; two workers that tell the same window
-- class: AT_RISK
-- owner: OPS
-- money: E1
-- act: tell the windows again while the provider takes them, else book a correction in a later one
-- cadence: daily
-- needs: quantity_match
SELECT
    min(tenant_id) AS tenant_id,
    account_id,
    coalesce(min(meter), name) AS meter,
    adapter,
    CASE WHEN status = 'timing' THEN 'not_settled' WHEN status = 'only_ours' THEN 'not_there' ELSE 'less_than_sent' END AS reason,
    adapter || ' ' || account_id AS subject,
    count(*) AS rows,
    sum(our_quantity)::DECIMAL(38, 9) AS quantity_expected,
    sum(coalesce(their_quantity, 0))::DECIMAL(38, 9) AS quantity_actual,
    sum(abs(quantity_match.quantity_difference))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN status = 'timing' THEN 'TIMING' ELSE 'AT_RISK' END AS class,
    min(start) AS occurred_at,
    min(recover_by) AS recover_by,
    count(*) || ' window(s), first ' || min(strftime(start, '%Y-%m-%dT%H:%MZ') || ': we sent ' || coalesce(our_quantity, 0)
        || ', they have ' || coalesce(their_quantity, 0)) AS detail
FROM quantity_match
WHERE status = 'timing' OR (status IN ('only_ours', 'quantity_differs') AND quantity_match.quantity_difference < 0)
GROUP BY account_id, name, adapter, status
ORDER BY ALL
