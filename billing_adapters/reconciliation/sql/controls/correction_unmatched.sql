-- control: CORRECTION_UNMATCHED
-- version: 1
-- point: P2
-- compares: what corrections name with what is stored
-- catches: a void or replacement whose key or origin is mistyped: the event it meant still counts. It clears itself
--     when the event arrives later
-- class: DATA_QUALITY
-- owner: ENG
-- money: none
-- act: send the correction again with the right key
-- cadence: delivery
-- needs: stored_once
SELECT
    correcting.tenant_id,
    correcting.meter,
    'names_nothing' AS reason,
    count(*) AS rows,
    NULL::DECIMAL(38, 9) AS quantity_difference,
    'first: ' || min(correcting.correction) AS detail
FROM stored_once AS correcting
WHERE correcting.correction IS NOT NULL
    AND correcting.event_time >= $start_instant
    AND correcting.event_time < $end_instant
    AND NOT EXISTS (
        SELECT 1
        FROM stored_once AS event
        WHERE event.tenant_id = correcting.tenant_id
            AND (
                (
                    event.meter = correcting.meter
                    AND event.idempotency_key = json_extract_string(correcting.correction, '$.key')
                )
                OR (
                    event.producer_id = json_extract_string(correcting.correction, '$.producer_id')
                    AND event.segment = TRY_CAST(json_extract_string(correcting.correction, '$.segment') AS BIGINT)
                    AND event.row = TRY_CAST(json_extract_string(correcting.correction, '$.row') AS INTEGER)
                )
            )
    )
GROUP BY ALL
ORDER BY ALL
