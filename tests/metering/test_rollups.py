"""Usage with rollups is, row for row, the usage of the events: whatever comes late, twice or void, and whatever breaks."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import file_facts, file_states, identities, rollups
from metering.batch import SegmentBatch
from metering.corrections import correction_text
from metering.engine import open_engine
from metering.events import usage_event_schema
from metering.lake import Lake
from metering.rollups import Rollups
from metering.usage import Selector, Snapshot, Span, aggregate, load_evidence
from tests.metering.lake_batches import START, segment_batch
from tests.metering.test_identities import spoil

# tenant, meter, quantity, day, hour, key, attributes, is it a void of the key instead
Event = tuple[str, str, int, int, int, str | None, str | None, bool]
METERS = {
    "tokens": "sum", "calls": "count", "peak": "max", "low": "min", "state": "last", "begin": "first", "mean": "average",
    "level": "time_weighted_sum", "users": "unique_count",
}  # fmt: skip
TENANTS = ("acme", "beta", "zoe")

events = st.tuples(
    st.sampled_from(TENANTS),
    st.sampled_from(list(METERS)),
    st.integers(-3, 9),
    st.integers(28, 33),
    st.integers(0, 23),
    st.none() | st.sampled_from(["k1", "k2", "k3"]),
    st.sampled_from([None, '{"user":"a"}', '{"user":"b"}']),
    st.booleans(),
)
appends = st.tuples(st.just("append"), st.sampled_from(["a", "b"]), st.lists(events, min_size=1, max_size=8))
steps = st.lists(
    st.one_of(
        appends,
        appends,
        st.tuples(
            st.sampled_from(["ask", "ask", "compact", "delete all", "delete some", "damage"]), st.none(), st.none()
        ),
    ),
    max_size=12,
)
# Midnights and noons around the turn of the month.
instants = st.integers(54, 70).map(lambda half: START + timedelta(hours=12 * half))
questions = st.lists(st.tuples(st.sampled_from(TENANTS), instants, instants), min_size=1, max_size=5)


def batch_of(producer: str, segment: int, rows: list[Event]) -> SegmentBatch:
    table = pa.Table.from_pylist(
        [
            {
                "tenant_id": tenant, "meter": meter, "quantity": Decimal(quantity) / 8,
                "event_time": START + timedelta(days=day, hours=hour), "recorded_at": START + timedelta(seconds=segment),
                "producer_id": producer, "segment": segment, "row": row,
                "idempotency_key": None if is_void else key, "attributes": attributes,
                "correction": correction_text("void", key=key) if is_void and key else None,
            }
            for row, (tenant, meter, quantity, day, hour, key, attributes, is_void) in enumerate(rows)
        ],
        schema=usage_event_schema(),
    )  # fmt: skip
    return replace(segment_batch(producer, segment), events=table, rows=table.num_rows)


def append_next(lake: Lake, last: dict[str, int], producer: str, rows: list[Event]) -> None:
    """Append the next segment of a producer; `last` holds the number of each producer's last one."""
    last[producer] = last.get(producer, 0) + 1
    lake.append([batch_of(producer, last[producer], rows)])


def paths(lake: Lake) -> list[str]:
    return [file.path for file in lake.data_files()]


def usage_of(
    files: list[str], cut: dict[str, int], asked: list[tuple[Any, ...]], *, with_rollups: bool
) -> list[tuple[Any, ...]]:
    """Return the table `usage` of some spans at a cut."""
    kept = Rollups.of(files, scan_bytes_max=0) if with_rollups else None
    spans = [
        Span(number, tenant, "all", min(start, end), max(start, end))
        for number, (tenant, start, end) in enumerate(asked)
        if start != end
    ]
    selectors = [
        Selector("all", meter, meter, aggregation, unique_attribute="user" if meter == "users" else None, by=by)
        for meter, aggregation in METERS.items()
        for by in [() if meter == "users" else ("user",)]
    ]
    engine = open_engine(files, folder=str(kept.folder) if kept else None)
    try:
        with pytest.MonkeyPatch.context() as patch:
            # With rollups everything that is kept is used, without them nothing.
            for module in (identities, file_facts):
                patch.setattr(module, "SCAN_BYTES_MAX", 0 if with_rollups else 1 << 60)
            load_evidence(engine, files, Snapshot.of(cut))
        aggregate(engine, spans, selectors, rollups=kept)
        rows: list[tuple[Any, ...]] = engine.execute("SELECT * FROM usage ORDER BY ALL").fetchall()
        return rows
    finally:
        engine.close()


