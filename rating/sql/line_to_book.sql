-- Worth minus booked, per line (span, price, group): what the next invoice of the account says, in numbers only.
-- One row per line that differs in quantity, exact amount, amount or in any of its components. The amount is
-- round(cumulative exact amount) minus the amounts booked before, so that every rounding error is repaid by the next one.
-- A line that was booked and is worth nothing any more is reversed in full, on the terms it was booked with.
-- What is not worth anything in a period that is being invoiced is a correction, whatever its period.
CREATE OR REPLACE TABLE line_to_book AS
WITH compared AS (
    SELECT
        span_id,
        price_id,
        group_key,
        worth_line.amount IS NOT NULL AS is_worth,
        coalesce(worth_line.quantity, 0)::DECIMAL(38, 9) AS cumulative_quantity,
        coalesce(worth_line.exact_amount, 0)::DECIMAL(38, 21) AS cumulative_exact_amount,
        coalesce(worth_line.amount, 0)::DECIMAL(38, 12) AS cumulative_amount,
        cumulative_quantity - coalesce(booked_line.quantity, 0) AS quantity,
        cumulative_exact_amount - coalesce(booked_line.exact_amount, 0) AS exact_amount,
        cumulative_amount - coalesce(booked_line.amount, 0) AS amount
    FROM worth_line
    FULL OUTER JOIN booked_line USING (span_id, price_id, group_key)
),
differing AS (
    SELECT *
    FROM compared
    WHERE quantity <> 0 OR exact_amount <> 0 OR amount <> 0
    UNION ALL
    SELECT compared.*
    FROM compared
    SEMI JOIN charge_to_book USING (span_id, price_id, group_key)
    WHERE quantity = 0 AND exact_amount = 0 AND amount = 0
)
SELECT differing.*, differing.is_worth AND billing_span.is_current AS is_current
FROM differing
LEFT JOIN billing_span USING (span_id)
