-- States of parts of the use: of one bucket of time of a span. One row per (part, start, span, meter, attributes), with the
-- columns of USAGE_STATE. Empty until a selector asks for parts; those that ask for the whole span read USAGE_STATE.
CREATE OR REPLACE TABLE part_state AS
SELECT 'hour' AS part, NULL::TIMESTAMPTZ AS part_start, usage_state.*
FROM usage_state
LIMIT 0
