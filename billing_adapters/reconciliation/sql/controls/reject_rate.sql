-- control: REJECT_RATE
-- version: 1
-- point: P2
-- compares: the rows that were refused, by reason, with all rows that producers promised for the period
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
-- needs: promised
SELECT
    dead.reason,
    count(*) AS rows,
    count(DISTINCT dead.producer_id) || ' producer(s); ' || count(*) || ' of ' || min(received.rows) || ' rows, first '
        || min(dead.producer_id || '#' || dead.segment || '/' || dead.row) AS detail,
    min(dead.producer_id || '#' || dead.segment || '/' || dead.row, 20) AS evidence_sample
FROM dead_lettered AS dead
CROSS JOIN (SELECT coalesce(sum(rows), 0) AS rows FROM promised) AS received
GROUP BY dead.reason
HAVING count(*) >= $rows_min AND count(*) > $share_max * min(received.rows)
ORDER BY ALL
