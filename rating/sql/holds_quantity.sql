-- Whether a tier holds a quantity. A tier is (lower_bound, upper_bound], and the first one also holds 0; read with lower edges
-- it is [lower_bound, upper_bound): 40 of 40@3, open@2 are at 3, or at 2. Read with bounds in whole numbers ("0-39, 40-") nothing
-- holds what lies between the last one of a tier and the first one of the next.
CREATE OR REPLACE MACRO holds_quantity(quantity, tier_number, lower_bound, upper_bound, edge_is_lower, gap_is_lost) AS
    CASE
        WHEN edge_is_lower
            THEN quantity >= lower_bound
            AND (upper_bound IS NULL OR quantity < upper_bound)
            AND (NOT gap_is_lost OR upper_bound IS NULL OR quantity <= upper_bound - 1)
        ELSE (quantity > lower_bound OR tier_number = 1)
        AND (upper_bound IS NULL OR quantity <= upper_bound)
        AND (NOT gap_is_lost OR tier_number = 1 OR quantity >= lower_bound + 1)
    END
