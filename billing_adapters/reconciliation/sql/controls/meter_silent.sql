-- control: METER_SILENT
-- version: 2
-- point: P1
-- compares: the days on which a tenant's meter was silent with its own days before, and with the tenant's other meters
-- catches: instrumentation that broke for one tenant or one version
-- class: AT_RISK
-- owner: ENG, SALES
-- money: E1
-- act: ask whether the tenant stopped using it; if not, look at what was deployed on the first silent day
-- cadence: daily
-- setting: silent_days_min = 3 days in a row without any use
-- setting: history_days = 28 days before, on each of which there was use
-- needs: counted_event
-- needs: service_span
WITH horizon AS (
    SELECT least($end_date, $as_of::DATE) AS ends
),
day_used AS (
    SELECT tenant_id, meter, event_time::DATE AS used_on, sum(quantity) AS quantity, count(*) AS events
    FROM counted_event
    CROSS JOIN horizon
    WHERE event_time >= $start_instant - to_days($history_days::INTEGER + 7) AND event_time::DATE < horizon.ends
    GROUP BY ALL
),
last_used AS (
    SELECT tenant_id, meter, max(used_on) AS last_on
    FROM day_used
    GROUP BY ALL
),
silent AS (
    SELECT last_used.*, horizon.ends, horizon.ends - last_on - 1 AS silent_days
    FROM last_used
    CROSS JOIN horizon
    -- Who left is silent for a good reason.
    SEMI JOIN service_span AS span
        ON span.tenant_id = last_used.tenant_id AND span.service_end >= $end_instant
    WHERE horizon.ends - last_on - 1 >= $silent_days_min AND last_on >= $first_date - 1
),
before AS (
    SELECT silent.*, count(*) AS days_used
    FROM silent
    JOIN day_used
        ON day_used.tenant_id = silent.tenant_id
        AND day_used.meter = silent.meter
        AND day_used.used_on > silent.last_on - $history_days::INTEGER
    GROUP BY ALL
    HAVING count(*) = $history_days
),
expected AS (
    -- Each silent day would have been like the same weekday of the last week.
    SELECT before.tenant_id, before.meter, sum(day_used.quantity) AS quantity
    FROM before, range(1, before.silent_days::BIGINT + 1) AS day (number)
    JOIN day_used
        ON day_used.tenant_id = before.tenant_id
        AND day_used.meter = before.meter
        AND day_used.used_on = before.last_on - 6 + ((day.number - 1) % 7)::INTEGER
    GROUP BY ALL
),
others AS (
    SELECT
        before.tenant_id,
        before.meter,
        coalesce(sum(day_used.events) FILTER (day_used.used_on > before.last_on), 0) AS events,
        coalesce(
            sum(day_used.events) FILTER (day_used.used_on <= before.last_on AND day_used.used_on > before.last_on - 7), 0
        ) AS events_before
    FROM before
    JOIN day_used ON day_used.tenant_id = before.tenant_id AND day_used.meter <> before.meter
    GROUP BY ALL
)
SELECT
    before.tenant_id,
    before.meter,
    'silent' AS reason,
    expected.quantity::DECIMAL(38, 9) AS quantity_expected,
    0::DECIMAL(38, 9) AS quantity_actual,
    abs(expected.quantity)::DECIMAL(38, 9) AS quantity_difference,
    (before.last_on + 1)::TIMESTAMP AT TIME ZONE 'UTC' AS occurred_at,
    'no use for ' || before.silent_days || ' days after ' || before.last_on || ', and use on every one of ' || days_used
        || ' days before; the tenant used its other meters meanwhile' AS detail
FROM before
JOIN expected USING (tenant_id, meter)
JOIN others USING (tenant_id, meter)
-- Another signal of the tenant at half of its usual strength or more.
WHERE others.events_before > 0 AND 2 * 7 * others.events >= others.events_before * before.silent_days
ORDER BY ALL
