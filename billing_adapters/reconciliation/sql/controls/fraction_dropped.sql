-- control: FRACTION_DROPPED
-- version: 1
-- point: P6
-- compares: what was used of a name at a provider, exactly, with what was sent of it and the remainder that waits
-- catches: units that are cut off window by window, a remainder that is not carried into the next one or the next month
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: what was cut off goes into a later open window; carry the remainder (billing_adapters.usage_totals)
-- cadence: delivery
-- needs: ledger_quantity
-- needs: sent_quantity
WITH last_told AS (
    -- Where a later total of a window takes the place of an earlier one, it is the one that was meant.
    SELECT *
    FROM sent_quantity
    QUALIFY row_number() OVER (PARTITION BY adapter, subscription_id, name, start ORDER BY revision DESC, delivery_id) = 1
),
sent AS (
    SELECT ledger.adapter, ledger.subscription_id, ledger.name, sum(sent.quantity) AS quantity
    FROM ledger_quantity AS ledger
    JOIN last_told AS sent
        ON sent.adapter = ledger.adapter
        AND sent.subscription_id = ledger.subscription_id
        AND sent.name = ledger.name
        AND sent.start < ledger.until
    GROUP BY ALL
),
compared AS (
    SELECT ledger.*, coalesce(sent.quantity, 0) AS sent, ledger.quantity - coalesce(sent.quantity, 0) AS remainder
    FROM ledger_quantity AS ledger
    LEFT JOIN sent USING (adapter, subscription_id, name)
)
SELECT
    tenant_id,
    account_id,
    subscription_id,
    meter,
    adapter,
    CASE WHEN remainder < 0 THEN 'more_than_used' ELSE 'not_carried' END AS reason,
    adapter || ' ' || subscription_id || ' ' || name AS subject,
    quantity::DECIMAL(38, 9) AS quantity_expected,
    sent::DECIMAL(38, 9) AS quantity_actual,
    -- Whole units only: what is below one of the provider's units waits by right.
    (abs(remainder) - abs(remainder) % unit_size)::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN remainder < 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    until AS occurred_at,
    'used ' || quantity || ' until ' || strftime(until, '%Y-%m-%dT%H:%MZ') || ', sent ' || sent || ' in units of ' || unit_size AS detail
FROM compared
WHERE abs(remainder) >= unit_size
ORDER BY ALL
