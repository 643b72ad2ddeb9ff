-- A hash of the identity of every keyed row of some data files, and where the row is. One row per keyed row.
SELECT
    hash(tenant_id, meter, idempotency_key) AS identity,
    parse_filename(filename) AS file_name,
    file_row_number AS place
FROM data_file
WHERE idempotency_key IS NOT NULL
