-- A quantity in the unit of the price. `numerator` by `denominator` is how many steps one billionth of a unit of the meter
-- makes, `step` how many billionths of a unit of the price a step has: thousands, rounded up to whole ones, are 1 by 10^12
-- and 10^9. Worked out on whole numbers, whole steps first, so that nothing is lost and nothing leaves 128 bits: a decimal
-- division would be a double. 2,300 calls in thousands, rounded up, are 3. Without a conversion the quantity stays as it is.
CREATE OR REPLACE MACRO convert_quantity(quantity, numerator, denominator, step, rounding) AS
    CASE
        WHEN numerator IS NULL THEN quantity
        ELSE
            ((
                (
                    (quantity * 1000000000)::HUGEINT // denominator * numerator
                    + CASE rounding
                        WHEN 'ceil'
                            THEN ((quantity * 1000000000)::HUGEINT % denominator * numerator + denominator - 1) // denominator
                        WHEN 'floor'
                            THEN (quantity * 1000000000)::HUGEINT % denominator * numerator // denominator
                        ELSE
                            (2 * ((quantity * 1000000000)::HUGEINT % denominator) * numerator + denominator)
                            // (2 * denominator)
                    END
                ) * step
            )::DECIMAL(38, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)
    END
