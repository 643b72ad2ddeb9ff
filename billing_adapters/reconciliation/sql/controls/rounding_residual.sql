-- control: ROUNDING_RESIDUAL
-- version: 1
-- point: P5
-- compares: every booked line with its own figures: its amounts with the rounding of its exact amounts, its exact amounts
--     with the sum of its charges; every final document with the sum of its lines; and, over all lines, what rounding took
--     with what it gave
-- catches: books that were edited after they were written, rounding that is done twice, truncation in place of rounding
-- class: DATA_QUALITY
-- owner: ENG
-- money: EXACT
-- act: restore the books from a backup, or correct by a credit note
-- cadence: close
-- setting: lines_min = 30 different amounts before a lean of rounding can be told from chance
-- setting: deviations_max = 6 standard deviations that the sum of what rounding took may be away from 0
-- needs: booked
-- needs: final_invoice
-- needs: final_line
SELECT
    tenant_id,
    nullif(meter, '') AS meter,
    'booked_line_differs' AS reason,
    '' AS subject,
    count(*) AS rows,
    NULL::DECIMAL(38, 21) AS amount_likely,
    min(booked.currency) AS currency,
    'first ' || min(subscription_id || ' ' || price_id || ': booked ' || amount || ' ' || booked.currency
        || ', its exact amount rounds to '
        || rounded_exact_amount || ', its charges are ' || charged || ' of ' || exact_amount) AS detail
FROM booked
-- Counted line by line, so that two differences cannot cancel out.
WHERE amount <> rounded_exact_amount OR exact_amount <> charged
GROUP BY tenant_id, booked.meter
UNION ALL
SELECT
    NULL,
    NULL,
    'total_differs',
    coalesce(invoice.number, invoice.invoice_id),
    line.lines,
    abs(invoice.total - line.amount),
    invoice.currency,
    'the document says ' || invoice.total || ' ' || invoice.currency || ', its lines add up to ' || line.amount
FROM final_invoice AS invoice
JOIN (
    SELECT invoice_id, count(*) AS lines, sum(amount) AS amount
    FROM final_line
    GROUP BY invoice_id
) AS line USING (invoice_id)
WHERE invoice.total <> line.amount
    AND invoice.period_start >= $start_instant
    AND invoice.period_end <= $end_instant
UNION ALL
SELECT
    NULL,
    NULL,
    'rounding_leans',
    currency,
    count(*),
    abs(sum(residual)),
    currency,
    'over ' || count(*) || ' different amounts rounding took ' || sum(residual) || ' ' || currency || ' more than it gave'
FROM (
    -- The same amount on many lines leaves the same residual on each: it says one thing, once.
    SELECT DISTINCT booked.currency, exact_amount, exact_amount - rounded_exact_amount AS residual, places.minor_per_major
    FROM booked
    JOIN currency_unit AS places ON places.currency = booked.currency
    WHERE exact_amount <> rounded_exact_amount
)
GROUP BY currency
-- Residuals of chance lie evenly in one minor unit: their variance is 1/12 of its square.
HAVING count(*) >= $lines_min
    AND 12 * (sum(residual) * max(minor_per_major))::DECIMAL(15, 4) * (sum(residual) * max(minor_per_major))::DECIMAL(15, 4)
        > $deviations_max * $deviations_max * count(*)
ORDER BY ALL
