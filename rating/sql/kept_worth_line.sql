-- WORTH_LINE of all spans, kept or rated now, under the numbers that they have now. One row per (span, price, group).
-- A view: a re-run that asks for sums alone copies nothing.
CREATE OR REPLACE VIEW worth_line AS
SELECT span_slot.span_id, kept.* EXCLUDE (slot)
FROM kept_worth_line AS kept
JOIN span_slot USING (slot)
