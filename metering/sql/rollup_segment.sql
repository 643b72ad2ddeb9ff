-- Which segments the rows of some data files came from. One row per (data file, producer).
SELECT
    parse_filename(filename) AS file_name,
    producer_id,
    min(segment) AS first_segment,
    max(segment) AS last_segment
FROM rollup_file
GROUP BY ALL
