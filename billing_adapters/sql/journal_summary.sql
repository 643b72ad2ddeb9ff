-- JOURNAL_SUMMARY: the same entries added up for an ERP that does not want every line. One row per close, day, entity, currency,
-- account, department and side. Debits and credits of an account are not netted, so that turnover can be compared.
CREATE OR REPLACE TABLE journal_summary AS
WITH added AS (
    SELECT
        batch_id, date, period, entity, currency, account, department,
        journal_entry.debit <> 0 AS is_debit,
        sum(journal_entry.debit) AS debit,
        sum(credit) AS credit,
        count(*) AS legs
    FROM journal_entry
    GROUP BY batch_id, date, period, entity, currency, account, department, is_debit
),
identified AS (
    SELECT
        added.*,
        'js-' || left(sha256(concat_ws(chr(31), batch_id, date::VARCHAR, coalesce(entity, ''), currency)), 24) AS entry_id
    FROM added
)
SELECT
    batch_id,
    entry_id,
    row_number() OVER (PARTITION BY entry_id ORDER BY is_debit DESC, account, department NULLS FIRST) AS line_no,
    date, period, account, debit, credit, currency, entity, department, legs
FROM identified
