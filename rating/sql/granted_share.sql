-- What grants cover of the use of a span is included in the prices that say so: one row per (span, price). Units of the meter.
INSERT INTO included_share
SELECT span_id, price_id, included
FROM granted_share
