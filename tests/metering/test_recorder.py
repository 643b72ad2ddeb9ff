"""The recorder: what it takes, what it refuses, and what it says when there is no room."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pytest

from metering.decode import decode_segment
from metering.errors import BadEvent, JournalFull, UnknownMeter
from metering.layout import Layout
from metering.meters import MeterRule, load_rules, publish_rules
from metering.recorder import Recorder
from metering.segments import producer_folders, read_segment
from metering.series import CHECKED_MAX

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def rows(root: Path) -> list[dict[str, Any]]:
    rules = load_rules(Layout.of(root).meters_file)
    paths = [path for folder in producer_folders(root / "journal") for path in folder.sealed()]
    return [row for path in paths for row in decode_segment(read_segment(path), rules).events.to_pylist()]


@pytest.fixture
def usage(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as recorder:
        yield recorder


def publish(root: Path, *rules: MeterRule) -> None:
    path = Layout.of(root).meters_file
    publish_rules(path, rules)
    # Two publications within one tick of the file system's clock must still differ.
    os.utime(path, ns=(len(rules) * 10**9, len(rules) * 10**9))


def test_importing_metering_loads_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; from metering.recorder import Recorder\n"
        "with Recorder(sys.argv[1], ship='none') as usage: usage.record('api', tenant='acme', region='eu')\n"
        "heavy = {'numpy', 'pyarrow', 'duckdb', 'deltalake', 'pydantic', 'sqlalchemy', 'polars'} & set(sys.modules)\n"
        "sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert [row["meter"] for row in rows(tmp_path)] == ["api"]


class NoOffset(tzinfo):
    """A zone that knows no offset, as a naive time."""

    def utcoffset(self, _when: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    "settings",
    [
        {"ack": "Disk"},
        {"on_error": "drop"},
        {"ship": "thread"},
        {"segment_bytes": 4096},
        {"journal_bytes_max": (1 << 20) - 1},
        {"flush_interval_s": 0},
        {"flush_interval_s": -1},
        {"seal_interval_s": float("inf")},
        {"ack_timeout_s": float("nan")},
        {"ack_timeout_s": 1e300},
    ],
)
def test_a_setting_that_nobody_can_keep_to_is_refused_by_its_name(tmp_path: Path, settings: dict[str, Any]) -> None:
    """To wait for less than nothing is to wait for ever: nothing would have been flushed, and nobody told."""
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Recorder(tmp_path, **settings)


def test_nothing_is_created_before_the_first_row(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none") as usage:
        usage.bind("api", tenant="acme")
        usage.flush()
        usage.seal()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        ("bad_tenant", {"tenant": ""}),
        ("bad_tenant", {"tenant": 7}),
        ("bad_tenant", {"tenant": "a\nb"}),
        ("bad_quantity", {"quantity": 1.0}),
        ("bad_quantity", {"quantity": True}),
        ("bad_quantity", {"quantity": "1_000"}),
        ("bad_quantity", {"quantity": Decimal("NaN")}),
        ("bad_quantity", {"quantity": 10**29}),
        ("negative_quantity", {"quantity": -1}),
        ("bad_event_time", {"event_time": datetime(2026, 1, 1)}),  # noqa: DTZ001
        ("bad_event_time", {"event_time": "2026-01-01"}),
        ("bad_event_time", {"event_time": datetime(2026, 1, 1, tzinfo=NoOffset())}),
        ("bad_quantity", {"quantity": 10**5000}),
        ("bad_tenant", {"tenant": "\ud800"}),
        ("bad_key", {"key": ""}),
        ("bad_key", {"key": "k" * 129}),
        ("bad_key", {"key": "\ud800"}),
        ("bad_attributes", {"region": 1.5}),
        ("bad_attributes", {"region": ["eu"]}),
        ("bad_attributes", {"region": "e\x00u"}),
        ("bad_attributes", {"region": "\ud800"}),
        # As plain text these would have thousands of digits, or fill the memory.
        ("bad_attributes", {"region": 10**512}),
        ("bad_attributes", {"region": 10**5000}),
        ("bad_attributes", {"region": Decimal("1e512")}),
        ("bad_attributes", {"region": Decimal("-1e-999999999999")}),
    ],
)
def test_a_bad_value_raises_and_leaves_no_row(usage: Recorder, reason: str, arguments: dict[str, Any]) -> None:
    # Twice: once before and once after a good row of the same series made the fast path possible.
    for _ in range(2):
        with pytest.raises(BadEvent) as raised:
            usage.record("api", **{"tenant": "acme", **arguments})
        assert raised.value.reason == reason
        usage.record("api", tenant="acme")
    usage.seal()
    assert len(rows(usage.layout.root)) == 2


@pytest.mark.parametrize("quantity", [0, 1, 2**30, 2**62 - 1, 2**62, 2**62 + 1, 2**63, 10**28])
def test_whole_quantities_of_every_size_are_kept_by_the_short_way_and_the_long_one(
    usage: Recorder, quantity: int
) -> None:
    bound = usage.bind("api", tenant="acme")
    for _ in range(2):
        bound.add(quantity)
        usage.record("api", tenant="acme", quantity=quantity)
    for negative in (-1, -quantity - 1):
        with pytest.raises(BadEvent):
            bound.add(negative)
        with pytest.raises(BadEvent):
            usage.record("api", tenant="acme", quantity=negative)
    usage.seal()
    assert [row["quantity"] for row in rows(usage.layout.root)] == [quantity] * 4


def test_attributes_that_compare_equal_stay_apart(usage: Recorder) -> None:
    for flag in (1, True, "1", Decimal("1.0"), Decimal("1.00"), None):
        usage.record("api", tenant="acme", flag=flag)
        usage.record("api", tenant="acme", flag=flag)
    usage.seal()
    kept = ['{"flag":1}', '{"flag":true}', '{"flag":"1"}', '{"flag":"1.0"}', '{"flag":"1.00"}', None]
    assert [row["attributes"] for row in rows(usage.layout.root)] == [text for text in kept for _ in range(2)]


def test_the_order_of_attributes_does_not_matter(usage: Recorder) -> None:
    usage.record("api", tenant="acme", a="1", b="2")
    usage.record("api", tenant="acme", b="2", a="1")
    usage.seal()
    assert {row["attributes"] for row in rows(usage.layout.root)} == {'{"a":"1","b":"2"}'}


def test_accents_are_one_tenant_however_they_are_composed(usage: Recorder) -> None:
    usage.record("api", tenant="caf\u00e9")
    usage.record("api", tenant="cafe\u0301")
    usage.seal()
    assert {row["tenant_id"] for row in rows(usage.layout.root)} == {"caf\u00e9"}


def test_an_event_time_is_kept_as_the_instant_it_is(usage: Recorder) -> None:
    usage.record("api", tenant="acme", event_time=NOON.astimezone(timezone(timedelta(hours=-7))))
    usage.seal()
    (row,) = rows(usage.layout.root)
    assert row["event_time"] == NOON
    assert row["recorded_at"] > NOON


def test_a_catalog_that_is_applied_counts_from_the_next_segment_on(usage: Recorder) -> None:
    tokens = usage.bind("tokens", tenant="acme")
    tokens.add(1)
    publish(usage.layout.root, MeterRule("api"))
    with pytest.raises(UnknownMeter) as raised:
        usage.record("unknown", tenant="acme")
    assert raised.value.meter == "unknown"
    usage.seal()
    with pytest.raises(UnknownMeter):
        tokens.add(2)
    publish(usage.layout.root, MeterRule("api"), MeterRule("tokens", negative_allowed=True))
    tokens.add(-3)
    usage.seal()
    assert [row["quantity"] for row in rows(usage.layout.root)] == [1, -3]


def test_segments_roll_under_one_caller(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none", segment_bytes=1 << 16, seal_interval_s=3600.0) as usage:
        tokens = usage.bind("tokens", tenant="acme")
        for number in range(10_000):
            tokens.add(number)
    found = rows(tmp_path)
    assert [row["quantity"] for row in found] == list(range(10_000))
    assert len({row["segment"] for row in found}) == 6


def test_memory_of_checked_series_is_bounded(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as usage:
        for number in range(CHECKED_MAX + 10):
            usage.record("api", tenant="acme", request=f"r{number}")
            assert len(usage._series.known) <= CHECKED_MAX
    assert len(rows(tmp_path)) == CHECKED_MAX + 10


def test_flush_and_close_can_be_called_at_any_time(tmp_path: Path) -> None:
    usage = Recorder(tmp_path, ship="none")
    usage.record("api", tenant="acme")
    usage.flush()
    usage.close()
    usage.close()
    usage.flush()
    with pytest.raises(ValueError, match="closed"):
        usage.record("api", tenant="acme")
    assert len(rows(tmp_path)) == 1


def test_a_pickled_recorder_is_another_producer(usage: Recorder) -> None:
    usage.record("api", tenant="acme")
    with pickle.loads(pickle.dumps(usage)) as other:
        other.record("api", tenant="acme")
    usage.seal()
    assert len({row["producer_id"] for row in rows(usage.layout.root)}) == 2


@pytest.fixture
def no_new_files_fit() -> Iterator[None]:
    """Forbid files above 32 KiB: preallocation of a segment is refused as on a full disk, EFBIG for ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("no_new_files_fit")
