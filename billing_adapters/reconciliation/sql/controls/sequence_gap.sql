-- control: SEQUENCE_GAP
-- version: 2
-- point: P1
-- compares: the rows that producers promised (segment trailers) with the positions that the lake holds
-- catches: a lost data file, rows that vanished from one, a segment that was quarantined, skipped or never shipped
-- class: LOST
-- owner: ENG
-- money: E1
-- act: find the named segments again, in the journal, in quarantine or in a backup, and ship them; what is found is
--     billed by the next invoice
-- cadence: delivery
-- needs: break_of_segment
-- needs: segment_gap
SELECT
    tenant_id,
    meter,
    'rows_missing' AS reason,
    sum(missing_rows)::BIGINT AS rows,
    abs(sum(missing_quantity))::DECIMAL(38, 9) AS quantity_difference,
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
