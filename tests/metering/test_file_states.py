"""States added up by the column are those of the events, one by one in Decimal: wide or narrow, in any order, left out or not."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import file_states
from metering.events import usage_event_schema
from metering.file_states import FileSet, Sums, rollup_schema
from tests.metering.lake_batches import START

EDGES = [START, START + timedelta(days=1), START + timedelta(days=1, hours=12), START + timedelta(days=4)]
# Around what 32 and 64 bits hold, counted in 10^-9, and the widest there is.
LIMITS = [2**31, 2**32, 2**62, 2**63, 2**64, 10**37]
billionths = st.builds(
    lambda near, off, sign: sign * (near + off),
    st.sampled_from([0, *LIMITS]),
    st.integers(-2, 2),
    st.sampled_from([1, -1]),
)
events = st.fixed_dictionaries(
    {
        "tenant_id": st.sampled_from(["acme", "beta", "zoë", "z"]),
        "meter": st.sampled_from(["calls", "tokens"]),
        "attributes": st.sampled_from([None, "{}", '{"model":"a"}', '{"model":"b"}']),
        "quantity": billionths,
        "hour": st.integers(-30, 110),
        "is_left_out": st.sampled_from([False, False, True]),
    }
)
# More than are read ahead.
files = st.lists(st.lists(events, max_size=12), min_size=1, max_size=file_states.FILES_AHEAD + 2)


def stored(path: Path, rows: list[dict[str, Any]], segment: int, *, has_statistics: bool) -> pa.Table:
    """Write a data file; return the origins of what is left out of it."""
    table = pa.Table.from_pylist(
        [
            {
                **{name: row[name] for name in ("tenant_id", "meter", "attributes")},
                "quantity": quantity(row),
                "event_time": instant(row), "recorded_at": START, "producer_id": "p", "segment": segment, "row": place,
            }
            for place, row in enumerate(rows)
        ],
        schema=usage_event_schema(),
    )  # fmt: skip
    pq.write_table(table, path, row_group_size=5, write_statistics=has_statistics)
    is_left_out = pa.array([row["is_left_out"] for row in rows], pa.bool_())
    return table.select(["producer_id", "segment", "row"]).filter(is_left_out)


def quantity(row: dict[str, Any]) -> Decimal:
    return Decimal(row["quantity"]).scaleb(-9)


def instant(row: dict[str, Any]) -> datetime:
    return START + timedelta(hours=row["hour"])


def one_by_one(rows: Iterable[dict[str, Any]]) -> dict[Any, Any]:
    found: dict[Any, list[Decimal]] = {}
    for row in rows:
        cells = [(start, end) for start, end in pairwise(EDGES) if start <= instant(row) < end]
        for cell in cells if not row["is_left_out"] else []:
            key = row["tenant_id"], row["meter"], row["attributes"] or "{}", *cell
            found.setdefault(key, []).append(quantity(row))
    return {key: (len(some), total(some), max(some), min(some)) for key, some in found.items()}


def total(some: list[Decimal]) -> int:
    return sum(int(one.scaleb(9)) for one in some)


def states_of(paths: list[Path], left_out: dict[Path, pa.Table] | None = None) -> list[pa.Table]:
    [tables] = told_of([FileSet(paths, EDGES, left_out or {})])
    assert tables is not None
    return tables


def told_of(sets: list[FileSet]) -> list[list[pa.Table] | None]:
    """Return what is told of each set; None where its names are too many."""
    found: list[list[pa.Table] | None] = []
    told: list[pa.Table] = []
    for one in file_states.file_states(sets):
        if not isinstance(one, Sums):
            told.append(one)
            continue
        cells = [(row["cell_start"], row["cell_end"]) for table in one.tables(2) for row in table.to_pylist()]
        assert one.cells_met() == {tuple(int(at.timestamp()) * 10**6 for at in cell) for cell in cells}
        found.append(None if one.is_too_sparse else [*told, pa.concat_tables(one.tables(2))])
        told = []
    assert not told
    return found


def added(tables: list[pa.Table]) -> dict[Any, Any]:
    found: dict[Any, tuple[int, int, Decimal, Decimal]] = {}
    for table in tables:
        for row in table.cast(rollup_schema()).to_pylist():
            key = tuple(row[name] for name in ("tenant_id", "meter", "attributes", "cell_start", "cell_end"))
            mine = row["event_count"], total([row["quantity_sum"]]), row["quantity_max"], row["quantity_min"]
            other = found.get(key, (0, 0, mine[2], mine[3]))
            found[key] = mine[0] + other[0], mine[1] + other[1], max(mine[2], other[2]), min(mine[3], other[3])
    return found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files, st.booleans(), st.sampled_from([0, 1000]))
def test_states_are_those_of_the_events(
    tmp_path: Path, content: list[list[dict[str, Any]]], has_statistics: bool, coded_max: int
) -> None:
    paths, left_out = [], {}
    for number, rows in enumerate(content):
        paths.append(tmp_path / f"{number}.parquet")
        out = stored(paths[-1], rows, number, has_statistics=has_statistics)
        if len(out):
            left_out[paths[-1]] = out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_states, "CODED_BYTES_MAX", coded_max)
        patch.setattr(file_states, "ROWS_AT_ONCE", 3)
        tables = states_of(paths, left_out)
    assert added(tables) == one_by_one(row for rows in content for row in rows)
    keys = tables[-1].select(["tenant_id", "meter", "attributes", "cell_start"]).to_pylist()
    assert [tuple(key.values()) for key in keys] == sorted({tuple(key.values()) for key in keys})


def test_many_kinds_find_room(tmp_path: Path) -> None:
    plain = {"meter": "calls", "quantity": 1, "hour": 0, "is_left_out": False}
    rows = [{**plain, "tenant_id": f"t{at % 3}", "attributes": f'{{"user":"{at}"}}'} for at in range(100)]
    stored(tmp_path / "a.parquet", rows, 1, has_statistics=True)
    assert added(states_of([tmp_path / "a.parquet"])) == one_by_one(rows)


def test_threads_make_room_for_each_others_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file has kinds of its own, and the threads change as often as they can."""
    monkeypatch.setattr(file_states, "ROWS_AT_ONCE", 7)
    plain = {"meter": "calls", "hour": 0, "is_left_out": False}
    content = [
        [
            {**plain, "tenant_id": f"t{at % 5}", "quantity": (-1) ** at * 2**33, "attributes": f'{{"of":"{file}-{at % 40}"}}'}
            for at in range(200)
        ]
        for file in range(12)
    ]  # fmt: skip
    paths = [tmp_path / f"{number}.parquet" for number in range(len(content))]
    for number, rows in enumerate(content):
        stored(paths[number], rows, number, has_statistics=True)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        found = added(states_of(paths))
    finally:
        sys.setswitchinterval(before)
    assert found == one_by_one(row for rows in content for row in rows)


