-- The close whose lines are made. One row.
CREATE OR REPLACE TABLE invoice_close AS
SELECT $close_id AS close_id
