-- control: STORED_ATTRIBUTED
-- version: 1
-- point: P3
-- compares: the usage events that the close of the period attributed to somebody or to nobody (control points) with those that the
--     lake holds now of the same cut
-- catches: usage events that the close did not see, and data files that were changed or removed after it
-- class: AT_RISK
-- owner: OPS, ENG
-- money: E1
-- act: where the lake holds more, close the next period and see whether it is corrected; where it holds less, restore the data files
-- cadence: close
-- needs: stored_at_close
-- needs: control_point
-- needs: attributed_close
WITH attributed AS (
    SELECT tenant_id, meter, sum(event_count)::BIGINT AS rows, sum(quantity) AS quantity
    FROM control_point
    WHERE point = 'P3' AND reason <> 'priced'
        -- Of several cuts of a period the last one looked at all of it.
        AND batch_id IN (SELECT close_id FROM attributed_close)
    GROUP BY ALL
),
compared AS (
    SELECT
        tenant_id,
        meter,
        coalesce(attributed.rows, 0) AS rows_then,
        coalesce(held.rows, 0) AS rows_now,
        coalesce(attributed.quantity, 0) AS quantity_then,
        coalesce(held.quantity, 0) AS quantity_now
    FROM attributed
    FULL JOIN stored_at_close AS held USING (tenant_id, meter)
)
SELECT
    tenant_id,
    meter,
    CASE WHEN (rows_now, quantity_now) > (rows_then, quantity_then) THEN 'not_attributed' ELSE 'not_stored_any_more' END AS reason,
    abs(rows_now - rows_then)::BIGINT AS rows,
    quantity_then::DECIMAL(38, 9) AS quantity_expected,
    quantity_now::DECIMAL(38, 9) AS quantity_actual,
    abs(quantity_now - quantity_then)::DECIMAL(38, 9) AS quantity_difference,
    -- What was attributed was billed; that its evidence is gone is another matter than money.
    CASE WHEN (rows_now, quantity_now) > (rows_then, quantity_then) THEN 'AT_RISK' ELSE 'DATA_QUALITY' END AS class,
    'the close attributed ' || rows_then || ' usage event(s) of ' || quantity_then || '; the lake holds ' || rows_now || ' of '
        || quantity_now || ' of its cut' AS detail
FROM compared
WHERE rows_now <> rows_then OR quantity_now <> quantity_then
ORDER BY ALL
