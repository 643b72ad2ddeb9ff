-- Aggregation in two steps: each bucket of time to one value, then the values to one quantity. Percentiles too: the value
-- of rank ceil(p x N / 100) in ascending order, no interpolation, in whole numbers (p in billionths).
-- An empty bucket is nothing, or zero where the meter says so: then N is all buckets of the service period, and the zeros
-- stand between the values below zero and the others.
INSERT INTO answer
WITH bucket_value AS (
    SELECT
        selected.span_id,
        selected.selector_set,
        selected.selector_id,
        selected.group_key,
        selected.cell_key,
        selected.part,
        sum(selected.event_count) AS event_count,
        CASE any_value(selector.bucket_value)
            WHEN 'count' THEN sum(selected.event_count)::DECIMAL(38, 9)
            WHEN 'sum' THEN sum(selected.quantity_sum)
            WHEN 'max' THEN max(selected.quantity_max)
            WHEN 'min' THEN min(selected.quantity_min)
            WHEN 'last' THEN max(selected.last_event).quantity
            WHEN 'unique_count' THEN count(DISTINCT present.value)::DECIMAL(38, 9)
        END::DECIMAL(38, 9) AS value
    FROM selected
    JOIN selector USING (selector_set, selector_id)
    LEFT JOIN attribute_value AS present
        ON present.attributes = selected.attributes AND present.attribute = selector.unique_attribute
    WHERE selected.way = 'bucketed'
    GROUP BY
        selected.span_id, selected.selector_set, selected.selector_id, selected.group_key, selected.cell_key,
        selected.part, selected.part_start
),
counted AS (
    SELECT
        *,
        count(*) OVER line AS buckets_used,
        row_number() OVER (PARTITION BY span_id, selector_id, group_key, cell_key ORDER BY value) AS place
    FROM bucket_value
    WINDOW line AS (PARTITION BY span_id, selector_id, group_key, cell_key)
),
ranked AS (
    SELECT
        counted.*,
        CASE WHEN selector.empty_is_zero THEN span_bucket.buckets ELSE counted.buckets_used END AS buckets_ranked,
        buckets_ranked - counted.buckets_used AS buckets_empty,
        counted.place + CASE WHEN counted.value >= 0 THEN buckets_empty ELSE 0 END AS rank,
        (selector.percentile_billionths * buckets_ranked::HUGEINT + 99999999999) // 100000000000 AS rank_asked
    FROM counted
    JOIN selector USING (selector_set, selector_id)
    LEFT JOIN span_bucket ON span_bucket.span_id = counted.span_id AND span_bucket.part = counted.part
)
SELECT
    ranked.span_id,
    ranked.selector_id,
    ranked.group_key,
    ranked.cell_key,
    sum(ranked.event_count)::BIGINT AS event_count,
    CASE any_value(selector.aggregation)
        WHEN 'sum' THEN sum(ranked.value)
        WHEN 'max' THEN max(CASE WHEN ranked.buckets_empty > 0 THEN greatest(ranked.value, 0) ELSE ranked.value END)
        WHEN 'min' THEN min(CASE WHEN ranked.buckets_empty > 0 THEN least(ranked.value, 0) ELSE ranked.value END)
        WHEN 'average'
            THEN from_billionths(
                divide_half_away((sum(ranked.value) * 1000000000)::HUGEINT, any_value(ranked.buckets_ranked)::HUGEINT)
            )
        WHEN 'percentile' THEN coalesce(max(ranked.value) FILTER (ranked.rank = ranked.rank_asked), 0)
    END::DECIMAL(38, 9) AS quantity
FROM ranked
JOIN selector USING (selector_set, selector_id)
GROUP BY ranked.span_id, ranked.selector_id, ranked.group_key, ranked.cell_key
