-- control: WITNESS_RATIO
-- version: 1
-- point: P0
-- compares: what a witness counted with what was metered, refused or is missing of the same hours, by tenant and meter
-- catches: a code path without a meter call, retries that are metered twice
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: find the requests that the witness has and the meter has not, in the hours where they part
-- cadence: delivery
-- setting: ratio = 1 units that are metered for each that the witness counts
-- setting: tolerance = 0.01 of what the witness counts that may differ: retries, health checks, edges of hours
-- needs: witness, at most 72 hours old
-- needs: stored_once
-- needs: dead_lettered
-- needs: break_of_segment
WITH seen AS (
    SELECT tenant_id, meter, sum(count) AS count, min(bucket_start) AS first_hour, max(bucket_start) AS last_hour
    FROM witness
    WHERE bucket_start >= $start_instant AND bucket_start < $end_instant
    GROUP BY tenant_id, meter
),
watched AS (
    -- Before its first hour and after its last one the witness says nothing of anybody.
    SELECT min(first_hour) AS first_hour, max(last_hour) + INTERVAL 1 HOUR AS last_hour FROM seen
),
metered AS (
    SELECT tenant_id, meter, sum(quantity) AS quantity
    FROM stored_once
    CROSS JOIN watched
    WHERE event_time >= watched.first_hour AND event_time < watched.last_hour
    GROUP BY tenant_id, meter
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
compared AS (
    SELECT
        seen.*,
        (seen.count * $ratio)::DECIMAL(38, 9) AS expected,
        (metered.quantity + coalesce(told.quantity, 0))::DECIMAL(38, 9) AS actual
    FROM seen
    JOIN metered USING (tenant_id, meter)
    LEFT JOIN told USING (tenant_id, meter)
)
SELECT
    tenant_id,
    meter,
    CASE WHEN expected > actual THEN 'metered_less' ELSE 'metered_more' END AS reason,
    expected AS quantity_expected,
    actual AS quantity_actual,
    abs(expected - actual)::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN expected > actual THEN 'AT_RISK' ELSE 'DATA_QUALITY' END AS class,
    first_hour AS occurred_at,
    'the witness counts ' || count || ', metered are ' || actual AS detail
FROM compared
WHERE abs(expected - actual) > $tolerance * count
ORDER BY ALL
