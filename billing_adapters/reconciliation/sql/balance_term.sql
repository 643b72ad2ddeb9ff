-- The prepaid balances of the catalog. One row per balance; `prices` are the ids it is for, none: all of them.
CREATE OR REPLACE TABLE balance_term AS
SELECT * EXCLUDE (prices), coalesce(list(prices ORDER BY prices) FILTER (prices IS NOT NULL), []) AS prices
FROM balance_term_row
GROUP BY ALL
