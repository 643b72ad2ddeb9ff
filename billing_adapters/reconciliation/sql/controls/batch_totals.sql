-- control: BATCH_TOTALS
-- version: 2
-- point: P2
-- compares: the control totals of every segment trailer, made when rows were written, with the same figures counted
--     in the lake
-- catches: rows that no trailer promised, rows that are stored twice, quantities that are not those recorded,
--     trailers that contradict each other; a trailer that is not the one whose hash the producer's next segment
--     carries (chain_broken): it was changed, or sealed again after a power cut
-- class: DATA_QUALITY
-- owner: OPS, ENG
-- money: none
-- act: the evidence is damaged: restore the named segments from the journal or a backup before invoicing
-- cadence: delivery
-- needs: break_of_segment
-- needs: segment_gap
SELECT
    tenant_id,
    meter,
    CASE WHEN surplus_rows > 0 THEN 'rows_not_promised' ELSE 'quantity_differs' END AS reason,
    sum(surplus_rows)::BIGINT AS rows,
    abs(sum(surplus_quantity))::DECIMAL(38, 9) AS quantity_difference,
    count(DISTINCT (producer_id, segment)) || ' segment(s), first ' || min(producer_id || ' #' || segment) AS detail
FROM break_of_segment
WHERE surplus_rows <> 0 OR surplus_quantity <> 0
GROUP BY ALL
UNION ALL
SELECT NULL, NULL, reason, sum(rows)::BIGINT, NULL, count(*) || ' segment(s), first ' || min(producer_id || ' #' || segment)
FROM segment_gap
WHERE reason <> 'segment_absent'
GROUP BY ALL
ORDER BY ALL
