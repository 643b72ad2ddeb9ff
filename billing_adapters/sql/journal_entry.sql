-- JOURNAL_ENTRY: the postings as legs of numbered entries. One row per leg; a leg is a debit or a credit, never both, never zero.
-- Ids are hashes of the document's content, the kind of entry and its day, so whoever publishes the same document again
-- makes the same entries, and a ledger that knows an id has nothing to import.
CREATE OR REPLACE TABLE journal_entry AS
WITH identified AS (
    SELECT
        posting.*,
        document.batch_id,
        document.number,
        document.account_id,
        document.entity,
        document.currency,
        document.content_hash,
        'je-' || left(sha256(concat_ws(chr(31), document.content_hash, posting.kind, posting.posted_on::VARCHAR)), 24)
            AS entry_id,
        CASE
            WHEN posting.reverses_kind IS NOT NULL
            THEN 'je-' || left(
                sha256(concat_ws(chr(31), document.content_hash, posting.reverses_kind, posting.reverses_on::VARCHAR)), 24
            )
        END AS reverses_entry_id
    FROM journal_posting AS posting
    JOIN document USING (invoice_id)
    WHERE posting.amount <> 0
)
SELECT
    batch_id,
    entry_id,
    row_number() OVER (
        PARTITION BY entry_id
        ORDER BY turn, position, line_id NULLS FIRST, account, product NULLS FIRST, reverses_on NULLS FIRST
    ) AS line_no,
    kind,
    posted_on AS date,
    strftime(posted_on, '%Y-%m') AS period,
    role,
    account,
    greatest(amount, 0) AS debit,
    greatest(-amount, 0) AS credit,
    currency,
    entity,
    department,
    account_id,
    invoice_id,
    number,
    line_id,
    product,
    concat_ws(
        ' ', CASE kind WHEN 'accrual' THEN 'accrued for' WHEN 'release' THEN 'earned of' WHEN 'void' THEN 'void of' END, number, product
    ) AS description,
    reverses_entry_id
FROM identified
