-- Where the trailers themselves do not join up: one row per place, with the rows at stake (null: nobody can say).
-- Every trailer says how many rows its producer wrote before it, so a segment that never arrived is missing by an exact
-- number although its tenants, meters and dates are unknown. It counts for every period in which it may have been
-- recorded: from the segment before it to the one after. The cut names the last segment of each producer, so that the
-- last trailer cannot vanish unseen either.
--   segment_absent   rows that lie between two trailers, or before the first one, or after the last
--   rows_overlap     fewer rows before a trailer than earlier trailers hold (negative)
--   trailer_total    rows of a trailer that its own control totals do not name
--   chain_broken     a trailer that is not the one whose hash the next segment carries (no rows)
CREATE OR REPLACE TABLE segment_gap AS
WITH dated AS (
    SELECT
        trailer.producer_id,
        trailer.segment,
        trailer.rows,
        trailer.rows_before,
        trailer.previous_sha256,
        trailer.trailer_sha256,
        least(trailer.sealed_at::DATE, coalesce(min(total.event_date), trailer.sealed_at::DATE)) AS first_date,
        greatest(trailer.sealed_at::DATE, coalesce(max(total.event_date), trailer.sealed_at::DATE)) AS last_date,
        coalesce(sum(total.rows), 0) AS rows_named
    FROM segment_trailer AS trailer
    LEFT JOIN (
        SELECT producer_id, segment, unnest(totals) AS total FROM segment_trailer
    ) AS named USING (producer_id, segment)
    GROUP BY trailer.producer_id, trailer.segment, trailer.rows, trailer.rows_before, trailer.previous_sha256,
        trailer.trailer_sha256, trailer.sealed_at
),
chained AS (
    SELECT
        *,
        coalesce(lag(rows_before + rows) OVER chain, 0) AS rows_known,
        coalesce(lag(first_date) OVER chain, DATE '1970-01-01') AS since,
        lag(segment) OVER chain AS segment_before,
        lag(trailer_sha256) OVER chain AS sha256_before
    FROM dated
    WINDOW chain AS (PARTITION BY producer_id ORDER BY segment)
),
place AS (
    SELECT producer_id, segment, 'segment_absent' AS reason, rows_before - rows_known AS rows, since, last_date AS until
    FROM chained
    WHERE rows_before > rows_known
    UNION ALL
    SELECT producer_id, segment, 'rows_overlap', rows_before - rows_known, since, last_date
    FROM chained
    WHERE rows_before < rows_known
    UNION ALL
    SELECT producer_id, segment, 'trailer_total', rows - rows_named, first_date, last_date
    FROM chained
    WHERE rows <> rows_named
    UNION ALL
    SELECT producer_id, segment, 'chain_broken', 0, since, last_date
    FROM chained
    WHERE segment = segment_before + 1 AND sha256_before <> coalesce(previous_sha256, '')
    UNION ALL
    SELECT
        cut.producer_id,
        cut.last_segment,
        'segment_absent',
        NULL,
        coalesce(max(chained.first_date), DATE '1970-01-01'),
        DATE '9999-12-31'
    FROM snapshot_cut AS cut
    LEFT JOIN chained USING (producer_id)
    GROUP BY cut.producer_id, cut.last_segment
    HAVING coalesce(max(chained.segment), -1) < cut.last_segment
)
SELECT producer_id, segment, reason, rows::BIGINT AS rows
FROM place
WHERE since < $end_date AND until >= $first_date
