-- control: TAX_MISSING
-- version: 1
-- point: P5
-- compares: the accounts that were invoiced without any tax with their reasons, where other accounts of the same country pay tax
-- catches: tax that the seller will owe, reverse charge without a tax number
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: give the account its taxes, or its tax number and a note with the reason
-- cadence: close
-- needs: final_invoice
-- needs: account_term
WITH rate_of AS (
    SELECT country, max(account_term.tax_percent) AS tax_percent
    FROM account_term
    WHERE account_term.tax_percent > 0
    GROUP BY ALL
),
invoiced AS (
    SELECT account_id, currency, sum(total) AS total, min(issued_at) AS issued_at
    FROM final_invoice
    WHERE period_start >= $start_instant AND period_end <= $end_instant
    GROUP BY ALL
)
SELECT
    invoiced.account_id,
    CASE WHEN account.tax_note IS NULL THEN 'no_tax_and_no_reason' ELSE 'no_tax_number' END AS reason,
    (invoiced.total * rate_of.tax_percent * 0.01)::DECIMAL(38, 21) AS amount_likely,
    invoiced.currency,
    invoiced.issued_at AS occurred_at,
    'invoiced ' || invoiced.total || ' ' || invoiced.currency || ' without tax; others in ' || coalesce(account.country, 'no country')
        || ' pay ' || rate_of.tax_percent || ' percent' AS detail
FROM invoiced
JOIN account_term AS account USING (account_id)
JOIN rate_of ON rate_of.country IS NOT DISTINCT FROM account.country
WHERE account.tax_percent = 0
    AND invoiced.total > 0
    -- A note is the reason; one on reverse charge needs a tax number besides.
    AND (account.tax_note IS NULL OR (account.tax_note ILIKE '%reverse%' AND account.vat_id IS NULL))
ORDER BY ALL
