-- An exact amount x a ratio with six decimals, half away from zero to 21 decimals. Whole units and the rest are multiplied
-- apart, because 38 digits do not hold the product of both; only the rest has digits to lose.
CREATE OR REPLACE MACRO ratio_of(exact_amount, ratio) AS (
    sign(exact_amount)::DECIMAL(1, 0) * (
        (floor(abs(exact_amount))::DECIMAL(28, 0) * ratio::DECIMAL(10, 6))::DECIMAL(37, 21)
        + ((abs(exact_amount) - floor(abs(exact_amount)))::DECIMAL(21, 21) * ratio::DECIMAL(10, 6))::DECIMAL(37, 21)
    )::DECIMAL(37, 21)
)::DECIMAL(38, 21)
