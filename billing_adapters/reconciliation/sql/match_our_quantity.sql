-- What a provider confirmed of our usage in the period, as one side of matching. One row per series and window; where a later total
-- takes the place of an earlier one, the last that was confirmed. A provider that reports by days is compared by days (UTC).
SELECT
    concat_ws(chr(31), adapter, account_id, name, epoch_us(CASE WHEN $is_daily THEN date_trunc('day', start) ELSE start END)) AS key,
    '' AS currency,
    1::BIGINT AS detail_rows,
    quantity,
    NULL::DECIMAL(38, 12) AS amount,
    ended_at AS occurred_at
FROM sent_quantity
WHERE adapter = $adapter AND bucket = 'confirmed' AND start >= $start_instant AND start < $end_instant
QUALIFY row_number() OVER (PARTITION BY subscription_id, account_id, name, start ORDER BY revision DESC, delivery_id) = 1
