-- control: CLOCK_SKEW
-- version: 2
-- point: P1
-- compares: when something was used, by the clock of its producer, with when it was recorded: events that lie ahead of it, and
--     recorders all of whose events lie behind it by the same time. What lies behind by many times was recorded later on purpose
-- catches: clocks that are wrong, which puts usage into the wrong period and has deliveries refused
-- class: DATA_QUALITY
-- owner: ENG
-- money: none
-- act: set the clock of the producer's host; correct events of a wrong period by replacing them
-- cadence: daily
-- setting: ahead_minutes_max = 5 minutes that a usage event may lie ahead of when it was recorded
-- setting: behind_minutes_max = 5 minutes that the middle usage event of a recorder may lie behind when it was recorded
-- setting: spread_minutes_max = 1 minute between the first and the third quarter of them; a queue spreads them further
-- setting: rows_min = 20 usage events of a recorder below which nothing is said of what lies behind
-- needs: stored_event
-- needs: segment_trailer
WITH lagging AS (
    -- Batches and files are recorded when they are imported, whatever their clocks say.
    SELECT
        event.producer_id,
        epoch_us(event.recorded_at - event.event_time) // 60000000 AS minutes,
        count(*) AS rows,
        -- What the true time would put into another period: it is later by as much as the clock is behind.
        count(*) FILTER (event.recorded_at >= $end_instant) AS rows_beyond,
        min(event.event_time) AS first_time,
        min(event.producer_id || '#' || event.segment || '/' || event.row, 20) AS evidence
    FROM stored_event AS event
    JOIN segment_trailer AS trailer USING (producer_id, segment)
    WHERE trailer.kind = 'journal'
        AND event.event_time >= $start_instant
        AND event.event_time < $end_instant
    GROUP BY ALL
),
ranked AS (
    SELECT *, sum(rows) OVER (PARTITION BY producer_id) AS all_rows, sum(rows) OVER ordered AS rows_so_far
    FROM lagging
    WINDOW ordered AS (PARTITION BY producer_id ORDER BY minutes)
),
quarter AS (
    -- The first minute at which a quarter, a half, three quarters of the events are reached.
    SELECT
        producer_id,
        max(all_rows) AS rows,
        min(minutes) FILTER (4 * rows_so_far >= all_rows) AS first_quarter,
        min(minutes) FILTER (2 * rows_so_far >= all_rows) AS middle,
        min(minutes) FILTER (4 * rows_so_far >= 3 * all_rows) AS third_quarter,
        sum(rows_beyond) AS rows_beyond,
        min(first_time) AS first_time,
        list_sort(flatten(list(evidence)))[:20] AS evidence
    FROM ranked
    GROUP BY producer_id
)
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
UNION ALL
SELECT
    'behind',
    producer_id,
    rows::BIGINT,
    first_time,
    'the middle one was recorded ' || middle || ' minutes after its time, half of them within '
        || (third_quarter - first_quarter) || ' minutes of that; by the recorder''s clock ' || rows_beyond
        || ' belong to a later period',
    evidence
FROM quarter
WHERE rows >= $rows_min AND middle > $behind_minutes_max AND third_quarter - first_quarter <= $spread_minutes_max
ORDER BY ALL