def test_a_file_that_cannot_be_read_stops_all(tmp_path: Path) -> None:
    row = {"tenant_id": "t", "meter": "calls", "attributes": None, "quantity": 2**70, "hour": 0, "is_left_out": False}
    paths = [tmp_path / f"{number}.parquet" for number in range(9)]
    for number, path in enumerate(paths):
        stored(path, [row], number, has_statistics=True)
    told = file_states.file_states([FileSet(paths, EDGES, {})])
    assert added([next(told)]) == one_by_one([row])
    # Its rows are damaged, the end of the file is not.
    for path in paths[1:]:
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises((OSError, pa.ArrowException)):
        states_of(paths)
    told.close()


def test_too_many_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"tenant_id": f"t{at}", "meter": "calls", "attributes": None, "quantity": 1, "hour": 0, "is_left_out": False}
        for at in range(9)
    ]
    stored(tmp_path / "a.parquet", rows, 1, has_statistics=True)
    monkeypatch.setattr(file_states, "GROUPS_MAX", 9 * 8 * 3 - 1)
    assert told_of([FileSet([tmp_path / "a.parquet"], EDGES, {})]) == [None]


def test_sets_are_added_up_each_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the next set are read while those of one are told; one that has too many names spoils no other."""
    monkeypatch.setattr(file_states, "GROUPS_MAX", 8 * 2 * 3)
    plain = {"meter": "calls", "hour": 0, "is_left_out": False}
    sets: list[list[Path]] = []
    content = []
    for number, (count, tenants) in enumerate([(3, 2), (2, 3), (1, 2), (4, 1), (0, 1)]):
        sets.append([tmp_path / f"{number}-{at}.parquet" for at in range(max(count, 1))])
        rows = [
            {**plain, "tenant_id": f"t{tenant}", "attributes": None, "quantity": 2**70 + number + tenant}
            for tenant in range(tenants if count else 0)
        ]
        for at, path in enumerate(sets[-1]):
            stored(path, rows, 10 * number + at, has_statistics=True)
        content.append(rows * len(sets[-1]))
    found = told_of([FileSet(paths, EDGES, {}) for paths in sets])
    assert [tables is None for tables in found] == [False, True, False, False, False]
    for tables, rows in zip(found, content, strict=True):
        if tables is not None:
            assert added(tables) == one_by_one(rows)


@pytest.mark.parametrize("changed", ["WHERE quantity > 1", "UNION ALL SELECT 1::DECIMAL(18, 9)"])
def test_two_readers_that_see_different_rows_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Quantities and names of a file are read by two libraries: a row that only one of them sees would be nobody's, silently."""
    plain = {"tenant_id": "t", "meter": "calls", "attributes": None, "hour": 0, "is_left_out": False}
    stored(tmp_path / "a.parquet", [{**plain, "quantity": at * 10**9} for at in range(1, 9)], 1, has_statistics=True)
    read = file_states.read_sql
    monkeypatch.setattr(file_states, "read_sql", lambda package, name: f"{read(package, name)} {changed}")
    with pytest.raises(RuntimeError, match=r"a\.parquet"):
        states_of([tmp_path / "a.parquet"])


