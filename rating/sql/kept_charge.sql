-- CHARGE of all spans, kept or rated now, under the numbers that they have now. A view: most charges are not looked at.
CREATE OR REPLACE VIEW charge AS
SELECT span_slot.span_id, kept.* EXCLUDE (slot)
FROM kept_charge AS kept
JOIN span_slot USING (slot)
