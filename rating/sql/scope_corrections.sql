-- A close of corrections books only what was found late for billing periods that were invoiced before it.
DELETE FROM line_to_book WHERE is_current
