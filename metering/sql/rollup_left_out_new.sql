-- The events that do not count and lie in some data files. One row per event.
SELECT parse_filename(event.filename) AS file_name, event.producer_id, event.segment, event.row, event.tenant_id
FROM rollup_file AS event
SEMI JOIN rollup_excluded USING (producer_id, segment, row)
