-- ROUNDING_RESIDUAL compares every booked line with its own figures: its amounts with the rounding of its exact amounts,
-- its exact amounts with the sum of its charges. Catches books that were edited after they were written, and rounding that
-- is done twice. Class DATA_QUALITY: restore the books, or correct by a credit note. Acts: ENG.
-- One row per (tenant, meter). Counted line by line, so that two differences cannot cancel out.
SELECT
    tenant_id,
    nullif(meter, '') AS meter,
    'booked_line_differs' AS reason,
    count(*) AS rows,
    NULL::DECIMAL(38, 9) AS quantity_difference,
    'first ' || min(subscription_id || ' ' || price_id || ': booked ' || amount || ' ' || currency || ', its exact amount rounds to '
        || rounded_exact_amount || ', its charges are ' || charged || ' of ' || exact_amount) AS detail
FROM booked
WHERE amount <> rounded_exact_amount OR exact_amount <> charged
GROUP BY tenant_id, booked.meter
ORDER BY ALL
