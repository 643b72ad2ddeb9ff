-- The selectors with their whole numbers of 128 bits, which Arrow does not have. One row per selector.
CREATE OR REPLACE TABLE selector AS
SELECT
    * EXCLUDE (rounding_step_text),
    rounding_step_text::HUGEINT AS rounding_step
FROM selector_row
