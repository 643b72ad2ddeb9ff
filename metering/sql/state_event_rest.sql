-- The usage events whose states no rollup gives: of meters whose aggregation needs the order of events, of tenants whose
-- rollups do not fit (see rollup_stale), and of data files that hold more than the snapshot. One row per usage event.
CREATE OR REPLACE VIEW state_event AS
SELECT event.*
FROM usage_event AS event
SEMI JOIN rollup_stale USING (tenant_id)
UNION ALL
SELECT event.*
FROM usage_event AS event
SEMI JOIN rollup_ordered USING (meter)
ANTI JOIN rollup_stale USING (tenant_id)
UNION ALL
SELECT event.*
FROM rollup_unrolled AS event
ANTI JOIN rollup_ordered USING (meter)
ANTI JOIN rollup_stale USING (tenant_id)
