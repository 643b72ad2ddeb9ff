"""No SELECT reads a column where its author may have meant an alias. See tests.aliases."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from billing_adapters.reconciliation.controls import our_controls
from tests.aliases import AliasWatch, shadowed
from tests.billing_adapters.world import World, statement_of
from tests.properties.strategies import world_of
from tests.properties.wide_worlds import FORMS, wide_world_of
from tests.rated import engine_lines

# The statement that billed too much, as far as it matters: `tiers_from` is a column of rated_usage.
QUERY = """
WITH usage AS (SELECT * FROM rated_usage)
SELECT
    usage.span_id,
    coalesce(earlier.quantity, 0) AS {name},
    least(usage.quantity, price.tiers_end - {name}) AS priced
FROM usage
JOIN price USING (price_id)
LEFT JOIN earlier USING (span_id)
"""


@pytest.fixture
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as engine:
        engine.execute("CREATE TABLE rated_usage (span_id INT, price_id INT, quantity INT, tiers_from INT)")
        engine.execute("CREATE TABLE price (price_id INT, tiers_end INT)")
        engine.execute("CREATE TABLE earlier (span_id INT, quantity INT)")
        yield engine


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "CREATE OR REPLACE TABLE t AS {}",
        "INSERT INTO charge {}",
        "UPDATE rated_usage SET quantity = 1 FROM ({}) AS t",
    ],
)
def test_a_column_that_is_read_for_an_alias_is_found(engine: duckdb.DuckDBPyConnection, around: str) -> None:
    assert shadowed(engine, around.format(QUERY.format(name="tiers_from"))) == ["tiers_from"]
    assert shadowed(engine, around.format(QUERY.format(name="used_before"))) == []


def test_clauses_behind_the_columns_are_looked_at_too(engine: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT span_id, quantity * 2 AS {} FROM rated_usage WHERE {} > 5"
    assert shadowed(engine, query.format("quantity", "quantity")) == ["quantity"]
    assert shadowed(engine, query.format("quantity", "rated_usage.quantity")) == []
    assert shadowed(engine, query.format("doubled", "doubled")) == []
    assert shadowed(engine, "SELECT -quantity AS quantity FROM rated_usage WHERE quantity > $least") == ["quantity"]
    # What is only passed on, and the order of rows, which takes the alias, are what they seem.
    assert shadowed(engine, "SELECT quantity, quantity + 1 AS more FROM rated_usage ORDER BY quantity") == []
    assert shadowed(engine, "SELECT -quantity AS quantity FROM rated_usage ORDER BY quantity") == []


def test_named_queries_and_queries_inside_are_looked_at_too(engine: duckdb.DuckDBPyConnection) -> None:
    inner = "SELECT span_id, -quantity AS quantity, quantity + 1 AS more FROM rated_usage"
    for query in (
        f"WITH a AS ({inner}) SELECT more FROM a",
        f"SELECT more FROM ({inner})",
        f"{inner} UNION ALL {inner}",
    ):
        assert set(shadowed(engine, query)) == {"quantity"}


def test_a_statement_of_the_packages_fails_the_test_that_first_runs_it(engine: duckdb.DuckDBPyConnection) -> None:
    watch = AliasWatch()
    assert len(watch.unseen) > 200
    bad = QUERY.format(name="tiers_from")
    watch.unseen = {bad: "bad.sql"}
    with watch.on_every_engine():
        engine.execute("SELECT 1")
        with pytest.raises(AssertionError, match=r"bad.sql reads \['tiers_from'\]"):
            engine.sql(bad)
    engine.execute(bad)


@pytest.mark.timeout(300)
def test_rating_reads_no_column_for_an_alias() -> None:
    watch = AliasWatch()
    before = len(watch.unseen)
    with watch.on_every_engine():
        for seed in range(6):
            engine_lines(*world_of(seed, 3, 6, 20))
        for form in FORMS:
            engine_lines(*wide_world_of(1, 2, 4, 10, form))
    assert before - len(watch.unseen) > 70


@pytest.mark.timeout(300)
def test_reconciliation_reads_no_column_for_an_alias() -> None:
    watch = AliasWatch()
    before = len(watch.unseen)
    with watch.on_every_engine():
        statement_of(World(), controls=our_controls())
    assert before - len(watch.unseen) > 60
