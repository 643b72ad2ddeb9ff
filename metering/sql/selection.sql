-- Which attributes each selector takes, and into which group. One row per (selector, attributes) that matches.
-- All attributes of a filter must match one of their listed values; a missing attribute matches nothing listed.
-- The group key is a canonical JSON object of the selector's `by` attributes, in their alphabetical order; a missing one
-- is null, which is not the same group as empty text. A selector without `by` has the one group ''.
CREATE OR REPLACE TABLE selection AS
WITH candidate AS (
    SELECT DISTINCT selector.selector_set, selector.selector_id, selector.group_attributes, state.attributes
    FROM selector
    JOIN (SELECT DISTINCT meter, attributes FROM usage_state) AS state USING (meter)
),
required AS (
    SELECT selector_set, selector_id, count(DISTINCT attribute) AS attributes_required
    FROM selector_filter
    GROUP BY ALL
),
met AS (
    SELECT filter.selector_set, filter.selector_id, present.attributes, count(*) AS attributes_met
    FROM selector_filter AS filter
    JOIN attribute_value AS present USING (attribute, value)
    GROUP BY ALL
),
matching AS (
    SELECT candidate.*
    FROM candidate
    LEFT JOIN required USING (selector_set, selector_id)
    LEFT JOIN met USING (selector_set, selector_id, attributes)
    WHERE coalesce(met.attributes_met, 0) = coalesce(required.attributes_required, 0)
),
grouped AS (
    SELECT
        matching.selector_set,
        matching.selector_id,
        matching.attributes,
        string_agg(to_json(wanted.attribute) || ':' || coalesce(to_json(present.value), 'null'), ',' ORDER BY wanted.attribute)
            AS pairs
    FROM matching, unnest(matching.group_attributes) AS wanted (attribute)
    LEFT JOIN attribute_value AS present
        ON present.attributes = matching.attributes AND present.attribute = wanted.attribute
    GROUP BY ALL
)
SELECT
    matching.selector_set,
    matching.selector_id,
    matching.attributes,
    coalesce('{' || grouped.pairs || '}', '') AS group_key
FROM matching
LEFT JOIN grouped USING (selector_set, selector_id, attributes)
