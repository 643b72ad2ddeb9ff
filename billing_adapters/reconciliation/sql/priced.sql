-- What a subscription has a price for: one row per (tenant, meter, attributes, service period) that at least one price of
-- its plan selects. The same selection that rating uses; nothing about filters is written a second time.
CREATE OR REPLACE TABLE priced AS
SELECT DISTINCT span.tenant_id, state.meter, state.attributes, span.service_start, span.service_end
FROM usage_state AS state
JOIN span USING (span_id)
JOIN selector ON selector.selector_set = span.selector_set AND selector.meter = state.meter
JOIN selection
    ON selection.selector_set = selector.selector_set
    AND selection.selector_id = selector.selector_id
    AND selection.attributes = state.attributes
