-- control: WITNESS_RATIO
-- version: 2
-- point: P0
-- compares: what a witness counted with what was metered, refused or is missing of the same hours, by tenant and meter; and day by day,
--     so that what is metered twice on one day does not hide what is missing on another
-- catches: a code path without a meter call, retries that are metered twice
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: find the requests that the witness has and the meter has not, in the hours where they part
-- cadence: delivery
-- setting: ratio = 1 units that are metered for each that the witness counts
-- setting: tolerance = 0.01 of what the witness counts that may differ: retries, health checks, edges of hours
-- setting: day_units_min = 20 units that must differ on a day before it is looked at by itself: edges of days
-- needs: witness, at most 72 hours old
-- needs: stored_once
-- needs: dead_lettered
-- needs: break_of_segment
WITH seen AS (
    SELECT tenant_id, meter, (bucket_start AT TIME ZONE 'UTC')::DATE AS day, sum(count) AS count, min(bucket_start) AS first_hour
    FROM witness
    WHERE bucket_start >= $start_instant AND bucket_start < $end_instant
    GROUP BY ALL
),
watched AS (
    -- Before its first hour and after its last one the witness says nothing of anybody.
    -- Buckets of days may begin in another zone, so that they are no days of ours; two hours are one by summer time.
    SELECT min(bucket_start) AS first_hour, max(bucket_start) + INTERVAL 1 HOUR AS last_hour,
        count(DISTINCT date_part('hour', bucket_start)) > 2 AS is_by_hours
    FROM witness
    WHERE bucket_start >= $start_instant AND bucket_start < $end_instant
),
metered AS (
    SELECT tenant_id, meter, (event_time AT TIME ZONE 'UTC')::DATE AS day, sum(quantity) AS quantity
    FROM stored_once
    CROSS JOIN watched
    WHERE event_time >= watched.first_hour AND event_time < watched.last_hour
    GROUP BY ALL
),
told AS (
    -- What is refused or missing is told already; it has a finding of its own.
    SELECT tenant_id, meter, sum(quantity) AS quantity
    FROM (
        SELECT tenant_id, meter, quantity FROM dead_lettered
        UNION ALL
        SELECT tenant_id, meter, missing_quantity FROM break_of_segment
    )
    GROUP BY tenant_id, meter
),
daily AS (
    SELECT
        tenant_id,
        meter,
        coalesce(seen.count, 0) AS count,
        seen.first_hour,
        (coalesce(seen.count, 0) * $ratio)::DECIMAL(38, 9) AS expected,
        coalesce(metered.quantity, 0)::DECIMAL(38, 9) AS actual,
        watched.is_by_hours
            AND abs(expected - actual) > greatest($tolerance * coalesce(seen.count, 0), $day_units_min) AS parts
    FROM seen
    FULL JOIN metered USING (tenant_id, meter, day)
    CROSS JOIN watched
),
summed AS (
    SELECT
        tenant_id,
        meter,
        sum(count) AS count,
        min(first_hour) AS first_hour,
        sum(expected) AS expected,
        sum(actual) AS metered,
        coalesce(sum(expected - actual) FILTER (parts AND expected > actual), 0) AS short_by_day,
        coalesce(sum(actual - expected) FILTER (parts AND actual > expected), 0) AS over_by_day
    FROM daily
    GROUP BY ALL
    -- Who was never metered is TRAFFIC_WITHOUT_METER; of whom the witness says nothing, nothing is compared.
    HAVING sum(count) > 0 AND (tenant_id, meter) IN (SELECT (tenant_id, meter) FROM metered)
),
compared AS (
    SELECT
        summed.*,
        (summed.metered + coalesce(told.quantity, 0))::DECIMAL(38, 9) AS actual,
        greatest(expected - actual, short_by_day - coalesce(told.quantity, 0), 0) AS short,
        greatest(actual - expected, over_by_day, 0) AS over
    FROM summed
    LEFT JOIN told USING (tenant_id, meter)
),
differing AS (
    SELECT *, 'metered_less' AS reason, short AS difference, 'AT_RISK' AS class FROM compared WHERE short > $tolerance * count
    UNION ALL
    SELECT *, 'metered_more', over, 'DATA_QUALITY' FROM compared WHERE over > $tolerance * count
)
SELECT
    tenant_id,
    meter,
    reason,
    expected::DECIMAL(38, 9) AS quantity_expected,
    actual AS quantity_actual,
    difference::DECIMAL(38, 9) AS quantity_difference,
    class,
    first_hour AS occurred_at,
    'the witness counts ' || count || ', metered are ' || actual
        || CASE WHEN difference = abs(expected - actual) THEN '' ELSE '; day by day they part by more' END AS detail
FROM differing
ORDER BY ALL
