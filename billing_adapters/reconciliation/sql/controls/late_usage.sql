-- control: LATE_USAGE
-- version: 2
-- point: P5
-- compares: usage events of a closed period that came after its close with the corrections that final invoices booked
-- catches: usage that was forgotten after a close. While no later close has seen it, it only waits for the next one
-- class: TIMING
-- owner: FIN
-- money: EXACT
-- act: close the next period, which books it as corrections; if that happened already, look why it did not
-- cadence: daily
-- needs: counted_event
-- needs: period_close
-- needs: close_cut
-- needs: charge
-- needs: booked_charge
-- needs: booked_line
-- needs: billing_span
-- needs: price
-- needs: frozen_span
WITH close_of_period AS (
    SELECT close_id, position
    FROM period_close
    WHERE is_complete AND period_start = $start_instant AND period_end = $end_instant
    QUALIFY row_number() OVER (ORDER BY position DESC) = 1
),
last_close AS (
    SELECT close_id
    FROM period_close
    QUALIFY row_number() OVER (ORDER BY position DESC) = 1
),
late AS (
    SELECT event.tenant_id, event.meter, count(*) AS rows, sum(event.quantity) AS quantity, min(event.event_time) AS used_at,
        bool_or(event.segment <= coalesce(seen.last_segment, 0)) AS was_seen,
        min(event.producer_id || '#' || event.segment || '/' || event.row, 20) AS sample
    FROM counted_event AS event
    CROSS JOIN close_of_period
    CROSS JOIN last_close
    LEFT JOIN close_cut AS cut ON cut.close_id = close_of_period.close_id AND cut.producer_id = event.producer_id
    LEFT JOIN close_cut AS seen ON seen.close_id = last_close.close_id AND seen.producer_id = event.producer_id
    WHERE event.event_time >= $start_instant
        AND event.event_time < $end_instant
        AND event.segment > coalesce(cut.last_segment, 0)
    GROUP BY ALL
),
waiting AS (
    -- Worth now minus booked before, of everything the tenant pays: a late unit may change other lines, too.
    SELECT span.tenant_id, span.currency, sum(component.amount) AS amount
    FROM (
        SELECT span_id, exact_amount AS amount FROM charge
        UNION ALL
        SELECT span_id, -exact_amount FROM booked_charge
    ) AS component
    JOIN billing_span AS span USING (span_id)
    ANTI JOIN frozen_span USING (span_id)
    GROUP BY ALL
    HAVING sum(component.amount) <> 0
),
of_meter AS (
    SELECT span.tenant_id, span.currency, price.meter, sum(component.amount) AS amount
    FROM (
        SELECT span_id, price_id, exact_amount AS amount FROM charge
        UNION ALL
        SELECT span_id, price_id, -exact_amount FROM booked_charge
    ) AS component
    JOIN billing_span AS span USING (span_id)
    JOIN price ON price.plan_key = span.plan_key AND price.price_id = component.price_id
    ANTI JOIN frozen_span ON frozen_span.span_id = component.span_id
    -- What no invoice knows at all is PERIOD_UNBILLED.
    SEMI JOIN booked_line ON booked_line.span_id = component.span_id
    GROUP BY ALL
)
SELECT
    late.tenant_id,
    late.meter,
    'not_corrected' AS reason,
    late.rows,
    abs(late.quantity)::DECIMAL(38, 9) AS quantity_difference,
    abs(of_meter.amount)::DECIMAL(38, 21) AS amount_likely,
    of_meter.currency,
    'E1' AS estimate_basis,
    -- A close that saw it and did not book it will not do so by itself.
    CASE WHEN late.was_seen THEN 'AT_RISK' ELSE 'TIMING' END AS class,
    late.used_at AS occurred_at,
    late.rows || ' usage event(s) came after the period was closed and are on no invoice yet' AS detail,
    late.sample AS evidence_sample
FROM late
JOIN waiting USING (tenant_id)
JOIN of_meter ON of_meter.tenant_id = late.tenant_id AND of_meter.meter = late.meter AND of_meter.currency = waiting.currency
WHERE of_meter.amount <> 0
ORDER BY ALL
