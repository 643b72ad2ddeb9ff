-- CHARGE: rated, exact, unrounded. One row per (span, price, group, cell, tier, part): a quantity at a unit price.
-- part `unit` is priced usage, `flat` a fixed amount of the price or of a tier, `included` units that cost nothing (tier 0),
-- `fixed` an amount per event, `limit` what a minimum or maximum of an event or a tier adds or takes off.
CREATE OR REPLACE TABLE charge (
    span_id BIGINT NOT NULL,
    price_id VARCHAR NOT NULL,
    group_key VARCHAR NOT NULL,
    cell_key VARCHAR NOT NULL,
    tier INTEGER NOT NULL,
    part VARCHAR NOT NULL,
    quantity DECIMAL(38, 9) NOT NULL,
    unit_price DECIMAL(24, 12) NOT NULL,
    exact_amount DECIMAL(38, 21) NOT NULL
)
