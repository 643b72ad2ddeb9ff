-- control: METER_SILENT_GLOBAL
-- version: 2
-- point: P1
-- compares: the meters that prices of the period read with those that anybody used in it, and in the period before
-- catches: a lost instrumentation release, or a meter that was renamed in the code alone
-- class: AT_RISK
-- owner: ENG
-- money: E3
-- act: look at what was deployed around the end of the period before; a product that was retired is waived
-- cadence: daily
-- needs: stored_event
-- needs: price
WITH used AS (
    SELECT
        meter,
        sum(quantity) FILTER (event_time < $start_instant) AS quantity,
        count(*) FILTER (event_time < $start_instant) AS events_before,
        count(*) FILTER (event_time >= $start_instant) AS events
    FROM stored_event
    WHERE event_time >= $start_instant - ($end_instant - $start_instant) AND event_time < $end_instant
    GROUP BY meter
)
SELECT
    used.meter,
    'nobody_used_it' AS reason,
    used.quantity::DECIMAL(38, 9) AS quantity_expected,
    0::DECIMAL(38, 9) AS quantity_actual,
    abs(used.quantity)::DECIMAL(38, 9) AS quantity_difference,
    $start_instant AS occurred_at,
    events_before || ' usage events in the time before, of the same length, and none in the period' AS detail
FROM used
SEMI JOIN price USING (meter)
WHERE $end_instant <= $as_of AND used.events = 0 AND used.events_before > 0
ORDER BY ALL
