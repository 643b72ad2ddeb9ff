-- How many packages a quantity is: a started one is whole (`up`), or only full ones count (`down`). Worked out on whole
-- billionths of a unit (`//` divides HUGEINT without remainder, exactly), because a decimal division would be a double.
CREATE OR REPLACE MACRO packages_of(quantity, package_size, part) AS
    (
        (
            (quantity * 1000000000)::HUGEINT
            + CASE part WHEN 'down' THEN 0 ELSE (package_size * 1000000000)::HUGEINT - 1 END
        ) // (package_size * 1000000000)::HUGEINT
    )::DECIMAL(38, 9)
