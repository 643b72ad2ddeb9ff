-- What producers say they recorded: one row per (producer, segment, tenant, meter), usage of the period by UTC date.
-- The figures are those of the segment trailers and of the journal, made when rows were written; none is counted in the
-- lake. A name that could not be read is ''. `is_in_flight`: beyond the cut, so not in the snapshot; a segment that was
-- shipped while the journal was read is taken once, from its trailer.
CREATE OR REPLACE TABLE promised AS
WITH every_total AS (
    SELECT trailer.producer_id, trailer.segment, total.*
    FROM segment_trailer AS trailer, unnest(trailer.totals) AS unnested (total)
    UNION ALL
    SELECT flying.producer_id, flying.segment, flying.tenant_id, flying.meter, flying.event_date, flying.rows, flying.quantity
    FROM in_flight_total AS flying
    ANTI JOIN segment_trailer USING (producer_id, segment)
    LEFT JOIN snapshot_cut AS cut ON cut.producer_id = flying.producer_id
    WHERE flying.segment > coalesce(cut.last_segment, -1)
)
SELECT
    every_total.producer_id,
    every_total.segment,
    coalesce(every_total.tenant_id, '') AS tenant_id,
    coalesce(every_total.meter, '') AS meter,
    every_total.segment > coalesce(snapshot_cut.last_segment, -1) AS is_in_flight,
    sum(every_total.rows)::BIGINT AS rows,
    coalesce(sum(every_total.quantity), 0)::DECIMAL(38, 9) AS quantity
FROM every_total
LEFT JOIN snapshot_cut USING (producer_id)
WHERE every_total.event_date >= $first_date AND every_total.event_date < $end_date
GROUP BY ALL
