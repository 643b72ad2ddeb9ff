-- What every tenant used of a meter whose events add up, since an instant: one row per (tenant, place) with any use.
-- For all tenants who share that instant, without a question for each. Units of the meter; a count is of events.
SELECT
    event.tenant_id,
    question.place,
    CASE WHEN any_value(question.is_count) THEN count(*) ELSE sum(event.quantity) END::DECIMAL(38, 9) AS quantity
FROM usage_event AS event
JOIN since_question AS question
    ON question.meter = event.meter AND event.event_time >= question.start_at AND event.event_time < $until
GROUP BY event.tenant_id, question.place
