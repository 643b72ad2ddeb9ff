-- What is in some data files, as far as it decides who has to read them. One row per (data file, producer).
SELECT
    parse_filename(filename) AS file_name,
    producer_id,
    min(segment) AS first_segment,
    max(segment) AS last_segment,
    count(correction) AS corrections
FROM fact_file
GROUP BY ALL
ORDER BY ALL
