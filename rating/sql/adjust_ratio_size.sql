-- An amount from zero on x a ratio with six decimals, half up to 21 decimals. Whole units and the rest are multiplied apart,
-- because 38 digits do not hold the product of both; only the rest has digits to lose.
CREATE OR REPLACE MACRO ratio_of_size(size, ratio) AS (
    (floor(size)::DECIMAL(28, 0) * ratio::DECIMAL(10, 6))::DECIMAL(38, 21)
    + ((size - floor(size))::DECIMAL(21, 21) * ratio::DECIMAL(10, 6))::DECIMAL(38, 21)
)::DECIMAL(38, 21)
