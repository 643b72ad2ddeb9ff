-- control: CLOCK_SKEW
-- version: 1
-- point: P1
-- compares: when something was used, by the clock of its producer, with when it was recorded. Only what lies ahead can be told:
--     what lies behind may have been recorded later on purpose
-- catches: clocks that are wrong, which puts usage into the wrong period and has deliveries refused
-- class: DATA_QUALITY
-- owner: ENG
-- money: none
-- act: set the clock of the producer's host; correct events of a wrong period by replacing them
-- cadence: daily
-- setting: ahead_minutes_max = 5 minutes that a usage event may lie ahead of when it was recorded
-- needs: stored_event
SELECT
    'ahead' AS reason,
    producer_id AS subject,
    count(*) AS rows,
    min(event_time) AS occurred_at,
    'used after it was recorded, by up to ' || max(date_diff('minute', recorded_at, event_time)) || ' minutes' AS detail,
    min(producer_id || '#' || segment || '/' || row, 20) AS evidence_sample
FROM stored_event
WHERE event_time >= $start_instant
    AND event_time < $end_instant
    AND event_time > recorded_at + to_minutes($ahead_minutes_max)
GROUP BY producer_id
ORDER BY ALL
