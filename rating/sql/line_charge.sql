-- The components of each invoice line, in the order of their tiers. One row per (line, component).
CREATE OR REPLACE VIEW line_charge AS
SELECT
    line.line_id,
    line.line_number,
    row_number() OVER (
        PARTITION BY line.line_number ORDER BY charge.cell_key, charge.tier, charge.part DESC, charge.unit_price
    ) AS position,
    charge.cell_key,
    charge.tier,
    charge.part,
    charge.quantity,
    charge.unit_price,
    charge.exact_amount
FROM charge_to_book AS charge
JOIN invoice_line AS line USING (span_id, price_id, group_key)
