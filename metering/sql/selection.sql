-- Which attributes each selector takes, and into which group and cell. One row per (selector, attributes) that matches.
-- All attributes of a filter must match: one of the listed values, or any value where the filter lists none (null). A
-- missing attribute matches nothing.
-- The group key is a canonical JSON object of the selector's `by` attributes, in their alphabetical order; a missing one
-- is null, which is not the same group as empty text. A selector without `by` has the one group ''. So has the cell key.
-- Selectors that are siblings split the use between them: each attributes go to the one match that constrains most, on
-- equal counts listed values before any, then the order given; a sibling without filters takes the rest.
CREATE OR REPLACE TABLE selection AS
WITH candidate AS (
    SELECT DISTINCT
        selector.selector_set,
        selector.selector_id,
        selector.meter,
        selector.sibling,
        selector.position,
        state.attributes
    FROM selector
    JOIN state_kind AS state USING (meter)
),
required AS (
    SELECT
        selector_set,
        selector_id,
        count(DISTINCT attribute) AS attributes_required,
        count(DISTINCT attribute) FILTER (value IS NULL) AS of_any_value
    FROM selector_filter
    GROUP BY ALL
),
met AS (
    SELECT selector_set, selector_id, attributes, count(*) AS attributes_met
    FROM (
        SELECT filter.selector_set, filter.selector_id, present.attributes
        FROM selector_filter AS filter
        JOIN attribute_value AS present USING (attribute, value)
        UNION ALL
        SELECT filter.selector_set, filter.selector_id, present.attributes
        FROM selector_filter AS filter
        JOIN attribute_value AS present USING (attribute)
        WHERE filter.value IS NULL
    )
    GROUP BY ALL
),
matched AS (
    SELECT
        candidate.*,
        coalesce(required.attributes_required, 0) AS attributes_required,
        coalesce(required.of_any_value, 0) AS of_any_value
    FROM candidate
    LEFT JOIN required USING (selector_set, selector_id)
    LEFT JOIN met USING (selector_set, selector_id, attributes)
    WHERE coalesce(met.attributes_met, 0) = coalesce(required.attributes_required, 0)
),
matching AS (
    SELECT selector_set, selector_id, attributes FROM matched WHERE sibling IS NULL
    UNION ALL
    SELECT selector_set, selector_id, attributes
    FROM matched
    WHERE sibling IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY selector_set, meter, sibling, attributes
        ORDER BY attributes_required DESC, of_any_value, position
    ) = 1
),
wanted AS (
    SELECT selector_set, selector_id, 'group' AS key, unnest(group_attributes) AS attribute FROM selector
    UNION ALL
    SELECT selector_set, selector_id, 'cell' AS key, unnest(cell_attributes) AS attribute FROM selector
),
paired AS (
    SELECT
        matching.selector_set,
        matching.selector_id,
        matching.attributes,
        wanted.key,
        wanted.attribute,
        to_json(wanted.attribute) || ':' || coalesce(to_json(present.value), 'null') AS pair
    FROM matching
    JOIN wanted USING (selector_set, selector_id)
    LEFT JOIN attribute_value AS present
        ON present.attributes = matching.attributes AND present.attribute = wanted.attribute
),
keyed AS (
    SELECT
        selector_set,
        selector_id,
        attributes,
        string_agg(pair, ',' ORDER BY attribute) FILTER (key = 'group') AS group_pairs,
        string_agg(pair, ',' ORDER BY attribute) FILTER (key = 'cell') AS cell_pairs
    FROM paired
    GROUP BY ALL
)
SELECT
    matching.selector_set,
    matching.selector_id,
    matching.attributes,
    coalesce('{' || keyed.group_pairs || '}', '') AS group_key,
    coalesce('{' || keyed.cell_pairs || '}', '') AS cell_key,
    -- The same number wherever selector, group and cell are the same: states are gathered by numbers, not by texts.
    dense_rank() OVER (ORDER BY matching.selector_set, matching.selector_id, group_key, cell_key) AS taking
FROM matching
LEFT JOIN keyed USING (selector_set, selector_id, attributes)
