-- Worth minus booked, per component (span, price, group, cell, tier, part, unit price). One row per component that differs.
-- Same unit price: the difference. Unit price changed (volume, a corrected price): the old component is worth nothing now
-- and comes back negative, the new one is booked whole.
CREATE OR REPLACE VIEW charge_to_book AS
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    part,
    unit_price,
    coalesce(charge.quantity, 0) - coalesce(booked_charge.quantity, 0) AS quantity,
    coalesce(charge.exact_amount, 0) - coalesce(booked_charge.exact_amount, 0) AS exact_amount
FROM charge
FULL OUTER JOIN booked_charge USING (span_id, price_id, group_key, cell_key, tier, part, unit_price)
WHERE coalesce(charge.quantity, 0) <> coalesce(booked_charge.quantity, 0)
    OR coalesce(charge.exact_amount, 0) <> coalesce(booked_charge.exact_amount, 0)
