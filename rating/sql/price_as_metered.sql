-- The prices whose lines count in units of their meter: neither converted, nor weighted, nor made of several meters. One row per
-- (plan, price). Control points add up the quantities of these alone, so that units of a meter are never added to others.
CREATE OR REPLACE VIEW price_as_metered AS
SELECT plan_key, price_id
FROM price
WHERE convert_numerator IS NULL AND NOT is_weighted AND combine_by IS NULL AND price_type <> 'capacity'
