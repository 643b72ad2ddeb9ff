-- JOURNAL_SETTLEMENT adds to JOURNAL_ENTRY what payments, refunds and write-offs post: cash or bad debt against receivables, on the day
-- on which they are booked. Two legs each, opposite and equal; a refund, and a payment that was taken back, is below zero.
-- Ids are hashes of the settlement's own id, so that whoever publishes it again makes the same entry.
INSERT INTO journal_entry
SELECT
    batch_id,
    'je-' || left(sha256(concat_ws(chr(31), settlement_id, kind, posted_on::VARCHAR)), 24) AS entry_id,
    leg.line_no,
    kind,
    posted_on AS date,
    strftime(posted_on, '%Y-%m') AS period,
    leg.role,
    leg.account,
    greatest(leg.amount, 0) AS debit,
    greatest(-leg.amount, 0) AS credit,
    currency,
    entity,
    NULL AS department,
    account_id,
    invoice_id,
    number,
    NULL AS line_id,
    NULL AS product,
    concat_ws(' ', replace(kind, '_', '-'), 'of', number) AS description,
    NULL AS reverses_entry_id
FROM settlement
CROSS JOIN LATERAL (
    SELECT 1 AS line_no, settlement.against AS role, settlement.against_account AS account, settlement.amount AS amount
    UNION ALL
    SELECT 2, 'receivables', settlement.receivables_account, -settlement.amount
) AS leg
