-- What can have been used: pairs of a meter and attributes as they were written. One row per pair; a pair of rollups may be
-- one that no span asks for, which costs a row and changes nothing.
CREATE OR REPLACE TABLE state_kind AS
SELECT meter, attributes FROM added_state
UNION
SELECT meter, attributes FROM ordered_state
UNION
SELECT meter, attributes FROM part_state
UNION
SELECT meter, attributes FROM rollup_kind
