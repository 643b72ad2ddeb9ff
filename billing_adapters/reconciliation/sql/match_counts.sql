-- What came of matching. One row per (status, currency): keys, rows of each side, and the sums of both sides.
-- Differences are added above and below apart: what is too much here never makes good what is missing there.
SELECT
    status,
    currency,
    count(*) AS keys,
    sum(our_rows)::BIGINT AS our_rows,
    sum(their_rows)::BIGINT AS their_rows,
    coalesce(sum(our_quantity), 0)::DECIMAL(38, 12) AS our_quantity,
    coalesce(sum(their_quantity), 0)::DECIMAL(38, 12) AS their_quantity,
    coalesce(sum(our_amount), 0)::DECIMAL(38, 12) AS our_amount,
    coalesce(sum(their_amount), 0)::DECIMAL(38, 12) AS their_amount,
    coalesce(sum(amount_difference) FILTER (WHERE amount_difference > 0), 0)::DECIMAL(38, 12) AS amount_above,
    coalesce(sum(-amount_difference) FILTER (WHERE amount_difference < 0), 0)::DECIMAL(38, 12) AS amount_below
FROM matched
GROUP BY status, currency
ORDER BY status, currency
