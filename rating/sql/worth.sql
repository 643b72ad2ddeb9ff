-- WORTH: what every line is worth now, with the words of its span and of its price. One row per (span, price, group) that is
-- due. A view: words are put to the numbers of worth_line only where they are read.
CREATE OR REPLACE VIEW worth AS
SELECT
    billing_span.* EXCLUDE (since),
    line.price_id,
    coalesce(price.price_type, 'minimum') AS price_type,
    coalesce(price.position, minimum.position) AS price_position,
    price.meter,
    price.unit,
    coalesce(price.description, minimum.description) AS description,
    line.group_key,
    line.event_count,
    line.quantity,
    line.exact_amount,
    line.amount
FROM worth_line AS line
JOIN billing_span USING (span_id)
LEFT JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = line.price_id
-- The true-up of a minimum is a line of its own, without a price.
LEFT JOIN minimum ON minimum.span_id = line.span_id AND minimum.minimum_id = line.price_id
