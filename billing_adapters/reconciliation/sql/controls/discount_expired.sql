-- control: DISCOUNT_EXPIRED
-- version: 1
-- point: P5
-- compares: the discounts on booked components with their terms in the catalog: until when they hold, and whether they exist
-- catches: promotions that went on after their end, discounts that nobody can find any more
-- class: AT_RISK
-- owner: FIN, SALES
-- money: EXACT
-- act: the next close takes it back as a correction; a renewal by word of mouth is written into the catalog
-- cadence: close
-- needs: booked_charge_row
-- needs: booked_line
-- needs: discount_term
WITH given AS (
    SELECT
        line.tenant_id,
        line.account_id,
        line.subscription_id,
        line.currency,
        greatest(line.period_start, line.service_start) AS begins_at,
        substr(component.part, length('discount:') + 1) AS discount_id,
        sum(-component.exact_amount) AS amount
    FROM booked_charge_row AS component
    JOIN booked_line AS line
        ON line.subscription_id = component.subscription_id
        AND line.period_start = component.period_start
        AND line.service_start = component.service_start
        AND line.currency = component.currency
        AND line.price_id = component.price_id
        AND line.group_key = component.group_key
    WHERE starts_with(component.part, 'discount:')
    GROUP BY ALL
    HAVING sum(-component.exact_amount) > 0
),
held AS (
    -- A discount of the same id may stand at the plan and at the account: what holds the longest decides.
    SELECT subscription_id, discount_id, max(coalesce(ends_at, TIMESTAMPTZ '9999-01-01 00:00:00+00')) AS ends_at
    FROM discount_term
    GROUP BY ALL
)
SELECT
    given.tenant_id,
    given.account_id,
    given.subscription_id,
    CASE WHEN held.ends_at IS NULL THEN 'not_in_catalog' ELSE 'after_its_end' END AS reason,
    given.subscription_id || ' ' || given.discount_id AS subject,
    sum(given.amount)::DECIMAL(38, 21) AS amount_likely,
    given.currency,
    min(given.begins_at) AS occurred_at,
    'discount ' || given.discount_id || ' was given for a billing period from ' || strftime(min(given.begins_at), '%Y-%m-%d')
        || ' on; ' || coalesce('it ended on ' || strftime(min(held.ends_at), '%Y-%m-%d'), 'the catalog does not have it')
        AS detail
FROM given
LEFT JOIN held USING (subscription_id, discount_id)
WHERE held.ends_at IS NULL OR given.begins_at >= held.ends_at
GROUP BY given.tenant_id, given.account_id, given.subscription_id, given.discount_id, given.currency, held.ends_at
ORDER BY ALL
