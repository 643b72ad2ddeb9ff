-- A whole number of billionths of a unit as a quantity. Exact; what does not fit raises.
CREATE OR REPLACE MACRO from_billionths(billionths) AS
    (billionths::DECIMAL(38, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)
