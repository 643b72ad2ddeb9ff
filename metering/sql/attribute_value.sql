-- The attributes that any selector asks for, taken apart. One row per (attributes, attribute) that is present.
-- Values are compared as text: 1 and "1" are the same, a JSON null is a missing attribute, empty text is a value.
CREATE OR REPLACE TABLE attribute_value AS
SELECT
    state.attributes,
    pair.key AS attribute,
    json_extract_string(pair.value, '$') AS value
FROM (SELECT DISTINCT attributes FROM state_kind) AS state, json_each(state.attributes) AS pair
JOIN (
    SELECT attribute FROM selector_filter
    UNION
    SELECT unnest(group_attributes || cell_attributes) FROM selector
    UNION
    SELECT unique_attribute FROM selector WHERE unique_attribute IS NOT NULL
    UNION
    SELECT operation_attribute FROM selector WHERE operation_attribute IS NOT NULL
) AS wanted ON wanted.attribute = pair.key
WHERE json_extract_string(pair.value, '$') IS NOT NULL
