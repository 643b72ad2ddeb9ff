-- What every tenant used of a meter whose events add up, since an instant: one row per (tenant, place) with any use.
-- Tenants who are entitled alike are one template, and a template asks one question per place, not one per tenant. One and the
-- same meter may be asked in two places. Units of the meter; a count is of events.
SELECT
    event.tenant_id,
    question.template,
    question.place,
    CASE WHEN any_value(question.is_count) THEN count(*) ELSE sum(event.quantity) END::DECIMAL(38, 9) AS quantity
FROM usage_event AS event
JOIN since_tenant AS tenant USING (tenant_id)
JOIN since_question AS question
    ON question.template = tenant.template
    AND question.meter = event.meter
    AND event.event_time >= question.start_at
    AND event.event_time < $until
GROUP BY event.tenant_id, question.template, question.place
