-- control: REJECT_RATE
-- version: 2
-- point: P2
-- compares: the rows that were refused, by reason, with all rows that producers promised for the period, and with the reasons
--     of every period before
-- catches: a deployment that breaks a field
-- class: DATA_QUALITY
-- owner: ENG
-- money: none
-- within: DEAD_LETTER
-- act: find what changed in the producer when this began; the rows wait as dead letters
-- cadence: delivery
-- setting: share_max = 0.001 of all rows that may be refused for one reason
-- setting: rows_min = 100 refused rows below which there is no rate
-- needs: dead_lettered
-- needs: dead_letter_row
-- needs: promised
-- needs: segment_trailer
WITH refused AS (
    SELECT
        reason,
        count(*) AS rows,
        count(DISTINCT producer_id) AS producers,
        min(producer_id || '#' || segment || '/' || row, 20) AS evidence
    FROM dead_lettered
    GROUP BY reason
),
received AS (
    SELECT coalesce(sum(rows), 0) AS rows FROM promised
)
SELECT
    refused.reason,
    NULL::VARCHAR AS subject,
    refused.rows,
    refused.producers || ' producer(s); ' || refused.rows || ' of ' || received.rows || ' rows, first ' || refused.evidence[1] AS detail,
    refused.evidence AS evidence_sample
FROM refused
CROSS JOIN received
WHERE refused.rows >= $rows_min AND refused.rows > $share_max * received.rows
UNION ALL
SELECT
    refused.reason,
    'never seen before',
    refused.rows,
    refused.rows || ' row(s) of ' || refused.producers || ' producer(s) for a reason that no earlier period has, first '
        || refused.evidence[1],
    refused.evidence
FROM refused
-- In the first period everything is new.
WHERE EXISTS (SELECT 1 FROM segment_trailer WHERE sealed_at < $start_instant)
    AND refused.reason NOT IN (SELECT reason FROM dead_letter_row WHERE event_date < $first_date)
ORDER BY ALL
