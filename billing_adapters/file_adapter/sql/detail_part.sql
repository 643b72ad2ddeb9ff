-- Parts of DETAIL_EVENT of about $rows events each, in the order of tenants and days; one row per part, from its first tenant and day
-- to its last. A day of a tenant is in one part, however long it is. So what is held at once does not grow with the file.
WITH counted AS (
    SELECT tenant_id, event_day, count(*) AS events
    FROM detail_event
    GROUP BY ALL
),
placed AS (
    SELECT
        tenant_id,
        event_day,
        (sum(events) OVER (ORDER BY tenant_id, event_day ROWS UNBOUNDED PRECEDING) - events)::HUGEINT // $rows AS part
    FROM counted
)
SELECT
    first(tenant_id ORDER BY tenant_id, event_day) AS first_tenant,
    first(event_day ORDER BY tenant_id, event_day) AS first_day,
    last(tenant_id ORDER BY tenant_id, event_day) AS last_tenant,
    last(event_day ORDER BY tenant_id, event_day) AS last_day
FROM placed
GROUP BY part
ORDER BY part
