-- The selectors that found more groups than they declare. One row per (span, selector), the worst first.
SELECT span.tenant_id, answer.selector_id, any_value(selector.groups_max) AS groups_max, count(DISTINCT answer.group_key) AS groups
FROM answer
JOIN span USING (span_id)
JOIN selector ON selector.selector_set = span.selector_set AND selector.selector_id = answer.selector_id
WHERE selector.groups_max IS NOT NULL
GROUP BY answer.span_id, span.tenant_id, answer.selector_id
HAVING groups > any_value(selector.groups_max)
ORDER BY groups DESC, span.tenant_id, answer.selector_id
LIMIT 1
