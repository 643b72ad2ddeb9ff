-- control: UNCOLLECTED_AGED
-- version: 3
-- point: P8
-- compares: what is still open of a provider's invoices with the day on which it was due; and the services that an account still
--     uses with what it paid of its last invoices
-- catches: reminders that nobody sends, cards that are dead, services that go on unpaid
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: remind, collect another way, or write it off with an approval
-- cadence: daily
-- setting: days_max = 14 days past its due date that an invoice may be open
-- setting: silent_days = 60 days in which an account in service pays nothing and owes nothing that is open
-- needs: provider_payment
-- needs: document_held
-- needs: payment_read
-- needs: final_invoice
-- needs: subscription_term
-- needs: counted_event
WITH listed AS (
    SELECT held.invoice_id, sum(payment.paid) AS paid, sum(payment.open) AS open,
        bool_or(payment.written_off <> 0 OR payment.status = 'void') AS is_given_up
    FROM provider_payment AS payment
    JOIN document_held AS held USING (adapter, provider_id)
    WHERE held.invoice_id IS NOT NULL AND payment.kind = 'invoice'
    GROUP BY ALL
),
collected AS (
    -- The list of a provider is newer than what a webhook told.
    FROM listed
    UNION ALL
    SELECT invoice_id, sum(paid), sum(open), false
    FROM payment_read
    ANTI JOIN listed USING (invoice_id)
    GROUP BY ALL
),
in_service AS (
    SELECT DISTINCT term.account_id
    FROM subscription_term AS term
    SEMI JOIN (
        SELECT DISTINCT tenant_id FROM counted_event WHERE event_time >= $start_instant AND event_time < $end_instant
    ) AS used USING (tenant_id)
    WHERE term.starts_at + to_days($silent_days) <= $as_of AND (term.ends_at IS NULL OR term.ends_at > $as_of)
),
silent AS (
    SELECT invoice.account_id, invoice.currency, sum(invoice.amount_due) AS amount, count(*) AS rows,
        min(invoice.issued_at) AS issued_at, bool_or(collected.is_given_up) AS is_given_up,
        string_agg(invoice.number, ', ' ORDER BY invoice.number) AS numbers
    FROM final_invoice AS invoice
    SEMI JOIN in_service USING (account_id)
    LEFT JOIN collected USING (invoice_id)
    WHERE invoice.amount_due > 0 AND invoice.issued_at + to_days($silent_days) > $as_of
    GROUP BY ALL
    -- One whose payment nobody knows may be paid; it is found by INVOICE_NOT_DELIVERED where it never arrived.
    HAVING count(*) = count(collected.invoice_id) AND sum(collected.paid) = 0 AND sum(collected.open) = 0
)
SELECT
    payment.adapter,
    NULL::VARCHAR AS account_id,
    -- The same while it grows older: its age is no part of what it is.
    'past_due' AS reason,
    payment.adapter || ' ' || coalesce(held.number, payment.provider_id) AS subject,
    1 AS rows,
    payment.open::DECIMAL(38, 21) AS amount_likely,
    payment.currency,
    'AT_RISK' AS class,
    payment.due_at AS occurred_at,
    payment.open || ' of ' || payment.total || ' ' || payment.currency || ' open, due ' || strftime(payment.due_at, '%Y-%m-%d') || ', '
        || date_diff('day', payment.due_at, $as_of) || ' days ago' AS detail
FROM provider_payment AS payment
JOIN document_held AS held USING (adapter, provider_id)
WHERE payment.open > 0 AND payment.due_at + to_days($days_max) <= $as_of
UNION ALL
SELECT
    NULL,
    account_id,
    'served_and_silent',
    account_id || ' ' || currency,
    rows,
    amount::DECIMAL(38, 21),
    currency,
    -- What the provider wrote off or voided is money of STATUS_DRIFT already; that the service goes on is new.
    CASE WHEN is_given_up THEN 'INFO' ELSE 'AT_RISK' END,
    issued_at,
    'in service and in use; of ' || numbers || ' nothing was paid and nothing is open any more'
FROM silent
ORDER BY ALL
