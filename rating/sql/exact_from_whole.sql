-- A whole number of 10^-21 of a major unit as an exact amount. What does not fit raises.
CREATE OR REPLACE MACRO exact_from_whole(whole) AS
    (whole::DECIMAL(38, 0) * 0.000000000000000000001::DECIMAL(21, 21))::DECIMAL(38, 21)
