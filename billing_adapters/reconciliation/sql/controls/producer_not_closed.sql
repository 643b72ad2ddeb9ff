-- control: PRODUCER_NOT_CLOSED
-- version: 2
-- point: P1
-- compares: what producers recorded and still have in the journal of this host with when they recorded it; a producer that is
--     closed, or killed, has nothing there once it is shipped
-- catches: a shipper that stands still or was never started, the tail of a process that was killed and that nobody shipped
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: run `tallybook ship`, and let it run; `tallybook doctor` says what stands in its way. What is shipped is billed
-- cadence: delivery
-- setting: wait_minutes_max = 60 minutes that recorded usage may wait in the journal
-- needs: in_flight_total
-- needs: segment_trailer
SELECT
    nullif(flying.tenant_id, '') AS tenant_id,
    nullif(flying.meter, '') AS meter,
    'waits_in_journal' AS reason,
    sum(flying.rows)::BIGINT AS rows,
    abs(coalesce(sum(flying.quantity), 0))::DECIMAL(38, 9) AS quantity_difference,
    min(flying.event_date)::TIMESTAMP AT TIME ZONE 'UTC' AS occurred_at,
    count(DISTINCT flying.producer_id) || ' producer(s), first ' || min(flying.producer_id || ' #' || flying.segment)
        || '; recorded since ' || strftime(min(flying.recorded_from), '%Y-%m-%d %H:%M') || ' UTC and not in the lake' AS detail
FROM in_flight_total AS flying
-- What was shipped while the journal was read is in the lake.
ANTI JOIN segment_trailer USING (producer_id, segment)
WHERE flying.event_date >= $first_date
    AND flying.event_date < $end_date
    AND flying.recorded_from + to_minutes($wait_minutes_max) <= $as_of
GROUP BY ALL
ORDER BY ALL
