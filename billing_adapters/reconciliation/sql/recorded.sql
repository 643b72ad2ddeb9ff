-- Equation 1, recorded = stored + duplicate + dead-lettered + in flight + missing. One row per (meter, bucket).
-- `recorded` and `in_flight` are what producers promised, `missing` what of it the lake does not hold; the others are
-- counted in the lake. A segment that is absent as a whole has no meter: ''. Nothing here is worked out from the rest.
SELECT meter, 'recorded' AS bucket, sum(rows)::BIGINT AS rows, sum(quantity)::DECIMAL(38, 9) AS quantity
FROM (
    SELECT meter, rows, quantity FROM promised
    UNION ALL
    SELECT '', rows, 0 FROM segment_gap WHERE rows IS NOT NULL
)
GROUP BY ALL
UNION ALL
SELECT meter, 'stored', count(*), sum(quantity)
FROM stored_once
WHERE event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
UNION ALL
SELECT meter, 'duplicate', count(*), sum(quantity)
FROM duplicate
WHERE event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
UNION ALL
SELECT meter, 'dead_lettered', count(*), sum(quantity)
FROM dead_lettered
GROUP BY ALL
UNION ALL
SELECT meter, 'in_flight', sum(rows), sum(quantity)
FROM promised
WHERE is_in_flight
GROUP BY ALL
UNION ALL
SELECT meter, 'missing', sum(rows), sum(quantity)
FROM (
    SELECT meter, missing_rows AS rows, missing_quantity AS quantity FROM break_of_segment
    UNION ALL
    SELECT '', rows, 0 FROM segment_gap WHERE reason = 'segment_absent' AND rows IS NOT NULL
)
GROUP BY ALL
ORDER BY ALL
