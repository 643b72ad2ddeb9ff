-- JOURNAL_POSTING: what every final document posts, one row per amount and account; above zero is a debit, below a credit.
-- Entries of a document: `document` on its day of issue; `accrual` before it, where what it bills was earned in an earlier
-- month; `release` after it, one per later month in which a fee that was billed in advance is earned. The document takes an
-- accrual back. Source: finance files, section 3. Gross = net + tax = payable + prepaid, so every entry adds up to zero.
CREATE OR REPLACE TABLE journal_posting AS
SELECT
    'accrual' AS kind, document.invoice_id, document.earned_on AS posted_on, 1 AS turn, line.position, line.line_id,
    'unbilled_receivables' AS role, document.unbilled_account AS account, NULL::VARCHAR AS department, line.product, line.earned AS amount,
    NULL::VARCHAR AS reverses_kind, NULL::DATE AS reverses_on
FROM document_line AS line JOIN document USING (invoice_id)
WHERE document.is_accrued
UNION ALL
SELECT
    'accrual', document.invoice_id, document.earned_on, 2, line.position, line.line_id, 'revenue',
    line.revenue_account, line.department, line.product, -line.earned, NULL, NULL
FROM document_line AS line JOIN document USING (invoice_id)
WHERE document.is_accrued
UNION ALL
SELECT
    'document', invoice_id, issued_on, 1, 0, NULL, 'receivables', receivables_account, NULL, NULL, payable, NULL, NULL
FROM document
UNION ALL
SELECT
    'document', document.invoice_id, document.issued_on, 2, burn.position, burn.line_id, 'prepaid_balances',
    burn.prepaid_account, NULL, burn.balance_id, burn.paid, NULL, NULL
FROM document_burn AS burn JOIN document USING (invoice_id)
UNION ALL
SELECT
    'document', document.invoice_id, document.issued_on, 3, burn.position, burn.line_id, 'promotions',
    burn.promotions_account, NULL, burn.balance_id, burn.given, NULL, NULL
FROM document_burn AS burn JOIN document USING (invoice_id)
UNION ALL
SELECT
    'document', document.invoice_id, document.issued_on, 4, line.position, line.line_id,
    CASE WHEN document.is_accrued THEN 'unbilled_receivables' ELSE 'revenue' END,
    CASE WHEN document.is_accrued THEN document.unbilled_account ELSE line.revenue_account END,
    CASE WHEN document.is_accrued THEN NULL ELSE line.department END,
    line.product, -line.earned,
    CASE WHEN document.is_accrued THEN 'accrual' END, CASE WHEN document.is_accrued THEN document.earned_on END
FROM document_line AS line JOIN document USING (invoice_id)
UNION ALL
SELECT
    'document', document.invoice_id, document.issued_on, 5, line.position, line.line_id, 'deferred_revenue',
    line.deferred_account, NULL, line.product, -line.deferred, NULL, NULL
FROM document_line AS line JOIN document USING (invoice_id)
UNION ALL
SELECT
    'document', document.invoice_id, document.issued_on, 6, tax.position, NULL, 'tax', tax.account, NULL, tax.tax,
    -tax.amount, NULL, NULL
FROM document_tax AS tax JOIN document USING (invoice_id)
UNION ALL
SELECT
    'release', release.invoice_id, release.posted_on, 1, line.position, line.line_id, 'deferred_revenue',
    line.deferred_account, NULL, line.product, release.amount, NULL, NULL
FROM document_release AS release JOIN document_line AS line USING (invoice_id, line_id)
UNION ALL
SELECT
    'release', release.invoice_id, release.posted_on, 2, line.position, line.line_id, 'revenue',
    line.revenue_account, line.department, line.product, -release.amount, NULL, NULL
FROM document_release AS release JOIN document_line AS line USING (invoice_id, line_id)
