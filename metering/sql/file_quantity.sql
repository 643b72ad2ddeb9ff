-- The quantities of a data file in its order, those that fit 18 digits. One row per event; one that does not fit is null.
SELECT try_cast(quantity AS decimal(18, 9)) AS quantity
FROM read_parquet($file, hive_partitioning = false)
