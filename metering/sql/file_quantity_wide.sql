-- The quantities of a data file that do not fit 18 digits. One row per such event; `place` counts all rows of the file from 0.
SELECT file_row_number AS place, quantity
FROM read_parquet($file, hive_partitioning = false, file_row_number = true)
WHERE try_cast(quantity AS decimal(18, 9)) IS NULL
ORDER BY place
