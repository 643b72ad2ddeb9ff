"""The lake keeps each segment exactly once, durably, under a hash."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from metering import lake as lake_module
from metering import lake_hashes
from metering.errors import LakeDamaged, LakeUnavailable, Retryable
from metering.events import dead_letter_schema, segment_schema, usage_event_schema
from metering.lake import Appended, Lake
from metering.lake_table import DataFile
from tests.metering.lake_batches import segment_batch


class Killed(BaseException):
    """What a test raises in place of a SIGKILL between two steps."""


def stored(lake: Lake) -> pa.Table:
    """Return every usage event in one total order, read the way a rating engine would: verified first."""
    files = lake.data_files()
    lake.verify(files)
    tables = [pq.ParquetFile(file.path).read() for file in files]
    rows = pa.concat_tables([usage_event_schema().empty_table(), *tables])
    return rows.sort_by([("producer_id", "ascending"), ("segment", "ascending"), ("row", "ascending")])


def identities(lake: Lake) -> list[tuple[str, int, int]]:
    rows = stored(lake).select(["producer_id", "segment", "row"]).to_pylist()
    return [(row["producer_id"], row["segment"], row["row"]) for row in rows]


def test_an_empty_lake_answers_everything(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")

    assert lake.append([]) == Appended(0, 0, 0)
    assert (lake.cut(), lake.data_files(), lake.last_segment("a")) == ({}, [], None)
    assert lake.segments().schema == segment_schema()
    assert lake.dead_letters().schema == dead_letter_schema()
    assert not (tmp_path / "lake").exists()


def test_what_was_appended_is_what_is_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    batches = [segment_batch("a", 1, rows=5, dead=2, days=2), segment_batch("b", 1)]

    assert lake.append(batches) == Appended(segments=2, rows=8, dead_letters=2)
    assert stored(lake).equals(pa.concat_tables([batch.events for batch in batches]))
    assert lake.dead_letters().equals(batches[0].dead_letters)
    assert lake.cut() == {"a": 1, "b": 1}
    assert lake.last_segment("a") == 1


def test_a_segment_row_carries_its_control_totals(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    batch = segment_batch("a", 7, rows=4, dead=1, days=2)
    lake.append([batch])

    row = lake.segments().to_pylist()[0]
    assert (row["producer_id"], row["segment"], row["rows"]) == ("a", 7, 5)
    assert row["totals"] == batch.totals.to_pylist()
    assert sum(total["rows"] for total in row["totals"]) == 5


def test_a_table_of_an_earlier_release_gets_the_columns_that_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = segment_schema()
    older = schema.remove(schema.get_field_index("trailer_sha256"))
    with monkeypatch.context() as patch:
        patch.setattr(lake_module, "segment_schema", lambda: older)
        Lake(tmp_path).append([segment_batch("a", 1)])
    now = Lake(tmp_path)
    assert now.segments()["trailer_sha256"].to_pylist() == [None]
    now.append([replace(segment_batch("a", 2), trailer_sha256="f" * 64)])
    for reader in (now, Lake(tmp_path)):
        assert reader.segments()["trailer_sha256"].to_pylist() == [None, "f" * 64]
        assert reader.segments().schema == schema
    # Other readers of the format see it, too.
    assert "trailer_sha256" in DeltaTable(tmp_path / "segments").to_pyarrow_table().column_names
    assert now.cut() == {"a": 2}


def test_the_same_segments_again_add_nothing(tmp_path: Path) -> None:
    batches = [segment_batch("a", 1, dead=1), segment_batch("a", 2)]
    Lake(tmp_path).append(batches)

    again = Lake(tmp_path).append([*batches, segment_batch("a", 3)])

    assert again == Appended(segments=1, rows=3, dead_letters=0, skipped=2)
    assert len(identities(Lake(tmp_path))) == len(set(identities(Lake(tmp_path)))) == 9
    assert Lake(tmp_path).segments()["segment"].to_pylist() == [1, 2, 3]


def test_order_and_repetition_within_one_append_do_not_matter(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 2), segment_batch("a", 1), segment_batch("a", 2)])

    assert lake.cut() == {"a": 2}
    assert len(identities(lake)) == 6


def test_a_segment_older_than_the_cut_is_named_not_stored(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 3)])

    late = lake.append([segment_batch("a", 2), segment_batch("a", 3)])

    assert late == Appended(segments=0, rows=0, dead_letters=0, skipped=2, out_of_order=(("a", 2),))
    assert {identity[1] for identity in identities(lake)} == {3}


def test_a_segment_without_events_moves_the_cut(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1, rows=0, dead=2)])
    lake.append([segment_batch("b", 4, rows=0)])

    assert lake.cut() == {"a": 1, "b": 4}
    assert stored(lake).num_rows == 0
    assert lake.segments()["totals"].to_pylist()[1] == []
    assert lake.dead_letters().num_rows == 2


STEPS = [
    f"{table}: {step}"
    for table in ("dead_letters", "segments", "usage_events")
    for step in ("open", "write", "commit", "settle")
]


@pytest.mark.parametrize("fatal", STEPS)
def test_a_crash_before_any_step_is_repaired_by_the_next_append(tmp_path: Path, fatal: str) -> None:
    def crash(step: str) -> None:
        if step == fatal:
            raise Killed(step)

    first = [segment_batch("a", 1, dead=1), segment_batch("b", 1)]
    Lake(tmp_path).append(first)
    batches = [*first, segment_batch("a", 2, dead=2), segment_batch("b", 2, dead=1)]
    with pytest.raises(Killed):
        Lake(tmp_path, on_step=crash).append(batches)

    lake = Lake(tmp_path)
    assert lake.cut() == ({"a": 2, "b": 2} if fatal == "usage_events: settle" else {"a": 1, "b": 1})
    lake.append(batches)

    assert stored(lake).num_rows == len(set(identities(lake))) == 12
    assert lake.segments().num_rows == 4
    assert lake.dead_letters().num_rows == 4
    assert lake.cut() == {"a": 2, "b": 2}


def test_a_lost_race_is_looked_at_again_from_a_fresh_handle(tmp_path: Path) -> None:
    batch = segment_batch("a", 1)
    rivals = [Lake(tmp_path)]
    Lake(tmp_path).append([segment_batch("z", 1)])

    def interfere(step: str) -> None:
        if step == "usage_events: commit" and rivals:
            rivals.pop().append([batch])

    late = Lake(tmp_path, on_step=interfere, pause=lambda _seconds: None)

    assert late.append([batch]) == Appended(0, 0, 0, skipped=1)
    assert identities(late) == [("a", 1, 0), ("a", 1, 1), ("a", 1, 2), ("z", 1, 0), ("z", 1, 1), ("z", 1, 2)]


def test_a_race_lost_for_ever_is_retryable(tmp_path: Path) -> None:
    rival = Lake(tmp_path)
    number = iter(range(1, 1000))

    def interfere(step: str) -> None:
        if step == "segments: commit":
            rival.append([segment_batch("a", next(number), rows=1)])

    with pytest.raises(LakeUnavailable, match="20 commits in a row") as caught:
        Lake(tmp_path, on_step=interfere, pause=lambda _seconds: None).append([segment_batch("a", 10_000)])
    assert isinstance(caught.value, Retryable)
    assert rival.last_segment("a") == 20


RACER = """
import sys
from metering.lake import Lake
from tests.metering.lake_batches import segment_batch
lake = Lake(sys.argv[1])
sys.stdin.readline()
print(sum(lake.append([segment_batch(p, s, dead=1) for p in ("a", "b")]).segments for s in range(1, 16)))
"""


def test_two_processes_racing_over_the_same_segments_store_each_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = [int(racer.communicate(timeout=60)[0]) for racer in racers]

    lake = Lake(tmp_path)
    assert sum(taken) == 30
    assert len(identities(lake)) == len(set(identities(lake))) == 90
    assert lake.segments().num_rows == lake.dead_letters().num_rows == 30
    assert lake.cut() == {"a": 15, "b": 15}


def test_data_files_are_pruned_by_event_date(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1, rows=9, days=3)])

    days = [file.event_date for file in lake.data_files()]
    assert days == [date(2026, 10, 1), date(2026, 10, 2), date(2026, 10, 3)]
    assert [file.event_date for file in lake.data_files(date(2026, 10, 2), date(2026, 10, 2))] == days[1:2]
    assert [file.event_date for file in lake.data_files(None, date(2026, 10, 2))] == days[:2]
    assert [file.rows for file in lake.data_files(date(2026, 10, 3))] == [3]


def test_files_are_sorted_exact_and_carry_no_partition_column(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1, tenant="zoe"), segment_batch("b", 1, tenant="amy")])

    (file,) = lake.data_files()
    rows = pq.ParquetFile(file.path).read()
    assert rows.schema.equals(usage_event_schema())
    assert rows["tenant_id"].to_pylist() == ["amy"] * 3 + ["zoe"] * 3
    assert pq.ParquetFile(file.path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert Path(file.path).parent.name == "event_date=2026-10-01"


def test_one_flipped_bit_is_damage(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1)])
    (file,) = lake.data_files()
    lake.verify([file])
    content = bytearray(Path(file.path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(file.path).write_bytes(content)

    with pytest.raises(LakeDamaged, match="restore this file") as caught:
        lake.verify([file])
    assert caught.value.details["path"] == file.path
    assert caught.value.details["expected"] == file.sha256
    assert len(str(caught.value.details["found"])) == 64


def test_a_flipped_bit_in_a_segment_row_is_damage_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1)])
    (path,) = (tmp_path / "segments").glob("part-*.parquet")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)

    with pytest.raises(LakeDamaged):
        lake.segments()


@pytest.mark.parametrize("loss", ["truncated", "gone"])
def test_a_commit_that_survived_its_data_file_stops_shipping(tmp_path: Path, loss: str) -> None:
    Lake(tmp_path).append([segment_batch("a", 1)])
    (file,) = Lake(tmp_path).data_files()
    if loss == "gone":
        Path(file.path).unlink()
    else:
        Path(file.path).write_bytes(b"")

    with pytest.raises(LakeDamaged, match=r"expected .* found"):
        Lake(tmp_path).append([segment_batch("a", 2)])


def newest_commit(root: Path, table: str) -> Path:
    return max((root / table / "_delta_log").glob("*.json"))


def test_a_zero_length_commit_is_a_version_without_actions_and_shipping_again_repairs_it(tmp_path: Path) -> None:
    batches = [segment_batch("a", 1), segment_batch("a", 2, dead=1)]
    Lake(tmp_path).append(batches[:1])
    Lake(tmp_path).append(batches)
    for table in ("usage_events", "segments"):
        newest_commit(tmp_path, table).write_bytes(b"")

    lake = Lake(tmp_path)
    assert lake.cut() == {"a": 1}
    lake.append(batches)

    assert lake.cut() == {"a": 2}
    assert len(identities(lake)) == len(set(identities(lake))) == 6
    assert lake.segments().num_rows == 2
    assert lake.dead_letters().num_rows == 1


def test_an_empty_first_commit_is_a_table_that_never_was(tmp_path: Path) -> None:
    Lake(tmp_path).append([segment_batch("a", 1, rows=1)])
    for table in ("usage_events", "segments"):
        for commit in (tmp_path / table / "_delta_log").glob("*.json"):
            commit.unlink()
        (tmp_path / table / "_delta_log" / f"{0:020d}.json").touch()

    lake = Lake(tmp_path)
    assert lake.cut() == {}
    assert lake.append([segment_batch("a", 1, rows=1)]).segments == 1


def test_a_torn_newest_commit_is_named_and_moving_it_aside_lets_shipping_repair(tmp_path: Path) -> None:
    batches = [segment_batch("a", 1), segment_batch("a", 2, dead=1)]
    Lake(tmp_path).append(batches[:1])
    Lake(tmp_path).append(batches)
    commit = newest_commit(tmp_path, "usage_events")
    commit.write_bytes(commit.read_bytes()[:-20])

    with pytest.raises(LakeDamaged, match=f"{commit.name} is torn"):
        Lake(tmp_path).append(batches)

    commit.rename(tmp_path / "aside")
    Lake(tmp_path).append(batches)
    assert Lake(tmp_path).cut() == {"a": 2}
    assert len(identities(Lake(tmp_path))) == len(set(identities(Lake(tmp_path)))) == 6


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for segment in (1, 2):
        lake.append([segment_batch("a", segment)])
    DeltaTable(tmp_path / "usage_events").optimize.compact()

    with pytest.raises(LakeDamaged, match="written by another program"):
        lake.data_files()


def test_cut_equals_transaction_versions_across_checkpoints_and_log_clean_up(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1, rows=1), *(segment_batch(f"p{n}", n, rows=0) for n in range(1, 20))])
    lake.append([segment_batch("a", 2, rows=1)])
    lake.compact()
    table = lake._events
    for segment in range(3, 103):
        # Straight into one table: a hundred commits, without those of the other two.
        table.commit(table.open_or_create(), [], {"a": segment})
    lake.append([segment_batch("a", 103, rows=1)])
    lake.append([segment_batch("a", 104, rows=1)])
    assert list((tmp_path / "usage_events" / "_delta_log").glob("*.checkpoint.parquet"))

    handle = DeltaTable(tmp_path / "usage_events")
    expected = {name: handle.transaction_version(name) for name in ["a", *(f"p{n}" for n in range(1, 20))]}
    assert lake.cut() == expected
    assert lake.last_segment("a") == 104


def test_a_panic_of_the_engine_is_retryable(tmp_path: Path) -> None:
    """A forked child makes deltalake panic for real: pyo3's PanicException is no Exception."""
    program = """
import os, sys
from metering.errors import LakeUnavailable
from metering.lake import Lake
from tests.metering.lake_batches import segment_batch
lake = Lake(sys.argv[1])
lake.append([segment_batch("a", 1)])
pid = os.fork()
if not pid:
    try:
        lake.append([segment_batch("a", 2)])
    except LakeUnavailable:
        os._exit(7)
    except BaseException as error:
        print(type(error), error)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False, cwd=Path.cwd())
    assert done.returncode == 7


def test_a_full_disk_is_retryable_and_counts_nothing(tmp_path: Path) -> None:
    program = """
