-- control: TRAFFIC_WITHOUT_METER
-- version: 1
-- point: P0
-- compares: the tenants and meters that a witness saw in use with those that were ever metered in the period
-- catches: a code path without a meter call: what was never emitted, no figure of ours can betray
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: find the code path that serves this tenant and does not record
-- cadence: delivery
-- setting: ratio = 1 units that are metered for each that the witness counts
-- setting: count_min = 1 below which the witness may be a health check
-- needs: witness
-- needs: stored_once
-- needs: dead_lettered
-- needs: break_of_segment
SELECT
    seen.tenant_id,
    seen.meter,
    'never_metered' AS reason,
    (sum(seen.count) * $ratio)::DECIMAL(38, 9) AS quantity_expected,
    0::DECIMAL(38, 9) AS quantity_actual,
    (sum(seen.count) * $ratio)::DECIMAL(38, 9) AS quantity_difference,
    min(seen.bucket_start) AS occurred_at,
    'the witness counts ' || sum(seen.count) || ' from ' || strftime(min(seen.bucket_start), '%Y-%m-%d') || ' to '
        || strftime(max(seen.bucket_start), '%Y-%m-%d') AS detail
FROM witness AS seen
ANTI JOIN (
    SELECT tenant_id, meter
    FROM stored_once
    WHERE event_time >= $start_instant AND event_time < $end_instant
    UNION ALL
    SELECT tenant_id, meter FROM dead_lettered
    UNION ALL
    SELECT tenant_id, meter FROM break_of_segment
) AS told USING (tenant_id, meter)
WHERE seen.bucket_start >= $start_instant AND seen.bucket_start < $end_instant
GROUP BY seen.tenant_id, seen.meter
HAVING sum(seen.count) >= $count_min
ORDER BY ALL
