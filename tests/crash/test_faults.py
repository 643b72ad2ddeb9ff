"""Each k-th system call of a producer or a shipper fails, or kills it there; files meet their limits. Then all is counted.

What was acknowledged is in the lake once, what was refused is not there, nothing is invented. strace fails the calls.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.fault_children import CALLING, REFUSED, RETURNED
from tests.crash.faults import Said, Tally, Workshop, judge, needs_strace, sweep_record, sweep_ship, sweep_upkeep
from tests.crash.workspace import arrived, journal_is_empty, ship_all

ERRORS_OF_A_PRODUCER = (
    "fsync:error=EIO", "fdatasync:error=EIO", "fallocate:error=ENOSPC", "rename:error=EIO", "openat:error=EMFILE",
    "fsync:error=ENOSPC", "fdatasync:error=ENOSPC", "fallocate:error=EIO", "rename:error=ENOSPC", "openat:error=EIO",
    "openat:error=ENOSPC", "unlink:error=EIO", "mkdir:error=ENOSPC", "write:error=ENOSPC", "mmap:error=ENOMEM",
    "flock:error=EIO",
)  # fmt: skip
# Not `write`: it would fail what wakes the engine's own threads, which no disk can do. RLIMIT_FSIZE fails the files.
ERRORS_OF_A_SHIPPER = (
    "fsync:error=EIO", "rename:error=ENOSPC", "link,linkat:error=EIO", "openat:error=EMFILE", "fsync:error=ENOSPC",
    "rename:error=EIO", "link,linkat:error=ENOSPC", "openat:error=EIO", "openat:error=ENOSPC", "unlink:error=EIO",
    "mkdir:error=ENOSPC", "rmdir:error=EIO", "flock:error=EIO",
)  # fmt: skip
CALLS_OF_A_PRODUCER = ("fsync", "fdatasync", "fallocate", "rename", "openat", "unlink", "write")
CALLS_OF_A_SHIPPER = ("fsync", "rename", "link,linkat", "openat", "unlink")


def ks(last: int, suffix: str = "") -> list[str]:
    return [f"{k}{suffix}" for k in range(1, last + 1)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with Workshop(tmp_path_factory.mktemp("workshop")) as here:
        yield here


def hold(tally: Tally, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{tally.line(what)}\n")
    assert not tally.broken
    assert tally.faults > 0


def test_the_judge_sees_each_broken_promise() -> None:
    said = Said(
        "acme", bytes([0, RETURNED, RETURNED, REFUSED, CALLING, 0]), flushed_to=1, files_left_open=0, surprises=[]
    )

    def broken(numbers: list[int], *, after_cut: bool = False) -> list[str]:
        tally = Tally()
        judge([said], {"acme": Counter(numbers)} if numbers else {}, tally, after_cut=after_cut)
        return [text.split(": ")[1] for text in tally.broken]

    assert broken([1, 2]) == broken([1, 2, 4]) == broken([1], after_cut=True) == broken([1, 4], after_cut=True) == []
    assert broken([1]) == broken([2], after_cut=True) == ["lost"]
    assert broken([1, 2, 2]) == ["twice"]
    assert broken([1, 2, 3]) == ["refused and yet there"]
    assert broken([1, 2, 5]) == ["invented"]
    tally = Tally()
    judge([], {"nobody": Counter([1])}, tally)
    assert tally.broken == ["nobody: nobody recorded this"]


@needs_strace
def test_a_disk_that_refuses_once_is_met_by_a_producer_and_by_a_shipper(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = sweep_record(workshop, fast_disk / "record", ERRORS_OF_A_PRODUCER[1:3], ks(1), count=60)
    hold(recorded, "producer, first call fails", capsys)
    hold(sweep_ship(workshop, fast_disk / "ship", ERRORS_OF_A_SHIPPER[:1], ks(1)), "shipper, first call fails", capsys)


@needs_strace
def test_a_producer_whose_calls_fail_keeps_its_word(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = sweep_record(workshop, fast_disk / "once", ERRORS_OF_A_PRODUCER[:5], ks(3), count=200)
    hold(tally, "producer, k-th call fails", capsys)


@needs_strace
def test_a_shipper_whose_calls_fail_adds_each_event_once(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = sweep_ship(workshop, fast_disk / "once", ERRORS_OF_A_SHIPPER[:4], ks(2))
    hold(tally, "shipper, k-th call fails", capsys)


def limited(workshop: Workshop, root: Path, sizes: list[int]) -> Tally:
    """Let producers and shippers meet a limit on the size of a file: a short write first, then EFBIG."""
    tally, said = Tally(), []
    for size in sizes:
        one, _, _ = workshop.run("record", root, count=300, batches=True, limits={"RLIMIT_FSIZE": size})
        said.append(one)
        shipped, _, _ = workshop.run("ship", root, limits={"RLIMIT_FSIZE": size})
        tally.surprises.update(f"RLIMIT_FSIZE {size}: {text}" for text in shipped.surprises)
        tally.runs += 2
        tally.faults += size < 1 << 16
    ship_all(root)
    judge(said, arrived(root), tally)
    return tally


def test_a_limit_on_the_size_of_files_refuses_and_loses_nothing(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fast_disk / "limited"
    tally = limited(workshop, root, [0, 700, 65535, 1 << 20])
    hold(tally, "limited files", capsys)
    assert tally.refused > 0
    assert journal_is_empty(root)


def test_few_open_files_refuse_and_lose_nothing(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, tally = fast_disk / "few", Tally()
    said = [
        workshop.run("record", root, count=100, batches=True, limits={"RLIMIT_NOFILE": files})[0]
        for files in range(4, 20, 2)
    ]
    tally.runs = tally.faults = len(said)
    ship_all(root)
    judge(said, arrived(root), tally)
    hold(tally, "few open files", capsys)


@pytest.mark.prove
@pytest.mark.timeout(900)
@needs_strace
def test_every_call_of_a_producer_fails_once_or_for_ever_or_kills_it(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fast_disk / "producers"
    hold(sweep_record(workshop, root / "once", ERRORS_OF_A_PRODUCER, ks(60)), "producer, k-th call fails", capsys)
    for_ever = sweep_record(workshop, root / "ever", ERRORS_OF_A_PRODUCER, ks(20, "+"), count=400)
    hold(for_ever, "producer, calls fail from the k-th on", capsys)
    kills = [f"{call}:signal=KILL" for call in CALLS_OF_A_PRODUCER]
    hold(sweep_record(workshop, root / "kill", kills, ks(40)), "producer, killed at the k-th call", capsys)
    waiting = sweep_record(workshop, root / "disk", ERRORS_OF_A_PRODUCER[:5], ks(15), count=250, ack="disk")
    hold(waiting, "producer that waits for the disk, k-th call fails", capsys)
    for repeat in range(4):
        again = sweep_record(workshop, root / f"again-{repeat}", ERRORS_OF_A_PRODUCER[:5], ks(60), count=1200)
        hold(again, "producer, k-th call fails, longer", capsys)


@pytest.mark.prove
@pytest.mark.timeout(900)
@needs_strace
def test_every_call_of_a_shipper_fails_once_or_kills_it(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fast_disk / "shippers"
    # A lake of its own per fault: one that is opened after a hundred commits by every run would only be slow.
    for fault in ERRORS_OF_A_SHIPPER:
        name = fault.replace(":", "-")
        hold(sweep_ship(workshop, root / name, [fault], ks(60)), f"shipper, k-th {fault}", capsys)
        created = sweep_ship(workshop, root / f"{name}-fresh", [fault], ks(150), is_fresh=True)
        hold(created, f"shipper that creates the lake, k-th {fault}", capsys)
    for call in CALLS_OF_A_SHIPPER:
        tally = sweep_ship(workshop, root / f"kill-{call}", [f"{call}:signal=KILL"], ks(25))
        hold(tally, f"shipper, killed at the k-th {call}", capsys)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_every_limit_on_the_size_of_files(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = limited(workshop, fast_disk / "limited", [*range(0, 12_000, 150), *range(12_000, 80_000, 1500)])
    hold(tally, "limited files", capsys)


@pytest.mark.prove
@pytest.mark.timeout(600)
@needs_strace
def test_every_call_of_an_upkeep_fails_once_or_kills_it(
    workshop: Workshop, fast_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = (
        "fsync:error=EIO",
        "rename:error=ENOSPC",
        "link,linkat:error=EIO",
        "openat:error=EMFILE",
        "unlink:error=EIO",
    )
    kills = [f"{call}:signal=KILL" for call in CALLS_OF_A_SHIPPER]
    for fault in (*faults, *kills):
        tally = sweep_upkeep(workshop, fast_disk / fault.replace(":", "-"), [fault], ks(30))
        hold(tally, f"upkeep of the lake, k-th {fault}", capsys)
