-- What the holders of leases metered: one row per question (holder's producer, tenant, meter), of any time and in any window.
-- Every stored row counts, also one that says again what another said or that was voided later: each was consumed. A
-- quantity below zero takes nothing back from a lease. Units of the meter, and events.
SELECT
    asked.question,
    count(*)::BIGINT AS event_count,
    sum(greatest(event.quantity, 0))::DECIMAL(38, 9) AS quantity
FROM lease_question AS asked
JOIN stored_event AS event
    ON event.producer_id = asked.producer_id AND event.tenant_id = asked.tenant_id AND event.meter = asked.meter
GROUP BY ALL
