-- unique_count with add and remove: the keys that are in at the end. One that is added twice is in once, and a remove of
-- what is out does nothing, so all that counts is the last operation of each key. Whatever is not `remove` adds.
INSERT INTO answer
WITH key_left AS (
    SELECT
        selected.span_id,
        selected.selector_id,
        selected.group_key,
        selected.cell_key,
        present.value AS key,
        sum(selected.event_count) AS event_count,
        max({ordered: selected.last_event, operation: coalesce(operation.value, 'add')}).operation AS last_operation
    FROM selected
    JOIN selector USING (selector_set, selector_id)
    LEFT JOIN attribute_value AS present
        ON present.attributes = selected.attributes AND present.attribute = selector.unique_attribute
    LEFT JOIN attribute_value AS operation
        ON operation.attributes = selected.attributes AND operation.attribute = selector.operation_attribute
    WHERE selected.way = 'operations'
    GROUP BY ALL
)
SELECT
    span_id,
    selector_id,
    group_key,
    cell_key,
    sum(event_count)::BIGINT AS event_count,
    count_if(key IS NOT NULL AND last_operation <> 'remove')::DECIMAL(38, 9) AS quantity
FROM key_left
GROUP BY ALL