def test_no_room_raises_in_the_caller_and_recording_goes_on_when_there_is_some(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none", segment_bytes=1 << 16) as usage:
        for _ in range(2):
            with pytest.raises(JournalFull) as raised:
                usage.record("api", tenant="acme")
            assert "nothing was recorded" in str(raised.value)
        assert not list(tmp_path.glob("journal/*/*.open"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        usage.record("api", tenant="acme")
    assert len(rows(tmp_path)) == 1


@pytest.mark.usefixtures("no_new_files_fit")
def test_no_room_drops_and_counts_when_asked_to(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none", segment_bytes=1 << 16, on_error="drop_and_count") as usage:
        tokens = usage.bind("api", tenant="acme")
        for _ in range(5):
            usage.record("api", tenant="acme")
            tokens.add(1)
        assert usage.dropped == 10


@pytest.mark.parametrize("on_error", ["raise", "drop_and_count"])
def test_a_table_that_never_fits_is_refused_with_what_to_do(tmp_path: Path, on_error: Any) -> None:
    count = 50_000
    keys = [f"{number:08}" for number in range(count)]
    columns = {"tenant_id": ["a"] * count, "meter": ["m"] * count, "quantity": [1] * count, "idempotency_key": keys}
    large = pa.table(columns | {"event_time": pa.array([NOON] * count, INSTANT)})
    with Recorder(tmp_path, ship="none", segment_bytes=1 << 16, journal_bytes_max=1 << 19, on_error=on_error) as usage:
        with pytest.raises(JournalFull, match="in parts"):
            usage.record_batch(large)
        assert sum(usage.record_batch(large.slice(at, 10_000)) for at in range(0, 20_000, 10_000)) == 20_000
        assert usage.dropped == 0
    assert len(rows(tmp_path)) == 20_000


def test_a_full_segment_stays_readable_when_the_next_one_does_not_fit(tmp_path: Path) -> None:
    usage = Recorder(tmp_path, ship="none", segment_bytes=1 << 16, journal_bytes_max=(1 << 16) + 100)
    tokens = usage.bind("tokens", tenant="acme")
    recorded = 0
    refusals = []
    while not refusals:
        try:
            tokens.add(1)
            recorded += 1
        except JournalFull as full:
            refusals.append(str(full))
    assert "nothing ships it" in refusals[0]
    usage.close()
    assert recorded > 1900
    assert recorded == len(rows(tmp_path))


def test_an_unwritable_folder_raises_journal_full(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    with Recorder(tmp_path, ship="none") as usage, pytest.raises(JournalFull):
        usage.record("api", tenant="acme")


def test_rows_of_a_segment_whose_fsync_failed_are_copied_into_a_new_file(tmp_path: Path) -> None:
    usage = Recorder(tmp_path, ship="none", seal_interval_s=3600.0, flush_interval_s=3600.0)
    usage.record("api", tenant="acme")
    path = next(tmp_path.glob("journal/*/*.open"))
    inode = path.stat().st_ino
    # What the kernel does after EIO: the failure is told once, and never again.
    usage._segment.is_suspect = True
    usage.flush()
    (sealed,) = tmp_path.glob("journal/*/*.sealed")
    assert sealed.stat().st_ino != inode
    usage.close()
    assert len(rows(tmp_path)) == 1


# --- tables -------------------------------------------------------------------------------------------------------


def table(**columns: Any) -> pa.Table:
    count = 3
    instant = pa.timestamp("us", tz="UTC")
    base: dict[str, Any] = {
        "tenant_id": ["a", "b", "a"],
        "meter": ["api"] * count,
        "quantity": [1, 2, 3],
        "event_time": pa.array([NOON] * count, instant),
    }
    return pa.table({name: values for name, values in (base | columns).items() if values is not None})


def test_a_table_is_recorded_whole_in_the_same_sequence(usage: Recorder) -> None:
    usage.record("api", tenant="z")
    assert usage.record_batch(table(region=["eu", None, "us"], idempotency_key=["1", None, "3"])) == 3
    usage.record("api", tenant="z")
    usage.seal()
    found = rows(usage.layout.root)
    assert [(row["segment"], row["row"], row["tenant_id"]) for row in found] == [
        (1, 0, "z"),
        (2, 0, "a"),
        (2, 1, "b"),
        (2, 2, "a"),
        (3, 0, "z"),
    ]
    assert [row["attributes"] for row in found[1:4]] == ['{"region":"eu"}', None, '{"region":"us"}']
    assert [row["idempotency_key"] for row in found[1:4]] == ["1", None, "3"]


def test_any_library_with_arrow_tables_will_do(usage: Recorder) -> None:
    frame = polars.DataFrame(
        {"tenant_id": ["a"], "meter": ["api"], "quantity": ["1.5"], "event_time": [NOON], "tier": [2]}
    )
    assert usage.record_batch(frame) == 1
    (row,) = rows(usage.layout.root)
    assert (row["quantity"], row["attributes"]) == (Decimal("1.5"), '{"tier":2}')


FRAME = {
    "tenant_id": ["a", "b"],
    "meter": ["api"] * 2,
    "quantity": [1, 2],
    "event_time": [NOON] * 2,
    "tier": ["x", None],
}


@pytest.mark.parametrize(
    "make",
    [
        lambda: polars.DataFrame(FRAME).with_columns(
            polars.col("tenant_id").cast(polars.Categorical), polars.col("tier").cast(polars.Enum(["y", "x"]))
        ),
        lambda: pandas.DataFrame(FRAME).astype({"tenant_id": "category", "tier": "category", "quantity": "Int64"}),
        lambda: (
            pandas.DataFrame({"drop": [0, 1, 2], **{name: [None, *column] for name, column in FRAME.items()}})
            .query("drop > 0")
            .drop(columns="drop")
            .astype({"quantity": "int64"})
        ),
        lambda: pa.RecordBatch.from_pydict(FRAME | {"event_time": pa.array([NOON] * 2, INSTANT)}),
        lambda: pa.table(FRAME | {"event_time": pa.array([NOON] * 2, INSTANT)}).to_reader(),
        lambda: duckdb.sql(
            "SELECT unnest(['a', 'b'])::ENUM ('b', 'a') AS tenant_id, 'api' AS meter, unnest([1, 2])::HUGEINT AS quantity,"
            " TIMESTAMPTZ '2026-10-01 14:00:00+02' AS event_time, unnest(['x', NULL]) AS tier"
        ),
    ],
    ids=["polars", "pandas", "pandas without its first row", "record batch", "reader", "duckdb"],
)
def test_categories_zones_and_streams_of_any_library_are_the_same_events(
    usage: Recorder, make: Callable[[], Any]
) -> None:
    assert usage.record_batch(make()) == 2
    found = [
        (row["tenant_id"], row["quantity"], row["event_time"], row["attributes"]) for row in rows(usage.layout.root)
    ]
    assert found == [("a", 1, NOON, '{"tier":"x"}'), ("b", 2, NOON, None)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [{"tenant_id": "a"}],
        lambda: polars.DataFrame(FRAME).lazy(),
        lambda: polars.DataFrame(FRAME)["tier"],
        lambda: polars.DataFrame(FRAME).with_columns(polars.col("quantity").cast(polars.Int128)),
        lambda: pandas.DataFrame(FRAME | {"tier": pandas.Series(["x", 2], dtype=object)}),
        lambda: pa.Table.from_arrays([pa.array(["a"])] * 2, names=["tenant_id", "tenant_id"]),
    ],
    ids=["rows", "lazy", "series", "int128", "mixed", "twice"],
)
def test_what_is_no_table_is_refused_in_words(usage: Recorder, make: Callable[[], Any]) -> None:
    with pytest.raises(BadEvent) as raised:
        usage.record_batch(make())
    assert raised.value.reason == "bad_columns"
    assert rows(usage.layout.root) == []


def test_attributes_may_come_as_json_and_are_made_canonical(usage: Recorder) -> None:
    usage.record_batch(table(attributes=['{"b": 1, "a": "x"}', "{}", None]))
    assert [row["attributes"] for row in rows(usage.layout.root)] == ['{"a":"x","b":1}', None, None]


INSTANT = pa.timestamp("us", tz="UTC")
# What other libraries hand over as text, and Arrow does not look at.
NOT_TEXT = pa.array([b"a", b"\xff", b"b"]).view(pa.string())


@pytest.mark.parametrize(
    ("reason", "bad_rows", "columns"),
    [
        ("bad_columns", None, {"quantity": None}),
        ("bad_tenant", [1], {"tenant_id": ["a", "b\n", "a"]}),
        ("bad_tenant", [1, 2], {"tenant_id": ["a", None, None]}),
        ("bad_quantity", None, {"quantity": [1.0, 2.0, 3.0]}),
        ("bad_quantity", [1], {"quantity": ["1", "1e3", "2"]}),
        ("bad_quantity", [0], {"quantity": pa.array([Decimal("0.0000000001"), 1, 2], pa.decimal128(38, 10))}),
        ("negative_quantity", [2], {"quantity": [1, 2, -3]}),
        ("bad_event_time", None, {"event_time": pa.array([0, 0, 0], pa.timestamp("us"))}),
        ("bad_event_time", [0, 2], {"event_time": pa.array([-1, 0, 2**62], INSTANT)}),
        # In microseconds these are 1970 again.
        ("bad_event_time", [0], {"event_time": pa.array([2**60, 0, 0], pa.timestamp("s", tz="UTC"))}),
        ("bad_event_time", [1], {"event_time": pa.array([0, 2**62, 0], pa.timestamp("ms", tz="UTC"))}),
        ("bad_event_time", [2], {"event_time": pa.array([0, 0, -1], pa.timestamp("ns", tz="Asia/Tokyo"))}),
        ("bad_tenant", [0, 2], {"tenant_id": pa.DictionaryArray.from_arrays([1, 0, 1], ["a", None])}),
        ("bad_meter", [1], {"meter": pa.DictionaryArray.from_arrays([0, 1, 0], ["api", None])}),
        ("bad_text", None, {"tenant_id": NOT_TEXT}),
        ("bad_text", None, {"region": NOT_TEXT}),
        ("bad_text", None, {"attributes": NOT_TEXT}),
        ("bad_text", None, {"quantity": NOT_TEXT}),
        ("bad_key", None, {"idempotency_key": NOT_TEXT}),
        ("bad_attributes", [0], {"attributes": ["[" * 100_000, None, None]}),
        ("bad_attributes", [1], {"attributes": [None, '{"a":1e999999999}', None]}),
        ("bad_attributes", None, {"region": [["eu"], None, None]}),
        ("bad_attributes", None, {"region": [{"eu": 1}, None, None]}),
        ("bad_attributes", None, {"region": [NOON, None, None]}),
        ("bad_key", [1], {"idempotency_key": ["a", "", "b"]}),
        ("bad_key", [2], {"idempotency_key": ["a", "b", "c\x85"]}),
        ("bad_attributes", [1], {"attributes": [None, "[1]", None]}),
        ("bad_attributes", [1], {"attributes": [None, '{"a":1,"a":2}', None]}),
        ("bad_attributes", None, {"share": [0.1, 0.2, 0.3]}),
    ],
)
def test_a_table_with_a_bad_row_is_refused_whole(
    usage: Recorder, reason: str, bad_rows: list[int] | None, columns: dict[str, Any]
) -> None:
    with pytest.raises(BadEvent) as raised:
        usage.record_batch(table(**columns))
    assert raised.value.reason == reason
    assert raised.value.details.get("rows") == bad_rows
    assert rows(usage.layout.root) == []


def test_a_table_with_an_unknown_meter_is_refused_whole(usage: Recorder) -> None:
    publish(usage.layout.root, MeterRule("api"))
    with pytest.raises(UnknownMeter):
        usage.record_batch(table(meter=["api", "other", "api"]))
    assert usage.record_batch(table()) == 3


def test_a_fork_behind_pythons_back_is_noticed(tmp_path: Path) -> None:
    """The byte that tells is wiped by the kernel: no hook, no system call per row."""
    code = (
        "import ctypes, os, sys\n"
        "from metering.recorder import Recorder\n"
        "usage = Recorder(sys.argv[1], ship='none'); usage.record('api', tenant='parent')\n"
        "child = ctypes.CDLL(None).fork()\n"
        "if child == 0: usage.record('api', tenant='child'); usage.flush(); os._exit(0)\n"
        "os.waitpid(child, 0); usage.close()"
    )
    assert hasattr(ctypes.CDLL(None), "fork")
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert len(list(tmp_path.glob("journal/p-*"))) == 2


@pytest.mark.parametrize("ending", ["usage.seal()", "usage.flush()", "usage.close()", "sys.exit()"])
def test_a_child_that_records_nothing_leaves_the_segment_of_its_parent_alone(tmp_path: Path, ending: str) -> None:
    code = (
        "import ctypes, os, sys\n"
        "from metering.recorder import Recorder\n"
        "usage = Recorder(sys.argv[1], ship='none', seal_interval_s=3600.0); usage.record('api', tenant='parent')\n"
        "child = ctypes.CDLL(None).fork()\n"
        f"if child == 0: {ending}; os._exit(0)\n"
        "status = os.waitpid(child, 0)[1]; usage.record('api', tenant='parent'); usage.close(); sys.exit(status)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60).returncode == 0
    assert len(rows(tmp_path)) == 2


def test_a_sealed_segment_takes_no_more_room_than_its_rows(tmp_path: Path) -> None:
    """A lake that is away for hours must not fill the disk, or the limit in bytes, with what was never used."""
    with Recorder(tmp_path, ship="none") as usage:
        for _ in range(3):
            usage.record("api", tenant="acme")
            usage.seal()
        assert usage.health().unshipped_bytes < 3 * 8192
    assert len(rows(tmp_path)) == 3