def check(lake: Lake, asked: list[tuple[Any, ...]], chance: random.Random) -> None:
    files = paths(lake)
    if not files:
        return
    newest = lake.cut()
    older = {name: chance.randint(0, last) for name, last in newest.items()}
    for cut in chance.sample([newest, newest, older], 3):
        assert usage_of(files, cut, asked, with_rollups=True) == usage_of(files, cut, asked, with_rollups=False)


@settings(max_examples=5, deadline=None)
@given(steps, questions, questions, st.sampled_from([0, 1000]), st.randoms(use_true_random=False))
def test_usage_is_that_of_the_events(
    ways: list[Any], first: list[Any], second: list[Any], stale_max: int, chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollups, "STALE_TENANTS_MAX", stale_max)
        # By the column, or by the statement where there are too many groups for it.
        patch.setattr(file_states, "GROUPS_MAX", chance.choice([1, 2**24]))
        lake = Lake(root)
        last: dict[str, int] = {}
        for what, producer, rows in ways:
            if what == "append":
                append_next(lake, last, producer, rows)
            elif what == "ask":
                check(lake, chance.choice([first, second]), chance)
            elif what == "compact":
                lake.compact()
            else:
                spoil(Path(root) / "derived" / "usage", what, chance)
        check(lake, first, chance)


MONTH = [("acme", START, START + timedelta(days=31)), ("zoe", START, START + timedelta(days=31))]


def day_of(producer: str, segment: int, day: int, tenant: str = "acme") -> SegmentBatch:
    return batch_of(producer, segment, [(tenant, "tokens", 8, day, hour, None, None, False) for hour in range(24)])


