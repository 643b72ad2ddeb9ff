"""Acknowledgement by the disk: who returns is covered by a sync that began after its row was stored."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metering.acknowledge import DiskAcknowledger
from metering.decode import decode_segment
from metering.errors import JournalFull, NotYetDurable, Retryable
from metering.recorder import Recorder
from metering.segments import producer_folders, read_segment


def quantities(root: Path) -> list[int]:
    paths = [path for folder in producer_folders(root / "journal") for path in folder.sealed()]
    rows = [row for path in paths for row in decode_segment(read_segment(path), None).events.to_pylist()]
    return sorted(int(row["quantity"]) for row in rows)


class Disk:
    """Stands before the kernel's fdatasync: counts what succeeded, fails or hangs when told to."""

    def __init__(self) -> None:
        self.real = os.fdatasync
        self.synced = 0
        self.failures = 0
        self.may_sync = threading.Event()
        self.may_sync.set()

    def fdatasync(self, file: int) -> None:
        self.may_sync.wait()
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.real(file)
        self.synced += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    yield disk
    disk.may_sync.set()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def recorder(**settings: Any) -> Recorder:
        # The keeper stays out of the way: whatever is synced here was asked for.
        made.append(Recorder(tmp_path, ship="none", flush_interval_s=3600.0, seal_interval_s=3600.0, **settings))
        return made[-1]

    yield recorder
    for usage in made:
        usage.close()


