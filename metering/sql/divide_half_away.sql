-- The one division of quantities: half away from zero, in whole numbers. 7 by 2 is 4, -7 by 2 is -4. The divisor is above 0.
CREATE OR REPLACE MACRO divide_half_away(dividend, divisor) AS
    dividend // divisor
    + CASE WHEN 2 * (abs(dividend) % divisor) >= divisor THEN CASE WHEN dividend < 0 THEN -1 ELSE 1 END ELSE 0 END
