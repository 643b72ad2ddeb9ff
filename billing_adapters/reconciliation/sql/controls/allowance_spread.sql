-- control: ALLOWANCE_SPREAD
-- version: 1
-- point: P4
-- compares: the tenants that use a meter and owe nothing with one another: those whose accounts share a tax number, an e-mail
--     address or a postal address
-- catches: one payer who is split over many free tenants
-- class: INFO
-- owner: SEC, SALES
-- money: E3
-- act: look at the accounts of the key; universities, resellers and agencies are waived
-- cadence: daily
-- setting: tenants_min = 3 free tenants of one key
-- needs: counted_event
-- needs: account_term
-- needs: account_tenant
-- needs: worth
WITH free_use AS (
    SELECT tenant_id, meter, sum(quantity) AS quantity
    FROM counted_event
    ANTI JOIN (SELECT tenant_id FROM worth WHERE amount > 0) AS paying USING (tenant_id)
    WHERE event_time >= $start_instant AND event_time < $end_instant
    GROUP BY ALL
),
owner_key AS (
    SELECT account_id, 'tax_number' AS kind, lower(vat_id) AS key FROM account_term WHERE vat_id IS NOT NULL
    UNION ALL
    SELECT account_id, 'email', lower(email) FROM account_term WHERE email IS NOT NULL
    UNION ALL
    SELECT account_id, 'address', lower(address) FROM account_term WHERE address IS NOT NULL
)
SELECT
    free_use.meter,
    'shared_' || owner_key.kind AS reason,
    -- Whose it is stands in the catalog; here it is only told apart.
    left(sha256('tallybook ' || owner_key.kind || ' ' || owner_key.key), 16) AS subject,
    count(*) AS rows,
    (sum(free_use.quantity) - max(free_use.quantity))::DECIMAL(38, 9) AS quantity_difference,
    count(*) || ' free tenants share one ' || replace(owner_key.kind, '_', ' ') || ', first ' || min(free_use.tenant_id)
        || '; what all but the largest used counts' AS detail
FROM free_use
JOIN account_tenant USING (tenant_id)
JOIN owner_key USING (account_id)
GROUP BY free_use.meter, owner_key.kind, owner_key.key
HAVING count(*) >= $tenants_min
ORDER BY ALL
