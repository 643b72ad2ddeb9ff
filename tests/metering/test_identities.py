"""Duplicates found by reading only what is new are, row for row, those that the plain statement finds in everything."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import identities
from metering.batch import SegmentBatch
from metering.duplicates import Duplicates, find_duplicates
from metering.engine import open_engine, read_sql
from metering.events import usage_event_schema
from metering.identities import find_candidates
from metering.lake import Lake
from metering.usage import Snapshot, register
from tests.metering.lake_batches import START, segment_batch

Event = tuple[str, str, str | None, int, int, int]
events = st.tuples(
    st.sampled_from(["acme", "zoe"]),
    st.sampled_from(["tokens", "calls"]),
    st.none() | st.sampled_from(["k1", "k2", "k3", "k4"]) | st.integers(0, 200).map(str),
    st.integers(0, 2),  # quantity
    st.integers(0, 2),  # day
    st.integers(0, 3),  # recorded_at
)
appends = st.tuples(st.just("append"), st.sampled_from(["a", "b", "c"]), st.lists(events, min_size=1, max_size=8))
steps = st.lists(
    st.one_of(
        appends,
        appends,
        st.tuples(st.sampled_from(["look", "compact", "delete all", "delete some", "damage"]), st.none(), st.none()),
    ),
    max_size=14,
)


def batch_of(producer: str, segment: int, rows: list[Event]) -> SegmentBatch:
    table = pa.Table.from_pylist(
        [
            {
                "tenant_id": tenant, "meter": meter, "quantity": Decimal(quantity),
                "event_time": START + timedelta(days=day), "recorded_at": START + timedelta(seconds=recorded),
                "producer_id": producer, "segment": segment, "row": row, "idempotency_key": key,
            }
            for row, (tenant, meter, key, quantity, day, recorded) in enumerate(rows)
        ],
        schema=usage_event_schema(),
    )  # fmt: skip
    return replace(segment_batch(producer, segment), events=table, rows=table.num_rows)


def paths(lake: Lake) -> list[str]:
    return [file.path for file in lake.data_files()]


def duplicates(files: list[str], cut: dict[str, int], candidates: pa.Table | None) -> list[tuple[Any, ...]]:
    """Return the table `duplicate` of a cut: of the candidates, or of everything when there are none."""
    engine = open_engine(files)
    producers = pa.table(
        {"producer_id": pa.array(list(cut), pa.string()), "last_segment": pa.array(list(cut.values()))}
    )
    register(engine, "cut", producers.cast(pa.schema([("producer_id", pa.string()), ("last_segment", pa.int64())])))
    try:
        if candidates is None:
            engine.read_parquet(files, hive_partitioning=False).create_view("data_file")
            engine.execute(read_sql("metering", "stored_event"))
            engine.execute(read_sql("metering", "keyed_event"))
        else:
            register(engine, "candidate", candidates)
            engine.execute(read_sql("metering", "keyed_candidate"))
        engine.execute(read_sql("metering", "duplicate"))
        found: list[tuple[Any, ...]] = engine.execute(
            "SELECT * REPLACE (epoch_us(event_time) AS event_time) FROM duplicate ORDER BY ALL"
        ).fetchall()
        return found
    finally:
        engine.close()


def check(lake: Lake, chance: random.Random) -> None:
    files = paths(lake)
    if not files:
        return
    candidates = find_candidates(files, scan_bytes_max=0)
    assert candidates is not None
    newest = lake.cut()
    for cut in (newest, {name: chance.randint(0, last) for name, last in newest.items()}):
        assert duplicates(files, cut, candidates) == duplicates(files, cut, None)


def spoil(folder: Path, what: str, chance: random.Random) -> None:
    entries = sorted(folder.iterdir()) if folder.exists() else []
    if what == "delete all":
        shutil.rmtree(folder, ignore_errors=True)
    elif entries and what == "delete some":
        chance.choice(entries).unlink()
    elif entries and what == "damage":
        path = chance.choice(entries)
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1
        path.unlink()
        path.write_bytes(content[: chance.choice([len(content), len(content) // 2])])


@settings(max_examples=8, deadline=None)
@given(steps, st.randoms(use_true_random=False))
def test_duplicates_are_those_of_the_plain_statement(ways: list[Any], chance: random.Random) -> None:
    with tempfile.TemporaryDirectory() as root:
        lake = Lake(root)
        last: dict[str, int] = {}
        for what, producer, rows in ways:
            if what == "append":
                last[producer] = last.get(producer, 0) + 1
                lake.append([batch_of(producer, last[producer], rows)])
            elif what == "look":
                check(lake, chance)
            elif what == "compact":
                lake.compact()
            else:
                spoil(Path(root) / "derived" / "identities", what, chance)
        check(lake, chance)


def keyed(first: int, count: int) -> list[Event]:
    return [("acme", "tokens", f"key-{number}", 1, 0, 0) for number in range(first, first + count)]


def test_only_new_files_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    hashed: list[str] = []
    original = identities._hash
    monkeypatch.setattr(identities, "_hash", lambda portion, first: hashed.extend(portion) or original(portion, first))
    for segment in range(1, 6):
        lake.append([batch_of("a", segment, keyed(100 * segment, 100))])
        hashed.clear()
        find_candidates(paths(lake), scan_bytes_max=0)
        assert len(hashed) == 1
    hashed.clear()
    find_candidates(paths(lake), scan_bytes_max=0)
    assert not hashed


def test_a_shared_hash_is_not_a_shared_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hash is made to collide with a quarter of all others; the answer stays."""

    def coarse(portion: Any, first: int) -> Any:
        run = original(portion, first)
        run[0] %= np.uint64(4)
        return run[:, np.argsort(run[0], kind="stable")]

    original = identities._hash
    monkeypatch.setattr(identities, "_hash", coarse)
    lake = Lake(tmp_path)
    for segment, rows in enumerate([keyed(0, 30), keyed(40, 30), keyed(25, 20)], start=1):
        lake.append([batch_of("a", segment, rows)])
        check(lake, random.Random(segment))
    candidates = find_candidates(paths(lake), scan_bytes_max=0)
    assert candidates is not None
    assert candidates.num_rows == 80
    assert len(duplicates(paths(lake), lake.cut(), candidates)) == 10


