-- SEQUENCE_GAP compares the rows that producers promised (segment trailers) with the positions that the lake holds.
-- Catches a lost data file, rows that vanished from one, a segment that was quarantined, skipped or never shipped.
-- Class LOST until the named segments are found again (journal, quarantine, backup). Acts: ENG.
-- One row per (tenant, meter, reason); for a segment that is absent as a whole the tenant and meter are unknown.
SELECT
    tenant_id,
    meter,
    'rows_missing' AS reason,
    sum(missing_rows)::BIGINT AS rows,
    sum(missing_quantity)::DECIMAL(38, 9) AS quantity_difference,
    count(DISTINCT (producer_id, segment)) || ' segment(s), first ' || min(producer_id || ' #' || segment) AS detail
FROM break_of_segment
WHERE missing_rows > 0
GROUP BY ALL
UNION ALL
SELECT
    NULL,
    NULL,
    reason,
    sum(rows)::BIGINT,
    NULL,
    count(*) || ' place(s), first before or at ' || min(producer_id || ' #' || segment)
FROM segment_gap
WHERE reason = 'segment_absent'
GROUP BY reason
ORDER BY ALL
