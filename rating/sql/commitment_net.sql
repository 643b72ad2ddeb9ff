-- What the lines that a commitment covers come to before its turn, exact. One row per (span, commitment, price, group).
CREATE OR REPLACE VIEW commitment_net AS
SELECT
    commitment.span_id,
    commitment.turn,
    commitment.part,
    commitment.amount,
    commitment.factor,
    commitment.is_pro_rata,
    commitment.pot_id,
    commitment.place,
    commitment.used_before,
    adjust_scope.position,
    charge.price_id,
    charge.group_key,
    sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
FROM commitment
JOIN charge USING (span_id)
JOIN adjust_scope ON adjust_scope.scope_id = commitment.scope_id AND adjust_scope.price_id = charge.price_id
GROUP BY ALL
