-- What came of matching the usage of a period for an adapter. One row per (account, name at the provider, window), in UTC.
-- `tenant_id` and `meter` are ours where one of each is behind the window, `recover_by` the nearest end of what was sent.
WITH ours AS (
    SELECT
        concat_ws(chr(31), adapter, account_id, name, epoch_us(CASE WHEN $is_daily THEN date_trunc('day', start) ELSE start END)) AS key,
        CASE WHEN min(tenant_id) = max(tenant_id) THEN min(tenant_id) END AS tenant_id,
        CASE WHEN min(meter) = max(meter) THEN min(meter) END AS meter,
        min(recover_by) AS recover_by
    FROM sent_quantity
    WHERE adapter = $adapter
    GROUP BY ALL
)
SELECT
    matched.*,
    string_split(matched.key, chr(31))[1] AS adapter,
    string_split(matched.key, chr(31))[2] AS account_id,
    string_split(matched.key, chr(31))[3] AS name,
    TIMESTAMPTZ '1970-01-01 00:00:00+00' + to_microseconds(string_split(matched.key, chr(31))[4]::BIGINT) AS start,
    ours.tenant_id,
    ours.meter,
    ours.recover_by
FROM matched
LEFT JOIN ours USING (key)
