-- The usage that a provider has of the period, as the other side of matching. One row per account, name and window there.
SELECT
    concat_ws(chr(31), adapter, account_id, name, epoch_us(CASE WHEN $is_daily THEN date_trunc('day', start) ELSE start END)) AS key,
    '' AS currency,
    1::BIGINT AS detail_rows,
    quantity,
    NULL::DECIMAL(38, 12) AS amount,
    NULL::TIMESTAMPTZ AS occurred_at
FROM provider_quantity
WHERE adapter = $adapter AND start >= $start_instant AND start < $end_instant
