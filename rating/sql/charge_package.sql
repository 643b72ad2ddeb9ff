-- package: a started package is a whole one. Packages = ceil(quantity / size), worked out on whole billionths of a unit
-- (`//` divides HUGEINT without remainder, exactly), because a decimal division would be a double.
INSERT INTO charge
WITH counted AS (
    SELECT
        usage.span_id,
        usage.price_id,
        usage.group_key,
        usage.cell_key,
        price_package.package_price,
        (usage.quantity * 1000000000)::HUGEINT AS billionths,
        (price_package.package_size * 1000000000)::HUGEINT AS billionths_per_package
    FROM rated_usage AS usage
    JOIN price_package USING (plan_key, price_id)
    WHERE usage.price_type = 'package' AND usage.quantity > 0
)
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    1 AS tier,
    'unit' AS part,
    ((billionths + billionths_per_package - 1) // billionths_per_package)::DECIMAL(38, 9) AS packages,
    package_price,
    packages * package_price AS exact_amount
FROM counted
