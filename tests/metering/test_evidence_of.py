"""The evidence of a few tenants, looked up, is that of all tenants, looked through: duplicates, voids and cuts included."""

from __future__ import annotations

import random
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import usage
from metering.lake import Lake
from metering.usage import Snapshot, open_evidence, open_evidence_of
from tests.metering.test_rollups import TENANTS, append_next, day_of, paths, steps

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

TABLES = {
    "usage_event": "producer_id, segment, row, quantity, epoch_us(event_time)",
    "duplicate": "producer_id, segment, row",
}


def rows_of(engine: duckdb.DuckDBPyConnection | None, tenants: set[str]) -> dict[str, list[Any]]:
    assert engine is not None
    try:
        return {
            table: engine.execute(
                f"SELECT tenant_id, {names} FROM {table} WHERE list_contains($tenants, tenant_id) ORDER BY ALL",
                {"tenants": sorted(tenants)},
            ).fetchall()
            for table, names in TABLES.items()
        }
    finally:
        engine.close()


@settings(max_examples=15, deadline=None)
@given(steps, st.sets(st.sampled_from(TENANTS), min_size=1), st.randoms(use_true_random=False))
def test_a_few_tenants_have_the_evidence_they_have_among_all(
    ways: list[Any], tenants: set[str], chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as root:
        lake = Lake(root)
        last: dict[str, int] = {}
        for what, producer, rows in ways:
            if what == "append":
                append_next(lake, last, producer, rows)
            elif what == "compact":
                lake.compact()
        files, newest = paths(lake), lake.cut()
        if not files:
            return
        for cut in (newest, {name: chance.randint(-1, at) for name, at in newest.items()}):
            snapshot = Snapshot.of(cut)
            of_few = rows_of(open_evidence_of(tenants, files, snapshot), set(TENANTS))
            assert of_few == rows_of(open_evidence(files, snapshot), tenants)


def test_what_is_not_few_is_left_to_who_reads_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    lake.append([day_of("a", 1, day=3), day_of("b", 1, day=3, tenant="zoe")])
    snapshot = Snapshot.of(lake.cut())
    assert open_evidence_of({"acme"}, [], snapshot) is None
    assert open_evidence_of((), paths(lake), snapshot) is None
    monkeypatch.setattr(usage, "FEW_EVENTS", 24)
    assert len(rows_of(open_evidence_of({"acme"}, paths(lake), snapshot), {"acme"})["usage_event"]) == 24
    assert open_evidence_of({"acme", "zoe"}, paths(lake), snapshot) is None
    monkeypatch.setattr(usage, "FEW_TENANTS", 0)
    assert open_evidence_of({"acme"}, paths(lake), snapshot) is None
