-- control: CONTROL_NOT_RUN
-- version: 1
-- point: P8
-- compares: the controls that are due with those that ran on inputs that are there and fresh
-- catches: a reconciliation that is green because nobody looked
-- class: DATA_QUALITY
-- owner: OPS
-- money: none
-- act: do what the detail says, and reconcile again; until then nothing is proven
-- cadence: every run
-- needs: control_run
SELECT 'not_run' AS reason, control_id AS subject, explanation AS detail
FROM control_run
WHERE result = 'not_run'
ORDER BY ALL
