-- control: DEAD_LETTER_AGED
-- version: 3
-- point: P2
-- compares: when rows were refused with how long they may wait to be corrected and recorded again
-- catches: forgotten suspense: usage that nobody corrects until no provider takes it any more
-- class: AT_RISK
-- owner: OPS, ENG
-- money: E1
-- within: DEAD_LETTER
-- act: correct the rows and record them again, or waive them with a reason
-- cadence: delivery
-- setting: age_max_days = 7 days that a refused row may wait
-- needs: dead_lettered
-- needs: dead_letter_row
SELECT
    nullif(dead.tenant_id, '') AS tenant_id,
    nullif(dead.meter, '') AS meter,
    -- The same while it grows older: its age is no part of what it is.
    'waits_too_long' AS reason,
    dead.reason AS subject,
    count(*) AS rows,
    abs(sum(dead.quantity))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN sum(dead.quantity) < 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    min(refused.event_time) AS occurred_at,
    'refused as ' || min(dead.reason) || ', the oldest on ' || strftime(min(refused.recorded_at), '%Y-%m-%d') || '; '
        || count_if(refused.recorded_at < $as_of - INTERVAL 30 DAY) || ' of ' || count(*) || ' over 30 days old' AS detail,
    min(dead.producer_id || '#' || dead.segment || '/' || dead.row, 20) AS evidence_sample
FROM dead_lettered AS dead
JOIN dead_letter_row AS refused USING (producer_id, segment, row)
WHERE refused.recorded_at < $as_of - to_days($age_max_days::INTEGER)
GROUP BY dead.tenant_id, dead.meter, dead.reason
ORDER BY ALL
