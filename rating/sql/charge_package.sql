-- package: a price per package; a started one is whole, unless the price counts full ones only. 250 in hundreds are 3.
INSERT INTO charge
SELECT
    usage.span_id,
    usage.price_id,
    usage.group_key,
    usage.cell_key,
    1 AS tier,
    'unit' AS part,
    packages_of(usage.quantity, price_package.package_size, price_package.part) AS packages,
    price_package.package_price,
    packages * price_package.package_price AS exact_amount
FROM rated_usage AS usage
JOIN price_package USING (plan_key, price_id)
WHERE usage.price_type = 'package' AND packages > 0
