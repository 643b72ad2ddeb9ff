"""Who is not among the changed tenants has the same usage in both snapshots, whatever came late, twice or void."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import changes, file_facts
from metering.changes import changed_tenants
from metering.engine import open_engine
from metering.lake import Lake
from metering.usage import Snapshot
from tests.metering.test_identities import spoil
from tests.metering.test_rollups import TENANTS, Event, append_next, batch_of, day_of, paths, questions, steps, usage_of


def by_tenant(files: list[str], cut: dict[str, int], asked: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {tenant: [] for tenant in TENANTS}
    for span_id, *row in usage_of(files, cut, asked, with_rollups=False):
        found[asked[span_id][0]].append((span_id, *row))
    return found


def check(lake: Lake, asked: list[tuple[Any, ...]], chance: random.Random) -> None:
    files = paths(lake)
    if not files:
        return
    newest = lake.cut()
    cuts = [newest, *({name: chance.randint(-1, last) for name, last in newest.items()} for _ in range(2))]
    before, now = chance.sample(cuts, 2)
    changed = changed_tenants(files, Snapshot.of(before), Snapshot.of(now), scan_bytes_max=0)
    assert changed == changed_tenants(files, Snapshot.of(now), Snapshot.of(before), scan_bytes_max=0)
    assert changed == changed_tenants(files, Snapshot.of(before), Snapshot.of(now), scan_bytes_max=1 << 40)
    assert changed == {origin[0] for origin in origins(files, before) ^ origins(files, now)}
    ours, theirs = by_tenant(files, before, asked), by_tenant(files, now, asked)
    for tenant in set(TENANTS) - changed:
        assert ours[tenant] == theirs[tenant]


def origins(files: list[str], cut: dict[str, int]) -> set[tuple[Any, ...]]:
    engine = open_engine(files)
    try:
        engine.read_parquet(files, hive_partitioning=False).create_view("data_file")
        rows = engine.execute("SELECT tenant_id, producer_id, segment, row FROM data_file").fetchall()
    finally:
        engine.close()
    return {row for row in rows if row[2] <= cut.get(row[1], -1)}


@settings(max_examples=8, deadline=None)
@given(steps, questions, st.randoms(use_true_random=False))
def test_the_others_have_the_same_usage(ways: list[Any], asked: list[Any], chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as root:
        lake = Lake(root)
        last: dict[str, int] = {}
        for what, producer, rows in ways:
            if what == "append":
                append_next(lake, last, producer, rows)
            elif what == "ask":
                check(lake, asked, chance)
            elif what == "compact":
                lake.compact()
            else:
                spoil(Path(root) / "derived" / "facts", what, chance)
        check(lake, asked, chance)


def test_only_the_files_of_the_new_segments_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    monkeypatch.setattr(changes, "open_engine", lambda files: read.append(list(files)) or open_engine(files))
    looked: list[list[str]] = []
    original = file_facts._read
    monkeypatch.setattr(file_facts, "_read", lambda files: looked.append(list(files)) or original(files))
    lake = Lake(tmp_path)
    before = Snapshot.of(lake.cut())
    for segment in range(1, 6):
        tenant = "zoe" if segment % 2 else "acme"
        lake.append([day_of("a", segment, segment, tenant)])
        now = Snapshot.of(lake.cut())
        assert changed_tenants(paths(lake), before, now, scan_bytes_max=0) == {tenant}
        assert (len(read[-1]), len(looked[-1])) == (1, 1)
        before = now
    looked.clear()
    assert changed_tenants(paths(lake), before, before, scan_bytes_max=0) == frozenset()
    assert changed_tenants(paths(lake), Snapshot(()), before, scan_bytes_max=0) == {"acme", "zoe"}
    assert not looked


def test_a_void_changes_its_tenant_and_nobody_else(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows: list[Event] = [(tenant, "tokens", 8, 28, 0, "k1", None, False) for tenant in TENANTS]
    lake.append([batch_of("a", 1, rows)])
    before = Snapshot.of(lake.cut())
    lake.append([batch_of("b", 1, [("beta", "tokens", 0, 30, 0, "k1", None, True)])])
    assert changed_tenants(paths(lake), before, Snapshot.of(lake.cut())) == {"beta"}
    compacted = Snapshot.of(lake.cut())
    lake.compact()
    assert changed_tenants(paths(lake), before, compacted, scan_bytes_max=0) == {"beta"}
