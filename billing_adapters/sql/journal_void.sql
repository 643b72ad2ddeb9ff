-- JOURNAL_VOID adds to JOURNAL_POSTING what the void of a document takes back: every posting of it with the opposite sign, on the
-- day of the void, or, of releases that come later, on their own day. An accrual and its taking back are left out together,
-- so that the entry adds up to zero without unbilled receivables. What burns give back was worked out where the void
-- stands among all burns of their balances, so that the parts that were paid for add up.
INSERT INTO journal_posting
SELECT
    'void', posting.invoice_id, greatest(posting.posted_on, document.voided_on), posting.turn, posting.position,
    posting.line_id, posting.role, posting.account, posting.department, posting.product,
    CASE posting.role
        WHEN 'prepaid_balances' THEN -burn.paid_back
        WHEN 'promotions' THEN -burn.given_back
        ELSE -posting.amount
    END,
    -- The document took its accrual back itself, so what is taken back of both is the document.
    CASE posting.kind WHEN 'accrual' THEN 'document' ELSE posting.kind END,
    CASE posting.kind WHEN 'accrual' THEN document.issued_on ELSE posting.posted_on END
FROM journal_posting AS posting
JOIN document USING (invoice_id)
LEFT JOIN document_burn AS burn
    ON burn.invoice_id = posting.invoice_id AND burn.position = posting.position
    AND posting.role IN ('prepaid_balances', 'promotions')
WHERE document.voided_on IS NOT NULL AND posting.role <> 'unbilled_receivables'
