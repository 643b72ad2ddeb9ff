-- USAGE_STATE: every column is a state that merges: sums add, maxima are compared. One row per (span, meter, attributes),
-- perhaps more than one. The last three are only for the meters that ask for order or time; a column of nulls for all
-- others would cost more than their sums.
CREATE OR REPLACE VIEW usage_state AS
SELECT * FROM ordered_state
UNION ALL BY NAME
SELECT * FROM added_state
UNION ALL BY NAME
SELECT * FROM rollup_state
