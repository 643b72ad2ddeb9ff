"""The hand-overs of rating are tables with declared columns: every statement is described over empty, typed tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from metering.engine import open_engine
from metering.periods import parse_period
from metering.usage import Snapshot, load_evidence
from rating.ledger import booked_nothing
from rating.rate import rate, subtract_booked
from rating.terms import Terms, billing_spans

DECIMAL = {
    "quantity": "DECIMAL(38,9)",
    "price": "DECIMAL(24,12)",
    "exact": "DECIMAL(38,21)",
    "amount": "DECIMAL(38,12)",
}
INSTANT = "TIMESTAMP WITH TIME ZONE"
KEY = {
    "subscription_id": "VARCHAR",
    "period_start": INSTANT,
    "service_start": INSTANT,
    "currency": "VARCHAR",
    "price_id": "VARCHAR",
    "group_key": "VARCHAR",
}

# One row per: see the head of the file of the same name.
TABLES = {
    "stored_event": {
        "tenant_id": "VARCHAR",
        "meter": "VARCHAR",
        "quantity": DECIMAL["quantity"],
        "event_time": INSTANT,
        "recorded_at": INSTANT,
        "producer_id": "VARCHAR",
        "segment": "BIGINT",
        "row": "INTEGER",
        "idempotency_key": "VARCHAR",
        "attributes": "VARCHAR",
        "correction": "VARCHAR",
    },
    "selection": {
        "selector_set": "VARCHAR",
        "selector_id": "VARCHAR",
        "attributes": "VARCHAR",
        "group_key": "VARCHAR",
        "cell_key": "VARCHAR",
        "taking": "BIGINT",
    },
    "usage": {
        "span_id": "BIGINT",
        "selector_id": "VARCHAR",
        "meter": "VARCHAR",
        "group_key": "VARCHAR",
        "cell_key": "VARCHAR",
        "event_count": "BIGINT",
        "quantity": DECIMAL["quantity"],
    },
    "charge": {
        "span_id": "BIGINT",
        "price_id": "VARCHAR",
        "group_key": "VARCHAR",
        "cell_key": "VARCHAR",
        "tier": "INTEGER",
        "part": "VARCHAR",
        "quantity": DECIMAL["quantity"],
        "unit_price": DECIMAL["price"],
        "exact_amount": DECIMAL["exact"],
    },
    "worth": {
        "price_id": "VARCHAR",
        "quantity": DECIMAL["quantity"],
        "exact_amount": DECIMAL["exact"],
        "amount": DECIMAL["amount"],
    },
    "charge_to_book": {
        "span_id": "BIGINT",
        "price_id": "VARCHAR",
        "group_key": "VARCHAR",
        "cell_key": "VARCHAR",
        "tier": "INTEGER",
        "part": "VARCHAR",
        "unit_price": DECIMAL["price"],
        "quantity": DECIMAL["quantity"],
        "exact_amount": DECIMAL["exact"],
    },
    "invoice_line": {
        **KEY,
        "line_id": "VARCHAR",
        "kind": "VARCHAR",
        "quantity": DECIMAL["quantity"],
        "exact_amount": DECIMAL["exact"],
        "amount": DECIMAL["amount"],
        "cumulative_quantity": DECIMAL["quantity"],
        "cumulative_exact_amount": DECIMAL["exact"],
        "cumulative_amount": DECIMAL["amount"],
    },
    "line_charge": {
        "line_id": "VARCHAR",
        "cell_key": "VARCHAR",
        "tier": "INTEGER",
        "part": "VARCHAR",
        "quantity": DECIMAL["quantity"],
        "unit_price": DECIMAL["price"],
        "exact_amount": DECIMAL["exact"],
    },
}
EXACT_COLUMNS = frozenset({"stored_event", "selection", "usage", "charge", "charge_to_book"})


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, str]]:
    terms = Terms.of([], [], [], [])
    engine = open_engine(threads=1)
    load_evidence(engine, [], Snapshot(()))
    rate(engine, terms, billing_spans(terms, parse_period("2026-10")), datetime(2026, 11, 1, tzinfo=UTC))
    subtract_booked(engine, *booked_nothing(), "close-none")
    found = {
        table: {name: kind for name, kind, *_ in engine.execute(f"DESCRIBE {table}").fetchall()} for table in TABLES
    }
    engine.close()
    return found


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_the_columns_it_declares(described: dict[str, dict[str, str]], table: str) -> None:
    found, declared = described[table], TABLES[table]
    if table in EXACT_COLUMNS:
        assert found == declared
    else:
        # These carry the columns of what they come from as well.
        assert {name: found.get(name) for name in declared} == declared


def test_no_table_of_the_way_holds_a_float(described: dict[str, dict[str, str]]) -> None:
    assert not [kind for columns in described.values() for kind in columns.values() if kind in {"DOUBLE", "FLOAT"}]
