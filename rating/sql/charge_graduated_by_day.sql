-- graduated over units that are held: every date of the service period costs one part in `full_days` of what the units
-- held on it cost, each in its own tier. A unit counts from the date on which it comes, and to the date before the one on
-- which it goes; what history left is held from the first date on. Dates are those of the zone, as in answer_sum_by_day.
-- Flat amounts follow the level, date by date; or (`flats_at_peak`) they are whole up to the tier of the highest level, and
-- nothing at all is due where the last level is below zero. Source: price models, section 2.5.
-- 10@4, open@2, 30 dates: 8 from the 1st, 14 from the 16th, 10 from the 21st on are 32 + 0.5 x (2x4 + 4x2) - (4x2) / 3.
-- Worked out in whole numbers, as billionths of a unit times 10^12 of a unit price, and divided once per tier.
INSERT INTO charge
WITH priced AS (
    SELECT
        usage.span_id,
        usage.plan_key,
        usage.price_id,
        usage.group_key,
        usage.cell_key,
        price.flats_at_peak,
        price.edge_is_lower,
        price.flat_waits
    FROM rated_usage AS usage
    JOIN price USING (plan_key, price_id)
    WHERE usage.price_type = 'graduated' AND price.tiers_are_held
),
changed AS (
    SELECT priced.*, span_day.first_day AS day, 0::DECIMAL(38, 9) AS quantity
    FROM priced
    JOIN span_day USING (span_id)
    UNION ALL
    SELECT priced.*, coalesce(time_bucket.day, span_day.first_day) AS day, selected.quantity_sum AS quantity
    FROM selected
    JOIN priced
        ON priced.span_id = selected.span_id
        AND priced.price_id = selected.selector_id
        AND priced.group_key = selected.group_key
    JOIN span ON span.span_id = selected.span_id
    JOIN span_day ON span_day.span_id = selected.span_id
    LEFT JOIN time_bucket
        ON time_bucket.part = selected.part
        AND time_bucket.timezone = span.timezone
        AND time_bucket.bucket_start = selected.part_start
),
by_day AS (
    SELECT
        span_id, plan_key, price_id, group_key, cell_key, flats_at_peak, edge_is_lower, flat_waits, day,
        sum(quantity) AS quantity
    FROM changed
    GROUP BY ALL
),
held AS (
    SELECT
        by_day.* EXCLUDE (quantity),
        (sum(by_day.quantity) OVER dates)::DECIMAL(38, 9) AS level,
        sum(by_day.quantity) OVER (PARTITION BY by_day.span_id, by_day.price_id, by_day.group_key) AS last_level,
        lead(by_day.day, 1, span_day.last_day + 1) OVER dates - by_day.day AS days,
        span_day.full_days
    FROM by_day
    JOIN span_day USING (span_id)
    WINDOW dates AS (PARTITION BY by_day.span_id, by_day.price_id, by_day.group_key ORDER BY by_day.day)
),
tiered AS (
    SELECT
        held.span_id,
        held.price_id,
        held.group_key,
        held.cell_key,
        held.flats_at_peak,
        held.full_days::HUGEINT AS full_days,
        tier.tier,
        tier.unit_price,
        tier.flat_amount,
        sum(
            (greatest(least(held.level, coalesce(tier.upper_bound, held.level)) - tier.lower_bound, 0) * 1000000000)::HUGEINT
            * held.days
        )::HUGEINT AS billionth_days,
        coalesce(
            sum(held.days) FILTER (
                (tier.tier = 1 OR held.level > tier.lower_bound OR (held.edge_is_lower AND held.level = tier.lower_bound))
                AND (held.level > 0 OR NOT held.flat_waits)
            ),
            0
        )::HUGEINT AS entered_days
    FROM held
    JOIN price_tier AS tier USING (plan_key, price_id)
    WHERE NOT held.flats_at_peak OR held.last_level >= 0
    GROUP BY ALL
)
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'unit' AS part,
    from_billionths(divide_half_away(billionth_days, full_days)) AS quantity,
    unit_price,
    exact_from_whole(divide_half_away(billionth_days * (unit_price * 1000000000000)::HUGEINT, full_days)) AS exact_amount
FROM tiered
WHERE billionth_days > 0
UNION ALL
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'flat' AS part,
    1 AS quantity,
    flat_amount,
    CASE
        WHEN flats_at_peak THEN flat_amount
        ELSE exact_from_whole(
            divide_half_away(entered_days * 1000000000 * (flat_amount * 1000000000000)::HUGEINT, full_days)
        )
    END::DECIMAL(38, 21) AS exact_amount
FROM tiered
WHERE flat_amount <> 0 AND entered_days > 0
