-- An exact amount x a ratio with six decimals, half away from zero to 21 decimals.
CREATE OR REPLACE MACRO ratio_of(exact_amount, ratio) AS
    CASE WHEN exact_amount < 0 THEN -ratio_of_size(-exact_amount, ratio) ELSE ratio_of_size(exact_amount, ratio) END
