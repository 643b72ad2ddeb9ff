-- The states that each selector takes. One row per (span, selector, part, attributes), with its group and cell.
-- The cell key of a bucket is its start in UTC, also of a bucket of the calendar that began before the span.
CREATE OR REPLACE VIEW selected AS
SELECT
    span.span_id,
    selector.selector_id,
    selector.selector_set,
    selector.way,
    selector.aggregation,
    selection.taking,
    CASE WHEN selector.bucket IS NOT NULL THEN state.part_start END AS bucket_start,
    selection.group_key,
    CASE
        WHEN selector.bucket IS NULL THEN selection.cell_key
        ELSE strftime(state.part_start, '%Y-%m-%dT%H:%M:%SZ')
    END AS cell_key,
    state.* EXCLUDE (span_id, meter)
FROM (
    SELECT '' AS part, NULL::TIMESTAMPTZ AS part_start, usage_state.* FROM usage_state
    UNION ALL
    SELECT * FROM part_state
) AS state
JOIN span ON span.span_id = state.span_id
JOIN selector ON selector.selector_set = span.selector_set AND selector.meter = state.meter
JOIN selector_part
    ON selector_part.selector_set = selector.selector_set
    AND selector_part.selector_id = selector.selector_id
    AND selector_part.part = state.part
JOIN selection
    ON selection.selector_set = selector.selector_set
    AND selection.selector_id = selector.selector_id
    AND selection.attributes = state.attributes
