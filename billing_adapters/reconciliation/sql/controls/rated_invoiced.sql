-- control: RATED_INVOICED
-- version: 1
-- point: P5
-- compares: what the close of the period rated with what it and the cuts before it charged, exactly; what each close charged with its
--     lines, but for rounding; and its lines with its documents and what prepaid balances paid (all control points)
-- catches: a charge that reaches no line, a line that reaches no document, amounts that change on the way to paper
-- class: AT_RISK
-- owner: ENG, FIN
-- money: EXACT
-- act: compare `tallybook verify` with the invoices; void what is wrong, and the next close bills it again
-- cadence: close
-- needs: control_point
-- needs: attributed_close
-- needs: currency_unit
WITH of_close AS (
    SELECT point.*, last.position AS last_position
    FROM control_point AS point
    CROSS JOIN attributed_close AS last
    WHERE point.position <= last.position AND point.point IN ('P4', 'P5') AND point.reason <> 'void'
),
standing AS (
    -- A document that was void before the last cut books nothing any more, and the cut billed its lines again.
    SELECT of_close.*
    FROM of_close
    ANTI JOIN control_point AS void
        ON void.reason = 'void'
        AND void.previous_batch_id = of_close.batch_id
        AND void.account_id = of_close.account_id
        AND void.currency = of_close.currency
        AND void.position < of_close.last_position
),
charged AS (
    SELECT
        tenant_id,
        meter,
        currency,
        coalesce(sum(amount) FILTER (reason = 'rated' AND position = last_position), 0) AS before,
        coalesce(sum(amount) FILTER (reason = 'charged'), 0) AS after
    FROM standing
    WHERE point = 'P4'
    GROUP BY ALL
    HAVING before <> after
),
lined AS (
    -- Each line repays the rounding of the line before it, so that it is less than a whole smallest unit away.
    SELECT
        of_close.tenant_id,
        of_close.meter,
        of_close.currency,
        of_close.batch_id,
        coalesce(sum(of_close.amount) FILTER (point = 'P4'), 0) AS before,
        coalesce(sum(of_close.amount) FILTER (point = 'P5'), 0) AS after,
        coalesce(sum(of_close.event_count) FILTER (point = 'P5'), 0) * coalesce(any_value(places.minor_unit), 0) AS rounding
    FROM of_close
    LEFT JOIN currency_unit AS places USING (currency)
    WHERE of_close.reason IN ('charged', 'corrected', 'line')
    GROUP BY ALL
    HAVING abs(before - after) > rounding
),
documented AS (
    SELECT
        account_id,
        currency,
        batch_id,
        coalesce(sum(amount) FILTER (reason = 'line'), 0) AS before,
        coalesce(sum(amount) FILTER (reason <> 'line'), 0) AS after
    FROM of_close
    WHERE point = 'P5'
    GROUP BY ALL
    HAVING before <> after
),
differing AS (
    SELECT NULL AS account_id, tenant_id, meter, 'not_charged' AS step, currency AS subject, currency, before, after,
        'rated' AS what_before, 'charged' AS what_after
    FROM charged
    UNION ALL
    SELECT NULL, tenant_id, meter, 'not_on_lines', batch_id || ' ' || currency, currency, before, after, 'charged', 'on lines'
    FROM lined
    UNION ALL
    SELECT account_id, NULL, NULL, 'not_on_documents', batch_id || ' ' || account_id || ' ' || currency, currency, before, after,
        'on lines', 'on documents or paid by prepaid balances'
    FROM documented
)
SELECT
    account_id,
    tenant_id,
    meter,
    CASE WHEN before > after THEN step ELSE replace(step, 'not_', 'too_much_') END AS reason,
    subject,
    abs(before - after)::DECIMAL(38, 21) AS amount_likely,
    currency,
    CASE WHEN before > after THEN 'AT_RISK' ELSE 'OVERBILL' END AS class,
    before || ' ' || currency || ' ' || what_before || ', ' || after || ' ' || what_after AS detail
FROM differing
ORDER BY ALL