import resource, sys
from metering.errors import LakeUnavailable
from metering.lake import Lake
from tests.metering.lake_batches import segment_batch
lake = Lake(sys.argv[1])
lake.append([segment_batch("a", 1)])
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
try:
    lake.append([segment_batch("a", 2, rows=2000)])
except LakeUnavailable:
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=False, cwd=Path.cwd())
    assert done.returncode == 7
    assert Lake(tmp_path).cut() == {"a": 1}
    assert not list(tmp_path.rglob(".tmp-*"))


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the path of every data file is added that is hashed; nothing is known from before."""
    found: list[str] = []
    original = lake_hashes._verify

    def verify(file: DataFile, state: tuple[int, int]) -> None:
        found.append(file.path)
        original(file, state)

    monkeypatch.setattr(lake_hashes, "_verify", verify)
    return found


def test_what_one_process_found_whole_another_may_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 0)])
    read = hashed(monkeypatch)
    for trusting_earlier, count in ((True, 1), (True, 0), (False, 1)):
        read.clear()
        # What another process would know.
        monkeypatch.setattr(lake_hashes, "_verified", {})
        lake.verify(lake.data_files(), trusting_earlier=trusting_earlier)
        assert len(read) == count


@pytest.mark.parametrize("what", ["note", "bytes", "torn note"])
def test_nothing_is_trusted_that_changed_or_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 0)])
    lake.verify(lake.data_files())
    monkeypatch.setattr(lake_hashes, "_verified", {})
    note = tmp_path / "derived" / "verified.json"
    if what == "note":
        note.unlink()
    elif what == "torn note":
        note.write_bytes(note.read_bytes()[:20])
    else:
        path = Path(lake.data_files()[0].path)
        content = bytearray(path.read_bytes())
        content[20] ^= 4
        path.write_bytes(content)
        with pytest.raises(LakeDamaged):
            lake.verify(lake.data_files(), trusting_earlier=True)
        return
    read = hashed(monkeypatch)
    lake.verify(lake.data_files(), trusting_earlier=True)
    assert len(read) == 1
