-- The meter's own rounding, on the aggregate: to whole steps of `step` billionths of a unit (places 1 are 100,000,000, places
-- -1 are 10,000,000,000). `ceil` goes up, also below zero; `floor` down; `round` half away from zero. Mode null: as it is.
CREATE OR REPLACE MACRO round_quantity(quantity, mode, step) AS
    CASE mode
        WHEN 'round'
            THEN from_billionths(divide_half_away((quantity * 1000000000)::HUGEINT, step) * step)
        WHEN 'ceil'
            THEN from_billionths((quantity * 1000000000)::HUGEINT + (step - (quantity * 1000000000)::HUGEINT % step) % step)
        WHEN 'floor'
            THEN from_billionths((quantity * 1000000000)::HUGEINT - (step + (quantity * 1000000000)::HUGEINT % step) % step)
        ELSE quantity
    END
