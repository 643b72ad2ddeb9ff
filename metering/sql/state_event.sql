-- The usage events whose states are worked out from the events themselves: all of them, as long as no rollup holds some.
CREATE OR REPLACE VIEW state_event AS
SELECT *
FROM usage_event
