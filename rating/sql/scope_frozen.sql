-- Spans whose invoices stay as they are book nothing more (rating.frozen). Flat amounts of a span for which nothing was booked at
-- all are booked: no invoice changes by that.
DELETE FROM line_to_book
WHERE span_id IN (SELECT span_id FROM frozen_span)
    AND (
        span_id IN (SELECT span_id FROM booked_line)
        OR price_id NOT IN (
            SELECT price.price_id
            FROM price
            JOIN billing_span ON billing_span.plan_key = price.plan_key
            WHERE billing_span.span_id = line_to_book.span_id AND price.price_type = 'flat'
        )
    )
