-- control: DELIVERY_PARTIAL
-- version: 1
-- point: P6
-- compares: the usage records that were meant for a provider with those that have a final success in its answers
-- catches: half-accepted batches, agreements that were not active, hours whose window closed, a key that another value took
-- class: AT_RISK
-- owner: OPS
-- money: E1
-- act: what was refused for the agreement goes again when it is active; what expired goes into a later open hour
-- cadence: delivery
-- setting: minutes_max = 60 minutes that a record may wait for its success
-- needs: sent_quantity
SELECT
    min(tenant_id) AS tenant_id,
    account_id,
    subscription_id,
    -- The provider's own name of it where we know no meter.
    coalesce(min(meter), name) AS meter,
    adapter,
    CASE WHEN bucket = 'pending' THEN 'pending' ELSE lower(coalesce(outcome, 'unknown')) END AS reason,
    adapter || ' ' || subscription_id AS subject,
    count(*) AS rows,
    sum(quantity)::DECIMAL(38, 9) AS quantity_difference,
    CASE
        WHEN bucket = 'pending' THEN 'TIMING'
        -- What may have arrived after all is not lost before somebody looked.
        WHEN outcome = 'EXPIRED' AND NOT bool_or(is_uncertain) THEN 'LOST'
        ELSE 'AT_RISK'
    END AS class,
    min(start) AS occurred_at,
    min(recover_by) AS recover_by,
    'first ' || min(strftime(start, '%Y-%m-%dT%H:%MZ') || ': ' || left(sent_quantity.reason, 150)) AS detail,
    min(delivery_id, 20) AS evidence_sample
FROM sent_quantity
WHERE start >= $start_instant
    AND start < $end_instant
    AND quantity > 0
    AND NOT is_refused_later
    AND (bucket = 'failed' OR (bucket = 'pending' AND enqueued_at + to_minutes($minutes_max) <= $as_of))
GROUP BY account_id, subscription_id, name, adapter, bucket, outcome
ORDER BY ALL
