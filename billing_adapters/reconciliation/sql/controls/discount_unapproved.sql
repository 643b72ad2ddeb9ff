-- control: DISCOUNT_UNAPPROVED
-- version: 1
-- point: P4
-- compares: the discounts and overrides that lower what the period is worth with who approved them, and with how much that
--     person, or everybody, may give away (`[discount_authority]` of the settings)
-- catches: concessions that nobody signed, signatures of people who may not give so much
-- class: AT_RISK
-- owner: FIN, SALES
-- money: EXACT
-- act: let somebody approve it whose limit it keeps (approved_by and reason in the catalog), or take it out of the catalog
-- cadence: close
-- needs: charge
-- needs: billing_span
-- needs: discount_term
-- needs: override_term
-- needs: override_given
-- needs: discount_authority
WITH taken AS (
    SELECT
        span.tenant_id,
        span.account_id,
        span.subscription_id,
        span.currency,
        substr(charge.part, length('discount:') + 1) AS discount_id,
        sum(-charge.exact_amount) AS amount
    FROM charge
    JOIN billing_span AS span USING (span_id)
    WHERE starts_with(charge.part, 'discount:') AND span.is_current
    GROUP BY ALL
    HAVING sum(-charge.exact_amount) > 0
),
discounted AS (
    -- A discount of the same id may stand at the plan and at the account: each is judged by itself.
    SELECT DISTINCT
        taken.tenant_id,
        taken.account_id,
        taken.subscription_id,
        taken.currency,
        taken.amount,
        taken.subscription_id || ' ' || taken.discount_id AS subject,
        'discount ' || taken.discount_id AS what,
        term.percent::DECIMAL(38, 6) AS percent,
        term.amount AS money,
        NULL::DECIMAL(38, 12) AS whole,
        term.approved_by
    FROM taken
    JOIN discount_term AS term USING (subscription_id, discount_id)
    WHERE term.currency = taken.currency
),
overridden AS (
    SELECT
        given.tenant_id,
        given.account_id,
        given.subscription_id,
        given.currency,
        sum(given.plan_amount - given.amount) AS amount,
        given.subscription_id || ' ' || given.price_id AS subject,
        'the override of price ' || given.price_id AS what,
        NULL AS percent,
        NULL AS money,
        sum(given.plan_amount) AS whole,
        term.approved_by
    FROM override_given AS given
    JOIN override_term AS term USING (subscription_id, price_id)
    GROUP BY ALL
    HAVING sum(given.plan_amount - given.amount) > 0
),
concession AS (
    FROM discounted
    UNION ALL BY NAME
    FROM overridden
),
judged AS (
    -- What everybody may give needs no approval. A limit that is not said is 0. Of an override the share counts that it takes
    -- of what the plan itself asks for: 100 x taken > percent x whole.
    SELECT
        concession.*,
        concession.approved_by IN (SELECT approver FROM discount_authority) AS is_approver,
        coalesce(
            percent > coalesce(free.percent_max, 0),
            money > coalesce(free.amount_max, 0),
            100 * concession.amount > coalesce(free.percent_max, 0) * whole
        ) AS is_beyond_all,
        coalesce(
            percent > coalesce(own.percent_max, 0),
            money > coalesce(own.amount_max, 0),
            100 * concession.amount > coalesce(own.percent_max, 0) * whole
        ) AS is_beyond_own
    FROM concession
    LEFT JOIN discount_authority AS free
        ON free.approver = ''
        AND coalesce(free.currency, '') = CASE WHEN money IS NULL THEN '' ELSE concession.currency END
    LEFT JOIN discount_authority AS own
        ON own.approver = concession.approved_by
        AND coalesce(own.currency, '') = CASE WHEN money IS NULL THEN '' ELSE concession.currency END
)
SELECT
    tenant_id,
    account_id,
    subscription_id,
    CASE
        WHEN approved_by IS NULL THEN 'no_approval'
        WHEN is_approver THEN 'beyond_authority'
        ELSE 'not_an_approver'
    END AS reason,
    subject,
    max(judged.amount)::DECIMAL(38, 21) AS amount_likely,
    currency,
    what || ' is beyond what anybody may give, and ' || CASE
        WHEN approved_by IS NULL THEN 'nobody approved it'
        WHEN is_approver THEN approved_by || ' approved it, who may give less'
        ELSE approved_by || ' approved it, who has no limit of approval in the settings'
    END || '; this is what it took in the period' AS detail
FROM judged
WHERE is_beyond_all AND (approved_by IS NULL OR NOT is_approver OR is_beyond_own)
GROUP BY tenant_id, account_id, subscription_id, subject, currency, what, approved_by, is_approver
ORDER BY ALL