def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every data file is added whose events are read to make a rollup."""
    files: list[str] = []
    original = Rollups._make

    def make(self: Rollups, engine: Any, writers: Any, names: Any, *settings: Any) -> Any:
        files.extend(names)
        return original(self, engine, writers, names, *settings)

    monkeypatch.setattr(Rollups, "_make", make)
    return files


def test_only_new_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    read = made(monkeypatch)
    for segment in range(1, 9):
        lake.append([day_of("a", segment, segment)])
        read.clear()
        usage = usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
        assert len(read) == 1
        assert usage == usage_of(paths(lake), lake.cut(), MONTH, with_rollups=False)
    read.clear()
    usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    assert not read
    assert len(list((tmp_path / "derived" / "usage").glob("*.parquet"))) > 3


def test_compaction_makes_the_states_of_its_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    read = made(monkeypatch)
    for segment in range(1, 5):
        lake.append([day_of("a", segment, day=1 if segment == 1 else 20)])
        usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    read.clear()
    lake.compact()
    assert usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)[0][-1] == Decimal(96)
    # The file of the first day stayed as it was, and so did its states.
    assert len(read) == 1


def test_a_void_is_not_forgotten_when_rollups_are_added_up(tmp_path: Path) -> None:
    """One segment lies in files of two days; the void of its first day comes before the rollup of the second is made again."""
    lake = Lake(tmp_path)
    rows: list[Event] = [("acme", "tokens", 8, day, 0, key, None, False) for day, key in ((1, "k1"), (3, None))]
    lake.append([batch_of("a", 1, rows)])
    usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    lake.append([batch_of("a", 2, [("acme", "tokens", 0, 3, 1, "k1", None, True)])])
    lake.compact()
    usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    lake.append([batch_of("a", 3, [("zoe", "tokens", 8, 9, 0, None, None, False)])])
    for _ in range(3):
        found = usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
        assert found == usage_of(paths(lake), lake.cut(), MONTH, with_rollups=False)


@pytest.mark.parametrize("groups_max", [1, 2**24])
def test_wide_quantities_and_many_groups_are_added_up_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups_max: int
) -> None:
    monkeypatch.setattr(file_states, "GROUPS_MAX", groups_max)
    lake = Lake(tmp_path)
    # More units than 64 bits of 10^-9 hold, among others, with one event left out by a void.
    rows: list[Event] = [
        ("acme", meter, quantity, 3, hour, f"k{hour}", None, False)
        for meter in ("tokens", "peak", "low")
        for hour, quantity in enumerate((8, 10**11, -(10**12), 16))
    ]
    lake.append([batch_of("a", 1, [*rows, ("acme", "tokens", 0, 3, 5, "k3", None, True)])])
    usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    found = usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    assert found == usage_of(paths(lake), lake.cut(), MONTH, with_rollups=False)
    assert {row[-1] for row in found if row[1] == "tokens" and row[0] == 0} == {Decimal(1) + (10**11 - 10**12) // 8}


@pytest.mark.parametrize(("rows_max", "rollups_kept"), [(1, 3), (2, 2), (4_000_000, 1)])
def test_what_is_in_memory_at_once_is_a_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_max: int, rollups_kept: int
) -> None:
    """States of a long history are made month by month, and rollups are added up only as far as their rows stay few."""
    lake = Lake(tmp_path)
    for segment, day in enumerate((1, 20, 40, 50, 70), 1):
        lake.append([day_of("a", segment, day)])
    months: list[set[int]] = []
    original = Rollups._make

    def make(self: Rollups, engine: Any, writers: Any, names: list[str], *settings: Any) -> Any:
        months.append({self.days[name].month for name in names})
        return original(self, engine, writers, names, *settings)

    monkeypatch.setattr(Rollups, "_make", make)
    monkeypatch.setattr(rollups, "ROWS_MERGED_MAX", rows_max)
    monkeypatch.setattr(rollups, "SETTLED_BYTES", 0)
    found = usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    assert found == usage_of(paths(lake), lake.cut(), MONTH, with_rollups=False)
    assert sorted(months, key=min) == [{10}, {11}, {12}]
    kept = Rollups.of(paths(lake), scan_bytes_max=0)
    assert kept is not None
    assert len(rollups._load(kept._derived)) == rollups_kept


def test_a_month_reads_the_states_of_its_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    for segment, day in enumerate((1, 40, 70), 1):
        lake.append([day_of("a", segment, day)])
    monkeypatch.setattr(rollups, "ROWS_MERGED_MAX", 1)
    read: list[int] = []
    original = rollups._view

    def view(engine: Any, name: str, files: Any, **options: Any) -> None:
        chosen = list(files)
        if name == "rollup_row":
            read.append(len(chosen))
        original(engine, name, chosen, **options)

    monkeypatch.setattr(rollups, "_view", view)
    months = [("acme", START + timedelta(days=31 * at), START + timedelta(days=31 * at + 30)) for at in (0, 1, 2, 9)]
    for asked, count in ((months[:1], 1), (months[1:2], 1), (months[:3], 3), (months[3:], 1)):
        read.clear()
        found = usage_of(paths(lake), lake.cut(), asked, with_rollups=True)
        assert found == usage_of(paths(lake), lake.cut(), asked, with_rollups=False)
        assert read == [count]


def test_a_span_that_begins_inside_a_cell_is_exact(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([day_of("a", 1, day=3), day_of("b", 1, day=3, tenant="zoe")])
    usage_of(paths(lake), lake.cut(), MONTH, with_rollups=True)
    noon = [("acme", START + timedelta(days=3, hours=12), START + timedelta(days=31)), MONTH[1]]
    found = usage_of(paths(lake), lake.cut(), noon, with_rollups=True)
    assert found == usage_of(paths(lake), lake.cut(), noon, with_rollups=False)
    assert {row[-1] for row in found if row[1] == "tokens"} == {Decimal(12), Decimal(24)}


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([day_of("a", 1, day=3)])
    (tmp_path / "derived").write_text("in the way", encoding="utf-8")
    assert Rollups.of(paths(lake), scan_bytes_max=0) is None


def test_few_or_foreign_files_are_simply_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([day_of("a", 1, day=3)])
    assert Rollups.of(paths(lake)) is None
    assert Rollups.of([str(tmp_path / "export.parquet")], scan_bytes_max=0) is None
    assert Rollups.of([], scan_bytes_max=0) is None
