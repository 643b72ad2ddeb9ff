-- control: USAGE_ANOMALY
-- version: 1
-- point: P3
-- compares: the quantity of every day with the same weekdays before: their median and its median absolute deviation
-- catches: what no other rule names; launches and campaigns too. The weakest evidence: look last
-- class: INFO
-- owner: SALES, ENG
-- money: E1
-- act: ask the tenant whether it is meant; a waiver says that it was expected
-- cadence: weekly
-- setting: deviations_max = 6 robust standard deviations
-- setting: weeks_min = 6 earlier weeks that the day is compared with
-- setting: weeks_max = 12 earlier weeks that are looked at
-- setting: quantity_min = 100 units of difference on a day that are worth a look
-- needs: counted_event
WITH day_used AS (
    SELECT tenant_id, meter, event_time::DATE AS used_on, sum(quantity)::DECIMAL(28, 9) AS quantity
    FROM counted_event
    WHERE event_time >= $start_instant - to_days(7 * $weeks_max::INTEGER)
        AND event_time < $end_instant
        AND event_time < date_trunc('day', $as_of)
    GROUP BY ALL
),
looked_at AS (
    SELECT * FROM day_used WHERE used_on >= $first_date
),
ranked AS (
    SELECT
        looked_at.*,
        earlier.quantity AS earlier,
        row_number() OVER (same_day ORDER BY earlier.quantity) AS place,
        count(*) OVER (same_day) AS weeks
    FROM looked_at
    JOIN day_used AS earlier
        ON earlier.tenant_id = looked_at.tenant_id
        AND earlier.meter = looked_at.meter
        AND earlier.used_on < looked_at.used_on
        AND earlier.used_on >= looked_at.used_on - 7 * $weeks_max::INTEGER
        AND (looked_at.used_on - earlier.used_on) % 7 = 0
    WINDOW same_day AS (PARTITION BY looked_at.tenant_id, looked_at.meter, looked_at.used_on)
),
centred AS (
    -- The lower middle one of the sorted values: exact, and one that was there.
    SELECT tenant_id, meter, used_on, quantity, weeks, earlier, max(earlier) FILTER (place = (weeks + 1) // 2)
            OVER (PARTITION BY tenant_id, meter, used_on) AS middle
    FROM ranked
    WHERE weeks >= $weeks_min
),
spread AS (
    SELECT *, row_number() OVER (PARTITION BY tenant_id, meter, used_on ORDER BY abs(earlier - middle)) AS place
    FROM centred
),
judged AS (
    SELECT tenant_id, meter, used_on, quantity, middle, max(abs(earlier - middle)) FILTER (place = (weeks + 1) // 2) AS deviation
    FROM spread
    GROUP BY ALL
)
SELECT
    tenant_id,
    meter,
    CASE WHEN quantity > middle THEN 'far_above' ELSE 'far_below' END AS reason,
    count(*) AS rows,
    sum(middle)::DECIMAL(38, 9) AS quantity_expected,
    sum(quantity)::DECIMAL(38, 9) AS quantity_actual,
    abs(sum(quantity) - sum(middle))::DECIMAL(38, 9) AS quantity_difference,
    min(used_on)::TIMESTAMP AT TIME ZONE 'UTC' AS occurred_at,
    count(*) || ' day(s), first ' || min(used_on) || ': used ' || sum(quantity) || ' where ' || sum(middle) || ' is usual' AS detail
FROM judged
-- Robust z = 0.6745 x (quantity - median) / deviation, without a division. Half of the usual at least: a meter that never
-- varied has no deviation at all.
WHERE 6745 * abs(quantity - middle) > 10000 * $deviations_max * deviation
    AND abs(quantity - middle) >= $quantity_min
    AND 2 * abs(quantity - middle) > middle
GROUP BY ALL
ORDER BY ALL
