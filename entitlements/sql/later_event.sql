-- The first event of each tenant that is not used yet, because its time is still to come: one row per tenant. In
-- microseconds since 1970.
SELECT tenant_id, epoch_us(min(event_time)) AS first_at_us
FROM stored_event
WHERE event_time >= $after
GROUP BY tenant_id
