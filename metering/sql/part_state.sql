-- States of parts of the use: of a bucket of time of a span, or of all that was before it (`carried`). One row per (part,
-- start, span, meter, attributes), with the columns of USAGE_STATE. Empty until a selector asks for parts.
CREATE OR REPLACE TABLE part_state AS
SELECT 'hour' AS part, NULL::TIMESTAMPTZ AS part_start, usage_state.*
FROM usage_state
LIMIT 0
