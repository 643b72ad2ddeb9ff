-- What was used of each burn-down from an instant on, and what of it no grant covered: one row per burn. Units of the meter.
-- A segment that pays overage of before takes it off again, and so does a reset that keeps it; below zero nothing is over. What
-- recurs or is reset at the very end belongs to what comes after it.
SELECT
    step.burn_id,
    sum(coalesce(used.quantity, 0))::DECIMAL(38, 9) AS used,
    greatest(0, sum(coalesce(used.quantity, 0)) - sum(coalesce(burned.burned, 0)))::DECIMAL(38, 9) AS over_used
FROM burn_step AS step
JOIN burn_since USING (burn_id)
LEFT JOIN burn_used AS used ON used.burn_id = step.burn_id AND used.seq = step.seq
LEFT JOIN (SELECT burn_id, seq, sum(burned) AS burned FROM burn_balance GROUP BY ALL) AS burned
    ON burned.burn_id = step.burn_id AND burned.seq = step.seq
WHERE step.start_at >= burn_since.due_at AND NOT step.is_end
GROUP BY step.burn_id
ORDER BY step.burn_id
