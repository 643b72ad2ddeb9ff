-- ROUNDING_RESIDUAL compares every booked line with its own figures: its amounts with the rounding of its exact amounts,
-- its exact amounts with the sum of its charges. Catches books that were edited after they were written, and rounding that
-- is done twice. Class DATA_QUALITY: restore the books, or correct by a credit note. Acts: ENG.
-- One row per (tenant, meter, currency). Differences are added without their signs, so that two cannot cancel out.
SELECT
    tenant_id,
    nullif(meter, '') AS meter,
    'booked_line_differs' AS reason,
    count(*) AS rows,
    NULL::DECIMAL(38, 9) AS quantity_difference,
    sum(abs(amount - rounded_exact_amount)) || ' ' || currency || ' of rounding, '
        || sum(abs(exact_amount - charged)) || ' ' || currency || ' of charges; first price ' || min(price_id) AS detail
FROM booked
WHERE amount <> rounded_exact_amount OR exact_amount <> charged
GROUP BY tenant_id, booked.meter, currency
ORDER BY ALL