def test_quantities_stay_with_their_names_over_many_row_groups(tmp_path: Path) -> None:
    """As many rows as are read at a time, and more, in row groups of another size than either reader's batches."""
    rows = file_states.ROWS_AT_ONCE + 5_000
    numbers = pa.array(range(rows), pa.int64())
    tenants = pc.cast(pc.bit_wise_and(numbers, 7), pa.string())
    columns: dict[str, Any] = {
        "tenant_id": tenants,
        "meter": pc.cast(pc.bit_wise_and(pc.shift_right(numbers, 3), 3), pa.string()),
        "quantity": numbers.cast(pa.decimal128(38, 0)).cast(pa.decimal128(38, 9)),
        "event_time": pa.array([START] * rows, pa.timestamp("us", tz="UTC")),
    }
    fields = [columns.get(field.name, pa.nulls(rows, field.type)) for field in usage_event_schema()]
    table = pa.table(fields, names=usage_event_schema().names)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7_001)
    [found] = states_of([tmp_path / "a.parquet"])
    expected: dict[tuple[str, str], list[int]] = {}
    for number in range(rows):
        expected.setdefault((str(number & 7), str(number >> 3 & 3)), []).append(number)
    told = {(row["tenant_id"], row["meter"]): row for row in found.to_pylist()}
    assert told.keys() == expected.keys()
    for key, some in expected.items():
        row = told[key]
        states = (row["event_count"], row["quantity_sum"], row["quantity_max"], row["quantity_min"])
        assert states == (len(some), sum(some), max(some), min(some))
