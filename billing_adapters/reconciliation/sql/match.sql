-- Two lists of the same things, ours and a provider's, against each other. One row per (key, currency), each once.
-- `match_ours` and `match_theirs` may hold several rows of a key: they are added up, and `our_rows`, `their_rows` count them.
-- A difference is theirs minus ours; of a row without counterpart the other side is nothing. It is null where one side does
-- not tell the figure. Currencies are never added, so a key that has one currency here and another there gives two rows.
--   match             both are there, and equal to the last digit
--   within_tolerance  both are there, and differ by no more than `match_tolerance` of the currency allows
--   currency_differs  ours is there in one currency, theirs in another
--   timing            they differ, and one of them is younger than $settled_before: look again later
--   only_ours, only_theirs, quantity_differs, amount_differs   breaks; where both differ, the quantity explains the amount
-- Tolerances are limits above and below apart, absolute or a share of ours, whichever is more; both sides of a share are taken
-- times 10^9, so that none of its digits is rounded away. `is_rounding` allows what
-- rounding of `detail_rows` can come to (FOCUS 1.4): max(100 subunits, half the root of the rows, in subunits); the root is not
-- taken, both sides are squared.
CREATE OR REPLACE TABLE matched AS
WITH ours AS (
    SELECT
        key,
        currency,
        count(*) AS rows,
        sum(detail_rows) AS detail_rows,
        sum(quantity)::DECIMAL(38, 12) AS quantity,
        sum(amount)::DECIMAL(38, 12) AS amount,
        max(occurred_at) AS newest_at
    FROM match_ours
    GROUP BY key, currency
),
theirs AS (
    SELECT
        key,
        currency,
        count(*) AS rows,
        sum(quantity)::DECIMAL(38, 12) AS quantity,
        sum(amount)::DECIMAL(38, 12) AS amount,
        max(occurred_at) AS newest_at
    FROM match_theirs
    GROUP BY key, currency
),
paired AS MATERIALIZED (
    SELECT
        key,
        currency,
        coalesce(ours.rows, 0) AS our_rows,
        coalesce(theirs.rows, 0) AS their_rows,
        coalesce(ours.detail_rows, 0)::BIGINT AS detail_rows,
        ours.quantity AS our_quantity,
        theirs.quantity AS their_quantity,
        ours.amount AS our_amount,
        theirs.amount AS their_amount,
        CASE
            WHEN theirs.rows IS NULL THEN -ours.quantity
            WHEN ours.rows IS NULL THEN theirs.quantity
            ELSE theirs.quantity - ours.quantity
        END AS quantity_difference,
        CASE
            WHEN theirs.rows IS NULL THEN -ours.amount
            WHEN ours.rows IS NULL THEN theirs.amount
            ELSE theirs.amount - ours.amount
        END AS amount_difference,
        coalesce(ours.newest_at >= $settled_before, false) OR coalesce(theirs.newest_at >= $settled_before, false) AS is_young
    FROM ours
    FULL OUTER JOIN theirs USING (key, currency)
),
other_currency AS (
    SELECT key FROM paired WHERE our_rows = 0
    INTERSECT
    SELECT key FROM paired WHERE their_rows = 0
),
judged AS (
    SELECT
        paired.*,
        our_rows > 0 AND their_rows > 0 AS is_both,
        (our_rows = 0 OR their_rows = 0) AND other_currency.key IS NOT NULL AS is_other_currency,
        coalesce(quantity_difference, 0) = 0 AS is_same_quantity,
        coalesce(amount_difference, 0) = 0 AS is_same_amount,
        coalesce(
            abs(quantity_difference) <= CASE WHEN quantity_difference > 0 THEN quantity_above ELSE quantity_below END
                OR abs(quantity_difference) * 1000000000
                    <= abs(coalesce(our_quantity, 0)) * (quantity_share::DECIMAL(38, 9) * 1000000000)::BIGINT,
            true
        ) AS is_near_quantity,
        coalesce(
            abs(amount_difference) <= CASE WHEN amount_difference > 0 THEN amount_above ELSE amount_below END
                OR abs(amount_difference) * 1000000000
                    <= abs(coalesce(our_amount, 0)) * (amount_share::DECIMAL(38, 9) * 1000000000)::BIGINT,
            true
        )
        OR (
            is_rounding
            AND (
                abs(amount_difference) <= 100 * subunit
                -- Beyond a million nothing comes from rounding, and its square would not fit.
                OR (
                    abs(amount_difference) < 1000000
                    AND TRY_CAST(2 * amount_difference AS DECIMAL(18, 12)) * TRY_CAST(2 * amount_difference AS DECIMAL(18, 12))
                    <= detail_rows * (subunit * subunit)
                )
            )
        ) AS is_near_amount
    FROM paired
    LEFT JOIN other_currency USING (key)
    JOIN match_tolerance USING (currency)
)
SELECT
    key,
    currency,
    CASE
        WHEN is_both AND is_same_quantity AND is_same_amount THEN 'match'
        WHEN is_both AND is_near_quantity AND is_near_amount THEN 'within_tolerance'
        WHEN is_other_currency THEN 'currency_differs'
        WHEN is_young THEN 'timing'
        WHEN their_rows = 0 THEN 'only_ours'
        WHEN our_rows = 0 THEN 'only_theirs'
        WHEN NOT is_near_quantity THEN 'quantity_differs'
        ELSE 'amount_differs'
    END AS status,
    our_rows,
    their_rows,
    detail_rows,
    our_quantity,
    their_quantity,
    quantity_difference,
    our_amount,
    their_amount,
    amount_difference
FROM judged
