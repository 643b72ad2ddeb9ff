"""Rollups against the usage events that they were made of: real files, one of which is made to say less."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from billing_adapters.reconciliation.controls import our_controls
from billing_adapters.reconciliation.rolled_up import rolled_up
from metering import rollups
from metering.lake import Lake
from tests.billing_adapters.world import World, statement_of
from tests.metering.lake_batches import START
from tests.metering.test_rollups import append_next, paths, usage_of

if TYPE_CHECKING:
    from pathlib import Path

    from billing_adapters.reconciliation.statement import Finding

# A span of the tenant begins in the middle of the month, so that the rollup has more than one cell of it.
OCTOBER = START, datetime(2026, 11, 1, tzinfo=UTC)
MIDDLE = datetime(2026, 10, 29, 12, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Return a lake with rollups: 3 events of 8 eighths each, one of them twice."""
    monkeypatch.setattr(rollups, "SCAN_BYTES_MAX", 0)
    lake = Lake(tmp_path / "lake")
    rows = [("acme", "calls", 8, 28 + n, 1, key, None, False) for n, key in enumerate(("k1", "k2", None))]
    append_next(lake, {}, "a", [*rows, rows[0]])
    usage_of(paths(lake), lake.cut(), [("acme", OCTOBER[0], MIDDLE), ("acme", MIDDLE, OCTOBER[1])], with_rollups=True)
    return lake


def found(lake: Lake) -> list[Finding]:
    [control] = [one for one in our_controls() if one.control_id == "ROLLUP_DRIFT"]
    return list(statement_of(World(), controls=[control], given=rolled_up(paths(lake), *OCTOBER)).findings)


def spoil(root: Path) -> None:
    """Let a rollup hold one unit less, under the name that its bytes have, so that nothing but the figures is wrong."""
    manifest = root / "derived" / "usage" / rollups.MANIFEST
    said = json.loads(manifest.read_text(encoding="utf-8"))
    entry = said["rollups"][0]
    states = pq.ParquetFile(manifest.parent / entry["states"]).read()
    rows = states.to_pylist()
    rows[0]["quantity_sum"] -= 1
    states = pa.Table.from_pylist(rows, schema=states.schema)
    part = manifest.parent / "part"
    pq.write_table(states, part)
    name = hashlib.sha256(part.read_bytes()).hexdigest() + ".parquet"
    part.rename(manifest.parent / name)
    entry["states"] = name
    manifest.write_text(json.dumps(said), encoding="utf-8")


def test_rollups_and_their_usage_events_are_the_same(lake: Lake) -> None:
    given = rolled_up(paths(lake), *OCTOBER)
    [row] = given["rollup_total"].to_pylist()
    assert (row["tenant_id"], row["meter"], row["rows"], row["quantity"]) == ("acme", "calls", 3, Decimal(3))
    assert given["rollup_source_total"].to_pylist() == [row]
    assert found(lake) == []


def test_a_rollup_that_says_less_is_found(lake: Lake, tmp_path: Path) -> None:
    spoil(tmp_path / "lake")
    [one] = found(lake)
    assert (one.tenant_id, one.meter, one.reason, one.quantity_difference) == ("acme", "calls", "less_than_stored", 1)


def test_a_lake_without_rollups_has_none_to_compare(lake: Lake, tmp_path: Path) -> None:
    other = Lake(tmp_path / "other")
    append_next(other, {}, "a", [("acme", "calls", 8, 28, 1, None, None, False)])
    assert rolled_up(paths(other), *OCTOBER) == {}
