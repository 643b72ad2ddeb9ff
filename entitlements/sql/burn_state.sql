-- One step of all burn-downs, second half: what is over, used and paid after it.
-- A reset counts from zero: of the overage that is kept, what was paid at once is the first that grants paid.
INSERT INTO burn_state
WITH burned AS (
    SELECT burn_id, sum(burned)::DECIMAL(38, 9) AS burned FROM burn_balance WHERE seq = $seq GROUP BY burn_id
)
SELECT
    $seq AS seq,
    step.burn_id,
    CASE
        WHEN step.kind = 'segment' THEN state.overage + coalesce(used.quantity, 0) - coalesce(burned.burned, 0)
        WHEN step.kind = 'finish' THEN state.overage
        WHEN step.keeps_overage THEN state.overage - coalesce(burned.burned, 0)
        ELSE 0
    END::DECIMAL(38, 9) AS overage,
    CASE step.kind
        WHEN 'segment' THEN state.usage + coalesce(used.quantity, 0)
        WHEN 'reset' THEN 0
        ELSE state.usage
    END::DECIMAL(38, 9) AS usage,
    CASE step.kind
        WHEN 'segment' THEN state.granted_usage + coalesce(burned.burned, 0)
        WHEN 'reset' THEN coalesce(burned.burned, 0)
        ELSE state.granted_usage
    END::DECIMAL(38, 9) AS granted_usage
FROM burn_step AS step
JOIN burn_state AS state ON state.burn_id = step.burn_id AND state.seq = $seq - 1
LEFT JOIN burn_used AS used ON used.burn_id = step.burn_id AND used.seq = $seq
LEFT JOIN burned ON burned.burn_id = step.burn_id
WHERE step.seq = $seq
