-- control: RERATE_DRIFT
-- version: 1
-- point: P4
-- compares: what every line of a closed period is worth when it is rated now with what was booked for it, where no usage event
--     of its tenant and meter came after the last close, and plan and catalog are the same
-- catches: an engine or a library that rounds otherwise than before, an order of events that matters and should not
-- class: AT_RISK
-- owner: ENG
-- money: EXACT
-- act: find out what was installed since; `tallybook verify` names the invoices
-- cadence: close
-- needs: charge
-- needs: booked_charge
-- needs: price
-- needs: booked_line
-- needs: billing_span
-- needs: period_close
-- needs: close_cut
-- needs: stored_event
-- needs: break_of_segment
-- needs: segment_gap
WITH last_close AS (
    SELECT close_id, is_newest_catalog
    FROM period_close
    QUALIFY row_number() OVER (ORDER BY position DESC) = 1
),
closed AS (
    SELECT 1 AS one
    FROM period_close
    WHERE is_complete AND period_start = $start_instant AND period_end = $end_instant
),
told_later AS (
    SELECT DISTINCT event.tenant_id, event.meter
    FROM stored_event AS event
    CROSS JOIN last_close
    LEFT JOIN close_cut AS cut ON cut.close_id = last_close.close_id AND cut.producer_id = event.producer_id
    WHERE event.segment > coalesce(cut.last_segment, 0)
    UNION
    -- What is missing in the lake by now is found by SEQUENCE_GAP; here it explains the difference.
    SELECT tenant_id, meter FROM break_of_segment
),
component AS (
    -- Discounts have controls of their own.
    SELECT span_id, price_id, group_key, cell_key, tier, part, unit_price, quantity AS now_quantity,
        exact_amount AS now_amount, 0 AS then_quantity, 0 AS then_amount
    FROM charge
    WHERE NOT starts_with(part, 'discount:')
    UNION ALL
    SELECT span_id, price_id, group_key, cell_key, tier, part, unit_price, 0, 0, quantity, exact_amount
    FROM booked_charge
    WHERE NOT starts_with(part, 'discount:')
),
priced_otherwise AS (
    -- Another price of a unit is PRICE_OFF_CATALOG.
    SELECT DISTINCT span_id, price_id, group_key
    FROM booked_charge
    ANTI JOIN charge USING (span_id, price_id, group_key, cell_key, tier, part, unit_price)
    WHERE booked_charge.part = 'unit' AND booked_charge.quantity <> 0
),
line AS (
    SELECT
        component.span_id,
        component.price_id,
        component.group_key,
        sum(component.now_amount) AS now_amount,
        sum(component.then_amount) AS then_amount,
        sum(component.now_quantity) AS now_quantity,
        sum(component.then_quantity) AS then_quantity
    FROM component
    ANTI JOIN priced_otherwise USING (span_id, price_id, group_key)
    GROUP BY ALL
)
SELECT
    span.tenant_id,
    span.account_id,
    span.subscription_id,
    price.meter,
    'rated_otherwise' AS reason,
    span.subscription_id || ' ' || line.price_id || ' ' || line.group_key AS subject,
    abs(line.now_amount - line.then_amount)::DECIMAL(38, 21) AS amount_likely,
    span.currency,
    CASE WHEN line.now_amount < line.then_amount THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    span.service_start AS occurred_at,
    'booked ' || line.then_amount || ', rated now ' || line.now_amount || ' ' || span.currency AS detail
FROM line
JOIN billing_span AS span USING (span_id)
JOIN price ON price.plan_key = span.plan_key AND price.price_id = line.price_id
CROSS JOIN last_close
ANTI JOIN told_later ON told_later.tenant_id = span.tenant_id AND told_later.meter = price.meter
-- A line without a meter depends on those that have one; a change of plan is PLAN_VERSION_DIFFERS.
SEMI JOIN (
    SELECT booked_line.span_id
    FROM booked_line
    JOIN billing_span AS same
        ON same.span_id = booked_line.span_id
        AND same.plan = booked_line.plan
        AND same.plan_version = booked_line.plan_version
) AS as_sold ON as_sold.span_id = line.span_id
WHERE last_close.is_newest_catalog
    AND EXISTS (FROM closed)
    AND NOT EXISTS (FROM segment_gap)
    AND price.meter IS NOT NULL
    AND line.now_amount <> line.then_amount
    -- The same quantity in other tiers is TIER_BOUNDARY.
    AND (price.price_type <> 'graduated' OR line.now_quantity <> line.then_quantity)
ORDER BY ALL
