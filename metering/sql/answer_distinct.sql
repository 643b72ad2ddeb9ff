-- unique_count: distinct values of one attribute. A missing one and null are not counted, empty text is a value.
INSERT INTO answer
SELECT
    selected.span_id,
    selected.selector_id,
    selected.group_key,
    selected.cell_key,
    sum(selected.event_count)::BIGINT AS event_count,
    count(DISTINCT present.value)::DECIMAL(38, 9) AS quantity
FROM selected
JOIN selector USING (selector_set, selector_id)
LEFT JOIN attribute_value AS present
    ON present.attributes = selected.attributes AND present.attribute = selector.unique_attribute
WHERE selected.way = 'distinct'
GROUP BY ALL
