-- control: ATTRIBUTED_RATED
-- version: 1
-- point: P4
-- compares: the usage that prices were handed when the period was closed with the usage that rating took, both as the close
--     counted them (control points)
-- catches: worth that was kept of earlier usage, a price or a tenant that rating leaves out, usage that is rated twice
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: delete lake/derived and see whether `tallybook verify` agrees with the invoices; the next close corrects what is worth more
-- cadence: close
-- needs: control_point
-- needs: attributed_close
WITH figure AS (
    SELECT
        tenant_id,
        meter,
        currency,
        coalesce(sum(event_count) FILTER (point = 'P3'), 0)::BIGINT AS rows_handed,
        coalesce(sum(event_count) FILTER (point = 'P4'), 0)::BIGINT AS rows_rated,
        coalesce(sum(quantity) FILTER (point = 'P3'), 0) AS handed,
        coalesce(sum(quantity) FILTER (point = 'P4'), 0) AS rated
    FROM control_point
    JOIN attributed_close ON attributed_close.close_id = control_point.batch_id
    WHERE ((point = 'P3' AND reason = 'priced') OR (point = 'P4' AND reason = 'rated')) AND meter <> ''
    GROUP BY ALL
)
SELECT
    tenant_id,
    meter,
    CASE WHEN (handed, rows_handed) > (rated, rows_rated) THEN 'not_rated' ELSE 'rated_beyond' END AS reason,
    currency AS subject,
    abs(rows_handed - rows_rated)::BIGINT AS rows,
    handed::DECIMAL(38, 9) AS quantity_expected,
    rated::DECIMAL(38, 9) AS quantity_actual,
    abs(handed - rated)::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN (handed, rows_handed) > (rated, rows_rated) THEN 'AT_RISK' ELSE 'OVERBILL' END AS class,
    'prices were handed ' || rows_handed || ' usage event(s) of ' || handed || '; rating took ' || rows_rated || ' of ' || rated
        AS detail
FROM figure
WHERE handed <> rated OR rows_handed <> rows_rated
ORDER BY ALL
