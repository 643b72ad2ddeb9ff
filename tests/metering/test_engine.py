"""What the engine is held to, beyond what it promises: no answer depends on what its optimizer believes to know."""

from __future__ import annotations

import duckdb
import pytest

from metering.engine import open_engine

TABLES = (
    "CREATE TABLE used AS SELECT * FROM (VALUES ('p', 2::BIGINT), ('p', 1), ('x', 0)) AS t (price_id, quantity)",
    "CREATE TABLE price AS SELECT * FROM (VALUES ('p', 1)) AS t (price_id, factor)",
    # No price is like that, which the statistics of the table say before anybody looks.
    "CREATE VIEW plain_price AS SELECT price_id FROM price WHERE factor IS NULL",
)
SUMS = "SELECT used.price_id, sum(quantity) AS total FROM used {join} JOIN plain_price USING (price_id) GROUP BY ALL"


@pytest.mark.parametrize("join", ["LEFT", "FULL"])
def test_a_sum_beside_an_empty_side_of_a_join_is_compared_as_it_is(join: str) -> None:
    """DuckDB 2.0 takes such a join for empty, so that its sums must be 0, and compares them as if they were."""
    sums = SUMS.format(join=join)
    engine = open_engine()
    for table in TABLES:
        engine.execute(table)
    assert engine.execute(f"{sums} HAVING sum(quantity) <> 0").fetchall() == [("p", 3)]
    said = engine.execute(f"SELECT price_id, CASE WHEN total > 0 THEN 'used' ELSE 'not' END FROM ({sums}) ORDER BY ALL")
    assert said.fetchall() == [("p", "used"), ("x", "not")]


def test_the_statistics_are_turned_off_only_as_long_as_they_mislead() -> None:
    """Fails on the version of DuckDB that is right by itself: then `open_engine` need not turn them off any more."""
    engine = duckdb.connect()
    for table in TABLES:
        engine.execute(table)
    assert engine.execute(f"{SUMS.format(join='LEFT')} HAVING sum(quantity) <> 0").fetchall() == []


def test_nobody_can_turn_the_statistics_on_again() -> None:
    with pytest.raises(duckdb.Error, match="locked"):
        open_engine().execute("RESET disabled_optimizers")
