-- control: CURRENCY_DIFFERS
-- version: 1
-- point: P5
-- compares: the currency of every final line with that of its document and of its plan version, and of every final document with
--     that of its account
-- catches: euros billed as dollars, a currency without minor units scaled by 100
-- class: DATA_QUALITY
-- owner: FIN
-- money: EXACT
-- act: correct by a credit note in the wrong currency and an invoice in the right one
-- cadence: close
-- needs: final_invoice
-- needs: final_line
-- needs: plan_term
-- needs: account_term
SELECT
    line.tenant_id,
    invoice.account_id,
    line.meter,
    'line_and_document' AS reason,
    coalesce(invoice.number, invoice.invoice_id) AS subject,
    count(*) AS rows,
    abs(sum(line.amount))::DECIMAL(38, 21) AS amount_likely,
    line.currency,
    'lines in ' || line.currency || ' stand on a document in ' || invoice.currency AS detail
FROM final_line AS line
JOIN final_invoice AS invoice USING (invoice_id)
WHERE line.currency <> invoice.currency
    AND invoice.period_start >= $start_instant
    AND invoice.period_end <= $end_instant
GROUP BY ALL
UNION ALL
SELECT
    line.tenant_id,
    invoice.account_id,
    line.meter,
    'line_and_plan',
    coalesce(invoice.number, invoice.invoice_id) || ' ' || line.plan || '/' || line.plan_version,
    count(*),
    abs(sum(line.amount)),
    line.currency,
    'lines in ' || line.currency || ' come from plan ' || line.plan || ' version ' || line.plan_version || ' in ' || plan.currency
FROM final_line AS line
JOIN final_invoice AS invoice USING (invoice_id)
JOIN plan_term AS plan ON plan.plan = line.plan AND plan.plan_version = line.plan_version
WHERE line.currency <> plan.currency
    AND invoice.period_start >= $start_instant
    AND invoice.period_end <= $end_instant
GROUP BY ALL
UNION ALL
SELECT
    NULL,
    invoice.account_id,
    NULL,
    'document_and_account',
    coalesce(invoice.number, invoice.invoice_id),
    1,
    abs(invoice.total),
    invoice.currency,
    'a document in ' || invoice.currency || ' for an account in ' || account.currency
FROM final_invoice AS invoice
JOIN account_term AS account USING (account_id)
WHERE account.currency <> invoice.currency
    AND invoice.period_start >= $start_instant
    AND invoice.period_end <= $end_instant
ORDER BY ALL
