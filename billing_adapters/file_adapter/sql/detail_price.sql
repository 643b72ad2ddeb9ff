-- DETAIL_PRICE: which attributes each price takes, into which group; one row per (selector_set, meter, price, attributes). A price with
-- several selectors counts an event once. Reads selector and selection, which rating made.
CREATE OR REPLACE TABLE detail_price AS
SELECT DISTINCT
    selector.selector_set,
    selector.meter,
    split_part(selector.selector_id, chr(29), 1) AS price_id,
    selection.attributes,
    selection.group_key
FROM selector
JOIN selection USING (selector_set, selector_id)