def test_a_row_is_on_the_disk_when_the_call_returns(make: Callable[..., Recorder], disk: Disk) -> None:
    usage = make()
    usage.record("api", tenant="acme")
    tokens = usage.bind("tokens", tenant="acme")
    before = disk.synced
    calls: list[Callable[[], None]] = [
        lambda: usage.record("api", tenant="acme", ack="disk"),
        lambda: tokens.add(ack="disk"),
        lambda: usage.void("api", tenant="acme", key="a", ack="disk"),
        lambda: usage.replace("api", tenant="acme", quantity=1, key="a", ack="disk"),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert disk.synced == before + number
    usage.record("api", tenant="acme")
    tokens.add()
    assert disk.synced == before + len(calls)


def test_a_recorder_may_always_wait_for_the_disk(make: Callable[..., Recorder], disk: Disk) -> None:
    usage = make(ack="disk")
    tokens = usage.bind("api", tenant="acme")
    usage.record("api", tenant="acme")
    before = disk.synced
    for _ in range(3):
        usage.record("api", tenant="acme")
        tokens.add()
    assert disk.synced == before + 6
    usage.record("api", tenant="acme", ack="process")
    tokens.add(ack="process")
    assert disk.synced == before + 6


def test_many_threads_share_a_sync(make: Callable[..., Recorder], disk: Disk, tmp_path: Path) -> None:
    usage = make(ack="disk")
    usage.record("api", tenant="acme", quantity=0)
    before = disk.synced
    disk.may_sync.clear()
    threads = [
        threading.Thread(target=usage.record, args=("api",), kwargs={"tenant": "acme", "quantity": number})
        for number in range(1, 33)
    ]
    for thread in threads:
        thread.start()
    # All of them wait: nobody was answered before a sync was done.
    while usage._segment.claimed_to < 4096 + 32 * 34:
        threading.Event().wait(0.001)
    assert all(thread.is_alive() for thread in threads)
    disk.may_sync.set()
    for thread in threads:
        thread.join()
    # The one that hung, and one or two for all who came meanwhile.
    assert disk.synced - before <= 3
    usage.close()
    assert quantities(tmp_path) == list(range(33))


def test_a_failed_fsync_is_answered_by_a_new_file_or_not_at_all(
    make: Callable[..., Recorder], disk: Disk, tmp_path: Path
) -> None:
    usage = make()
    usage.record("api", tenant="acme", quantity=1)
    inode = next(tmp_path.glob("journal/*/*.open")).stat().st_ino
    disk.failures = 1
    usage.record("api", tenant="acme", quantity=2, ack="disk")
    (sealed,) = tmp_path.glob("journal/*/*.sealed")
    assert sealed.stat().st_ino != inode
    assert quantities(tmp_path) == [1, 2]


def test_when_the_rows_cannot_be_moved_either_the_caller_is_told_and_the_rows_count(
    make: Callable[..., Recorder], disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = make()
    usage.record("api", tenant="acme", quantity=1)
    disk.failures = 1

    def refuse(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        with pytest.raises(NotYetDurable, match="No space left") as raised:
            usage.record("api", tenant="acme", quantity=2, ack="disk")
        assert isinstance(raised.value, Retryable)
        with pytest.raises(JournalFull):
            usage.flush()
    usage.flush()
    usage.close()
    assert quantities(tmp_path) == [1, 2]


def test_nobody_waits_past_the_limit(make: Callable[..., Recorder], disk: Disk, tmp_path: Path) -> None:
    usage = make(ack_timeout_s=0.01)
    usage.record("api", tenant="acme", quantity=1)
    disk.may_sync.clear()
    with pytest.raises(NotYetDurable) as raised:
        usage.record("api", tenant="acme", quantity=2, ack="disk")
    assert raised.value.timeout_s == 0.01
    with pytest.raises(NotYetDurable):
        asyncio.run(usage.record_durably("api", tenant="acme", quantity=3))
    disk.may_sync.set()
    usage.flush()
    usage.close()
    assert quantities(tmp_path) == [1, 2, 3]


def test_the_event_loop_goes_on_while_the_disk_hangs(make: Callable[..., Recorder], disk: Disk, tmp_path: Path) -> None:
    usage = make()

    async def work() -> int:
        usage.record("api", tenant="acme", quantity=0)
        before = disk.synced
        disk.may_sync.clear()
        waiting = [
            asyncio.create_task(usage.record_durably("api", tenant="acme", quantity=number)) for number in range(1, 257)
        ]
        # The heartbeat is counted, not timed: a loop that is held up by the disk would never get here.
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        disk.may_sync.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in results if one is not None] == [asyncio.CancelledError]
        return disk.synced - before

    assert asyncio.run(work()) <= 3
    usage.close()
    assert quantities(tmp_path) == list(range(257))


def test_a_segment_is_opened_beside_the_loop(make: Callable[..., Recorder], disk: Disk, tmp_path: Path) -> None:
    usage = make()

    async def work() -> None:
        # Even the first row of all, which needs a folder and a file on the disk.
        disk.may_sync.clear()
        task = asyncio.create_task(usage.record_durably("api", tenant="acme"))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not task.done()
        disk.may_sync.set()
        await task

    asyncio.run(work())
    usage.close()
    assert quantities(tmp_path) == [1]


def test_what_is_dropped_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    with Recorder(tmp_path, ship="none", ack="disk", on_error="drop_and_count") as usage:
        usage.record("api", tenant="acme")
        asyncio.run(usage.record_durably("api", tenant="acme"))
        assert usage.dropped == 2


def test_an_unknown_acknowledgement_is_refused(make: Callable[..., Recorder], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="process"):
        make(ack="dsk")
    usage = make()
    with pytest.raises(ValueError, match="disk"):
        usage.record("api", tenant="acme", ack="dsk")
    assert list(tmp_path.iterdir()) == []


def test_who_asks_after_the_end_syncs_alone() -> None:
    calls: list[str] = []
    acknowledger = DiskAcknowledger(lambda: calls.append(threading.current_thread().name), 1.0)
    acknowledger.wait()
    acknowledger.stop()
    acknowledger.wait()
    asyncio.run(acknowledger.wait_async())
    assert calls[:2] == ["tallybook-acknowledge", "MainThread"]
    assert len(calls) == 3


def test_a_refusal_is_told_to_everybody_of_the_group() -> None:
    def refuse() -> None:
        raise JournalFull("no", errno=errno.ENOSPC)

    acknowledger = DiskAcknowledger(refuse, 1.0)
    with pytest.raises(NotYetDurable, match="No space left"):
        acknowledger.wait()
    with pytest.raises(NotYetDurable, match="do not record them again"):
        asyncio.run(acknowledger.wait_async())
    acknowledger.stop()
