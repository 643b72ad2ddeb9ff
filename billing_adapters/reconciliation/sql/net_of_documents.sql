-- Equation net = invoiced + carried + credits_applied, of the final documents of the period. One row per (currency, bucket).
--   net              the exact charges behind their lines
--   invoiced         what the documents ask for
--   carried          what rounding left over: exact amount minus amount, line by line
--   credits_applied  what prepaid balances paid of them
-- What is worth something and stands on no document yet is in the equation of the rated value.
SELECT currency, 'net' AS bucket, sum(exact_amount)::DECIMAL(38, 21) AS amount
FROM booked_document
JOIN document_charge USING (invoice_id)
WHERE status = 'final'
GROUP BY ALL
UNION ALL
SELECT currency, 'invoiced', sum(amount_due)::DECIMAL(38, 21)
FROM booked_document
WHERE status = 'final'
GROUP BY ALL
UNION ALL
SELECT currency, 'carried', sum(exact_amount - amount)::DECIMAL(38, 21)
FROM booked_document
JOIN document_line USING (invoice_id)
WHERE status = 'final'
GROUP BY ALL
UNION ALL
SELECT currency, 'credits_applied', sum(amount)::DECIMAL(38, 21)
FROM booked_document
JOIN document_burn USING (invoice_id)
WHERE status = 'final'
GROUP BY ALL
ORDER BY ALL
