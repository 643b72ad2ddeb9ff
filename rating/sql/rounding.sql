-- The one rounding of money: half away from zero to the minor unit of the currency. 1.225 -> 1.23, -1.225 -> -1.23.
-- `minor_per_major` is 100 for USD, `minor_unit` 0.01; both are rows of the table `currency`. The same rule in Python is
-- rating.rounding.round_amount; a property test holds them together.
CREATE OR REPLACE MACRO round_amount(exact_amount, minor_per_major, minor_unit) AS
    (sign(exact_amount)::DECIMAL(1, 0)
        * (floor(abs(exact_amount) * minor_per_major + 0.5) * minor_unit))::DECIMAL(38, 12)
