-- The stored usage events that carry an idempotency key. One row per stored usage event with a key.
CREATE OR REPLACE VIEW keyed_event AS
SELECT *
FROM stored_event
WHERE idempotency_key IS NOT NULL