def test_a_file_that_comes_back_is_new_again(tmp_path: Path) -> None:
    """A reader with an older list of files beside one with a newer list: each gets its own right answer."""
    lake = Lake(tmp_path)
    for segment in (1, 2, 3):
        lake.append([batch_of("a", segment, keyed(0, 5))])
    older = paths(lake)
    lake.compact()
    for files in (older, paths(lake), older, paths(lake)):
        candidates = find_candidates(files, scan_bytes_max=0)
        assert duplicates(files, lake.cut(), candidates) == duplicates(files, lake.cut(), None)
        assert len(duplicates(files, lake.cut(), candidates)) == 10


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([batch_of("a", 1, [*keyed(0, 3), *keyed(1, 1)])])
    (tmp_path / "derived").write_text("in the way", encoding="utf-8")

    candidates = find_candidates(paths(lake), scan_bytes_max=0)

    assert len(duplicates(paths(lake), lake.cut(), candidates)) == 1


def test_few_or_foreign_files_are_simply_scanned(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([batch_of("a", 1, keyed(0, 3))])

    assert find_candidates(paths(lake)) is None
    assert find_candidates([], scan_bytes_max=0) is None
    assert find_candidates([str(tmp_path / "events.parquet")], scan_bytes_max=0) is None
    assert not (tmp_path / "derived").exists()


def test_rating_uses_the_candidates_of_a_large_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metering.usage import open_evidence

    lake = Lake(tmp_path)
    lake.append([batch_of("a", 1, [*keyed(0, 3), *keyed(1, 2)])])
    monkeypatch.setattr(identities, "SCAN_BYTES_MAX", 0)

    engine = open_evidence(paths(lake), Snapshot.of(lake.cut()))

    assert (tmp_path / "derived" / "identities" / identities.MANIFEST).exists()
    assert engine.execute("SELECT count(*) FROM duplicate").fetchall() == [(2,)]
    assert engine.execute("SELECT count(*) FROM usage_event").fetchall() == [(3,)]
    engine.close()


def test_upkeep_looks_through_what_is_new_so_that_rating_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "SCAN_BYTES_MAX", 0)
    lake = Lake(tmp_path / "lake")
    lake.append([batch_of("p1", 1, [("acme", "m", "a", 1, 0, 0), ("acme", "m", "b", 1, 0, 1)])])
    assert find_duplicates(lake) == Duplicates(0, 0)
    lake.append(
        [batch_of("p1", 2, [("acme", "m", "a", 1, 0, 2), ("acme", "m", "b", 5, 0, 3), ("globex", "m", "a", 1, 0, 4)])]
    )
    assert find_duplicates(lake) == Duplicates(2, 1)
    monkeypatch.setattr(identities, "_hash", None)
    assert find_duplicates(lake) == Duplicates(2, 1)
    assert find_candidates(paths(lake)) is not None
    lake.append([batch_of("p1", 3, [("acme", "m", "c", 1, 0, 5)])])
    with pytest.raises(TypeError):
        find_duplicates(lake)
    assert find_duplicates(Lake(tmp_path / "empty")) == Duplicates(0, 0)
