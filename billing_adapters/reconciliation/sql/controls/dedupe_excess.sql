-- control: DEDUPE_EXCESS
-- version: 3
-- point: P2
-- compares: suppressed duplicates with the usage event that won: the same key with other quantities, times or attributes;
--     and the share of duplicates of a day with that of the days before
-- catches: idempotency keys that are used again (a request path, a time in seconds) and so swallow real usage
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: give every usage event a key of its own; record again what was swallowed, under new keys
-- cadence: delivery
-- setting: deviations_max = 3 median absolute deviations that a day's share of duplicates may lie above the median of the days before
-- setting: days_min = 7 earlier days with use that a day is compared with
-- setting: days_max = 28 earlier days that are looked at
-- setting: share_min = 0.01 of a day's usage events: below that no share of duplicates is worth a look
-- setting: rows_min = 100 duplicates of a day below which there is no share
-- needs: duplicate
-- needs: stored_event
WITH day_used AS (
    -- Per million of a day's usage events, so that no share needs a division with a remainder.
    SELECT event.tenant_id, event.meter, event.event_time::DATE AS used_on, count(*) AS events,
        count(duplicate.row) AS copies, 1000000 * count(duplicate.row) // count(*) AS share
    FROM stored_event AS event
    SEMI JOIN (SELECT DISTINCT tenant_id, meter FROM duplicate) AS repeated
        ON repeated.tenant_id = event.tenant_id AND repeated.meter = event.meter
    LEFT JOIN duplicate USING (producer_id, segment, row)
    WHERE event.event_time >= $start_instant - to_days($days_max::INTEGER) AND event.event_time < $end_instant
    GROUP BY ALL
),
ranked AS (
    SELECT
        looked_at.*,
        earlier.share AS earlier_share,
        row_number() OVER (same_day ORDER BY earlier.share) AS place,
        count(*) OVER (same_day) AS days
    FROM day_used AS looked_at
    JOIN day_used AS earlier
        ON earlier.tenant_id = looked_at.tenant_id
        AND earlier.meter = looked_at.meter
        AND earlier.used_on < looked_at.used_on
        AND earlier.used_on >= looked_at.used_on - $days_max::INTEGER
    WHERE looked_at.used_on >= $first_date AND looked_at.copies >= $rows_min AND looked_at.copies > $share_min * looked_at.events
    WINDOW same_day AS (PARTITION BY looked_at.tenant_id, looked_at.meter, looked_at.used_on)
),
centred AS (
    SELECT *, max(earlier_share) FILTER (place = (days + 1) // 2) OVER (PARTITION BY tenant_id, meter, used_on) AS middle
    FROM ranked
    WHERE days >= $days_min
),
spread AS (
    SELECT *, row_number() OVER (PARTITION BY tenant_id, meter, used_on ORDER BY abs(earlier_share - middle)) AS far
    FROM centred
),
judged AS (
    SELECT tenant_id, meter, used_on, events, copies, share, middle,
        max(abs(earlier_share - middle)) FILTER (far = (days + 1) // 2) AS deviation
    FROM spread
    GROUP BY ALL
)
SELECT
    lost.tenant_id,
    lost.meter,
    'key_used_again' AS reason,
    count(*) AS rows,
    abs(sum(lost.quantity))::DECIMAL(38, 9) AS quantity_difference,
    -- Payloads that are suppressed may be mistakes that were corrected: perhaps nothing is missing.
    0::DECIMAL(38, 21) AS amount_low,
    'AT_RISK' AS class,
    min(lost.event_time) AS occurred_at,
    count(DISTINCT lost.idempotency_key) || ' key(s) of ' || count(DISTINCT lost.producer_id) || ' producer(s), first '
        || min(lost.idempotency_key) AS detail,
    min(lost.producer_id || '#' || lost.segment || '/' || lost.row, 20) AS evidence_sample
FROM (
    -- The same payload said three times is one that was swallowed, not two.
    SELECT event.tenant_id, event.meter, event.quantity, event.event_time, event.idempotency_key, event.producer_id,
        event.segment, event.row
    FROM duplicate
    JOIN stored_event AS event USING (producer_id, segment, row)
    WHERE duplicate.is_conflict AND event.event_time >= $start_instant AND event.event_time < $end_instant
    QUALIFY row_number() OVER (
        PARTITION BY event.tenant_id, event.meter, event.idempotency_key, event.quantity, event.event_time, event.attributes
        ORDER BY event.producer_id, event.segment, event.row
    ) = 1
) AS lost
GROUP BY lost.tenant_id, lost.meter
UNION ALL
-- A storm of retries is harmless; a key that is too coarse is not, and payloads that are alike do not tell the two apart.
SELECT
    tenant_id,
    meter,
    'more_than_usual',
    sum(copies)::BIGINT,
    NULL,
    NULL,
    'INFO',
    min(used_on)::TIMESTAMP AT TIME ZONE 'UTC',
    count(*) || ' day(s), first ' || min(used_on) || ': ' || sum(copies) || ' of ' || sum(events)
        || ' usage events were said before; usual are up to ' || max(middle) || ' of a million',
    NULL
FROM judged
WHERE share > middle + $deviations_max * deviation
GROUP BY tenant_id, meter
ORDER BY ALL
