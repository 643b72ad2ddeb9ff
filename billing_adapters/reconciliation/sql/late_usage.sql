-- Usage events of the period that their plan refuses as too late, as they were when the period's dates were looked at.
-- One row per usage event; rating asks again for its own spans and replaces `late_event`.
CREATE OR REPLACE TABLE late_usage AS
SELECT * FROM late_event
