-- The steps of every burn-down, in order: one row per (burn, seq). `kind`: a segment of time, a reset, and one finish.
-- A segment is a stretch [start_at, end_at) in which no grant begins, ends or recurs and nothing is reset. What recurs or is
-- reset at the very end makes a last segment of no length (`is_end`), in which no grant begins: whoever goes on from there
-- begins it. The finish takes away what ends at the end and puts there what begins. A reset keeps what is over, or forgives
-- it (`keeps_overage`). A step that only goes on where the one before was cut (`goes_on`) gives back what is taken back of its
-- use; the start of a burn-down and its finish go on, too, where nothing begins or ends. Source: price models, section 8, (2).
CREATE OR REPLACE TABLE burn_step AS
WITH change AS (
    SELECT burn_id, effective_at AS due_at FROM burn_grant
    UNION ALL
    SELECT burn_id, ends_at FROM burn_grant
),
-- What recurs or is reset at the very end is in a segment of its own.
instant AS (
    SELECT burn_id, due_at, false AS goes_on FROM change
    UNION ALL
    SELECT burn_id, due_at, false FROM burn_recurrence
    UNION ALL
    SELECT burn_id, due_at, false FROM burn_reset
    UNION ALL
    SELECT burn_id, due_at, true FROM burn_cut
),
boundary AS (
    SELECT burn_id, start_at AS due_at, true AS goes_on FROM burn WHERE start_at < until_at
    UNION ALL
    SELECT burn_id, due_at, bool_and(goes_on)
    FROM instant
    JOIN burn USING (burn_id)
    WHERE due_at > start_at AND due_at < until_at
    GROUP BY burn_id, due_at
),
last_segment AS (
    SELECT DISTINCT burn_id, due_at
    FROM (SELECT burn_id, due_at FROM burn_reset UNION ALL SELECT burn_id, due_at FROM burn_recurrence)
    JOIN burn USING (burn_id)
    WHERE due_at = until_at AND start_at < until_at
),
step AS (
    SELECT
        burn_id,
        'segment' AS kind,
        due_at AS start_at,
        lead(due_at, 1, until_at) OVER (PARTITION BY burn_id ORDER BY due_at) AS end_at,
        false AS is_end,
        false AS keeps_overage,
        goes_on
    FROM boundary
    JOIN burn USING (burn_id)
    UNION ALL
    SELECT burn_id, 'reset', due_at, due_at, due_at = until_at, keeps_overage, false
    FROM burn_reset
    JOIN burn USING (burn_id)
    WHERE due_at > start_at AND due_at <= until_at
    UNION ALL
    SELECT burn_id, 'segment', due_at, due_at, true, false, false
    FROM last_segment
    UNION ALL
    SELECT
        burn_id,
        'finish',
        until_at,
        until_at,
        true,
        false,
        last_segment.burn_id IS NOT NULL
        OR NOT EXISTS (SELECT 1 FROM change WHERE change.burn_id = burn.burn_id AND change.due_at = burn.until_at)
    FROM burn
    LEFT JOIN last_segment USING (burn_id)
    WHERE start_at < until_at
)
SELECT
    burn_id,
    row_number() OVER (
        PARTITION BY burn_id
        ORDER BY start_at, CASE kind WHEN 'reset' THEN 0 WHEN 'segment' THEN 1 ELSE 2 END
    ) AS seq,
    kind,
    start_at,
    end_at,
    is_end,
    keeps_overage,
    goes_on
FROM step
-- Each step is looked up by its number, over all burn-downs.
ORDER BY seq, burn_id
