-- control: HELD_COLLECTED
-- version: 1
-- point: P8
-- compares: the total of every document that a provider has with what became of its money, in the provider's list of payments: paid,
--     open, credited, refunded, disputed, written off, moved to a balance
-- catches: money that is in no part of a payment, and documents whose payment the provider does not know
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: look at the document on the provider's own page; correct the export, or ask the provider where the rest is
-- cadence: daily
-- needs: provider_payment
-- needs: document_held
-- needs: booked_document
WITH collected AS (
    SELECT adapter, provider_id, sum(paid + open + credited + refunded + disputed + written_off + to_balance) AS amount
    FROM provider_payment
    GROUP BY ALL
)
SELECT
    document.account_id,
    held.adapter,
    CASE
        WHEN collected.amount IS NULL THEN 'no_payment'
        WHEN held.amount > collected.amount THEN 'less_than_held'
        ELSE 'more_than_held'
    END AS reason,
    held.adapter || ' ' || coalesce(held.number, held.provider_id) AS subject,
    1 AS rows,
    abs(held.amount - coalesce(collected.amount, 0))::DECIMAL(38, 21) AS amount_likely,
    held.currency,
    CASE WHEN held.amount > coalesce(collected.amount, 0) THEN 'AT_RISK' ELSE 'OVERBILL' END AS class,
    held.created_at AS occurred_at,
    'the provider has ' || held.amount || ' ' || held.currency || ', and knows what became of ' || coalesce(collected.amount, 0)
        AS detail
FROM document_held AS held
LEFT JOIN booked_document AS document ON document.invoice_id = held.invoice_id
LEFT JOIN collected ON collected.adapter = held.adapter AND collected.provider_id = held.provider_id
-- Of a provider whose payments were not read nothing is known.
SEMI JOIN provider_payment AS read ON read.adapter = held.adapter
WHERE held.amount <> coalesce(collected.amount, 0)
ORDER BY ALL
