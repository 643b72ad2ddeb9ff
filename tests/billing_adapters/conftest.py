"""The books of deliveries, in both databases: the tables they touch, as migrations make them (tests/tallybook/test_books.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from billing_adapters.books import (
    deliveries,
    delivery_attempts,
    delivery_links,
    delivery_paces,
    payments,
    provider_lists,
    settlements,
)
from metering.books import control_points, snapshots
from rating.books import closes, invoice_voids, invoices
from tallybook.books import metadata, open_books
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)

DELIVERY_TABLES = [
    deliveries, delivery_attempts, delivery_links, delivery_paces, payments, settlements, control_points, snapshots, closes,
    invoices, invoice_voids, provider_lists,
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    is_file = request.param == "sqlite"
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite" if is_file else request.getfixturevalue("postgres_url"))
    metadata.create_all(engine, tables=DELIVERY_TABLES)
    yield engine
    engine.dispose()
