-- An amount raised to its minimum or cut to its maximum; a limit that is null is none. 50 with a maximum of 30 is 30.
CREATE OR REPLACE MACRO limited_amount(exact_amount, minimum, maximum) AS
    least(
        greatest(exact_amount, coalesce(minimum::DECIMAL(38, 21), exact_amount)),
        coalesce(maximum::DECIMAL(38, 21), greatest(exact_amount, coalesce(minimum::DECIMAL(38, 21), exact_amount)))
    )
