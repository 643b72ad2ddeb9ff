-- control: UNCOLLECTED_AGED
-- version: 1
-- point: P8
-- compares: what is still open of a provider's invoices with the day on which it was due
-- catches: reminders that nobody sends, cards that are dead, services that go on unpaid
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: remind, collect another way, or write it off with an approval
-- cadence: daily
-- setting: days_max = 14 days past its due date that an invoice may be open
-- needs: provider_payment
-- needs: document_held
SELECT
    payment.adapter,
    CASE
        WHEN payment.due_at + to_days(60) <= $as_of THEN 'past_due_60_days'
        WHEN payment.due_at + to_days(30) <= $as_of THEN 'past_due_30_days'
        ELSE 'past_due'
    END AS reason,
    payment.adapter || ' ' || coalesce(held.number, payment.provider_id) AS subject,
    1 AS rows,
    payment.open::DECIMAL(38, 21) AS amount_likely,
    payment.currency,
    payment.due_at AS occurred_at,
    payment.open || ' of ' || payment.total || ' ' || payment.currency || ' open, due ' || strftime(payment.due_at, '%Y-%m-%d') AS detail
FROM provider_payment AS payment
JOIN document_held AS held USING (adapter, provider_id)
WHERE payment.open > 0 AND payment.due_at + to_days($days_max) <= $as_of
ORDER BY ALL
