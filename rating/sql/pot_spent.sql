-- What earlier billing periods had of an amount that is one over several of them: the net of its lines as the commitment saw
-- them, without what it added itself and what came after it, exact; and what these lines are on paper, with true-ups inside it.
-- Enters: pot_asked, the spans that are asked for; pot_member, charge and worth_line of the spans before them, rated together.
-- One row per (span asked for, commitment). Source: price models, section 4.2.
WITH net AS (
    SELECT pot_member.span_id, pot_member.commitment_id, sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM pot_member
    JOIN charge USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = pot_member.scope_id AND adjust_scope.price_id = charge.price_id
    LEFT JOIN commitment ON commitment.span_id = charge.span_id AND commitment.part = charge.part
    WHERE (commitment.turn IS NULL OR commitment.turn < pot_member.turn) AND NOT starts_with(charge.part, 'maximum:')
    GROUP BY ALL
),
paper AS (
    SELECT pot_member.span_id, pot_member.commitment_id, sum(worth_line.amount)::DECIMAL(38, 12) AS amount
    FROM pot_member
    JOIN worth_line USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = pot_member.paid_scope_id AND adjust_scope.price_id = worth_line.price_id
    GROUP BY ALL
)
SELECT
    pot_asked.span_id,
    pot_asked.commitment_id,
    coalesce(sum(net.exact_amount), 0)::DECIMAL(38, 21) AS used,
    coalesce(sum(paper.amount), 0)::DECIMAL(38, 12) AS paid
FROM pot_asked
JOIN pot_member ON pot_member.pot_id = pot_asked.pot_id AND pot_member.place < pot_asked.place
LEFT JOIN net ON net.span_id = pot_member.span_id AND net.commitment_id = pot_member.commitment_id
LEFT JOIN paper ON paper.span_id = pot_member.span_id AND paper.commitment_id = pot_member.commitment_id
GROUP BY ALL
