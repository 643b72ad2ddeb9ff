-- DEFERRED_ROLL_FORWARD: what was invoiced and not yet earned, per account, currency and month:
-- opening + deferred + released + voided = closing. A liability: credits add to it, debits lower it, so every sign is turned.
-- A document defers the months of a fee that come after its own; a release earns one of them on its last day. Reads rolled_month.
SELECT
    account_id,
    currency,
    period,
    -opening AS opening,
    -document AS deferred,
    -release AS released,
    -void AS voided,
    -closing AS closing,
    -of_this_run AS of_this_run
FROM rolled_month
WHERE role = 'deferred_revenue'
ORDER BY ALL
