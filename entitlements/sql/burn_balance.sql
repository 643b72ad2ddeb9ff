-- One step of all burn-downs, first half: what each grant holds in it, and what is burned of it.
-- Segment: what recurs is full again, what is not active is gone, what begins is there; then use and carried overage are paid
-- in burn order. Reset: what is active and was there before is rolled over, and pays overage that is kept. Finish: nothing
-- is burned. A step that goes on where the one before was cut burns again what that one burned (`burned_here`), so that the use
-- of the whole counts: `burned` is what it adds, below zero where use was taken back. Source: price models, section 8, (3), (4)
-- and (6).
INSERT INTO burn_balance
WITH opened AS (
    SELECT
        step.burn_id,
        step.kind,
        ordered.grant_id,
        ordered.place,
        CASE
            WHEN ordered.effective_at > step.start_at OR ordered.ends_at <= step.start_at THEN 0
            WHEN step.kind = 'reset' AND ordered.effective_at = step.start_at THEN 0
            WHEN step.kind = 'reset' THEN least(ordered.rollover_max, greatest(ordered.rollover_min, held.after))
            WHEN ordered.effective_at = step.start_at AND (step.kind = 'finish' OR NOT step.is_end) THEN ordered.amount
            WHEN recurrence.due_at IS NOT NULL AND step.kind = 'segment' THEN ordered.amount
            ELSE held.after
        END::DECIMAL(38, 9) AS before,
        CASE WHEN step.goes_on THEN held.burned_here ELSE 0 END::DECIMAL(38, 9) AS again,
        CASE step.kind
            WHEN 'segment' THEN state.overage + coalesce(used.quantity, 0)
            WHEN 'reset' THEN CASE WHEN step.keeps_overage THEN state.overage ELSE 0 END
            ELSE 0
        END::DECIMAL(38, 9) AS need
    FROM burn_step AS step
    JOIN burn_state AS state ON state.burn_id = step.burn_id AND state.seq = $seq - 1
    JOIN burn_grant_ordered AS ordered ON ordered.burn_id = step.burn_id
    JOIN burn_balance AS held
        ON held.burn_id = step.burn_id AND held.grant_id = ordered.grant_id AND held.seq = $seq - 1
    LEFT JOIN burn_used AS used ON used.burn_id = step.burn_id AND used.seq = $seq
    LEFT JOIN burn_recurrence AS recurrence
        ON recurrence.burn_id = step.burn_id
        AND recurrence.grant_id = ordered.grant_id
        AND recurrence.due_at = step.start_at
    WHERE step.seq = $seq
),
asked AS (
    SELECT
        *,
        need + sum(again) OVER (PARTITION BY burn_id)
        - coalesce(
            sum(before + again) OVER (
                PARTITION BY burn_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0
        ) AS left_to_pay
    FROM opened
),
burning AS (
    SELECT
        *,
        CASE kind
            WHEN 'finish' THEN again
            ELSE greatest(0, least(before + again, left_to_pay))
        END::DECIMAL(38, 9) AS paid
    FROM asked
)
SELECT
    $seq AS seq,
    burn_id,
    grant_id,
    before,
    (paid - again)::DECIMAL(38, 9) AS burned,
    (before - (paid - again))::DECIMAL(38, 9) AS after,
    paid AS burned_here
FROM burning
