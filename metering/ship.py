"""Shipping: sealed segments become one commit of the lake, and only then go from the journal.

Enters: the journal folder and a lake. Leaves: rows in the lake, a tidied journal, a count of what moved. Refuses: to
delete a segment before the lake said that it is durable there, and to stop at a segment that is damaged.

Two shippers at once, or one that is killed between any two steps, are correct without any lock: the lake takes each
(producer, segment) once. The leader's lock only saves work. Run as `python -m metering.ship ROOT [--watch]`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.clock import SystemClock
from metering.errors import JournalDamaged, LakeUnavailable, MeteringError, Retryable
from metering.keeper import leader_lock
from metering.layout import Layout
from metering.meters import load_rules
from metering.segments import ProducerFolder, producer_folders, quarantine, read_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from metering.batch import SegmentBatch
    from metering.clock import Clock
    from metering.lake import Lake

# One commit takes at most this much of the journal, so that memory is bounded however long nobody shipped.
BYTES_PER_COMMIT = 64 << 20
INTERVAL_S = 5.0
POLL_S = 0.25
LINGER_S = 5.0
PAUSE_AFTER_ERROR_S = 5.0


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one pass brought to the lake. `quarantined` segments are damaged and were set aside, not counted."""

    segments: int = 0
    rows: int = 0
    dead_letters: int = 0
    quarantined: tuple[str, ...] = ()

    def plus(self, other: Shipped) -> Shipped:
        return Shipped(
            self.segments + other.segments,
            self.rows + other.rows,
            self.dead_letters + other.dead_letters,
            self.quarantined + other.quarantined,
        )


def ship(
    layout: Layout, lake: Lake, clock: Clock | None = None, *, on_step: Callable[[str], None] | None = None
) -> Shipped:
    """Bring every sealed segment, and all of dead producers, to the lake; return what this call added. Idempotent.

    `rows` are usage events. `on_step` is told each step before it is taken (for tests that crash there).
    Raises LakeUnavailable (a retry helps), also where this machine refuses, and LakeDamaged; the journal then still has
    everything.
    """
    now_us = (clock or SystemClock()).now_us()
    step = on_step or (lambda _name: None)
    try:
        return _ship_all(layout, lake, now_us, step)
    except OSError as error:
        raise LakeUnavailable(
            f"shipping was refused by this machine ({error}); the journal still has everything, ship again",
            errno=error.errno,
        ) from error


def _ship_all(layout: Layout, lake: Lake, now_us: int, step: Callable[[str], None]) -> Shipped:
    total = Shipped()
    paths: Sequence[Path] = []
    # One folder at a time: there may be more dead producers than this process may have files open.
    for folder in producer_folders(layout.journal):
        with folder:
            if folder.is_ours:
                step("recover")
                folder.recover(now_us)
            paths = [*paths, *folder.sealed()]
    while paths:
        paths, part = _ship_some(layout, lake, paths, step)
        total = total.plus(part)
    for folder in producer_folders(layout.journal):
        with folder:
            if folder.is_ours:
                step("remove folder")
                folder.remove_if_empty()
    return total


def _ship_some(
    layout: Layout, lake: Lake, paths: Sequence[Path], step: Callable[[str], None]
) -> tuple[Sequence[Path], Shipped]:
    """Ship the first of these segments, up to the bytes of one commit; return the rest and what was added."""
    from metering.decode import decode_segment

    rules = load_rules(layout.meters_file)
    batches: list[SegmentBatch] = []
    read: list[Path] = []
    aside: list[str] = []
    size = 0
    for position, path in enumerate(paths):
        if size >= BYTES_PER_COMMIT:
            rest = paths[position:]
            break
        try:
            stored = read_segment(path)
            size += len(stored.body)
            batches.append(decode_segment(stored, rules))
            read.append(path)
        except FileNotFoundError:
            # Another shipper was faster; it deletes only what is in the lake.
            continue
        except JournalDamaged:
            step("quarantine")
            aside.append(str(quarantine(layout, path)))
    else:
        rest = []
    step("append")
    appended = lake.append(batches)
    kept = set(appended.out_of_order)
    for path, batch in zip(read, batches, strict=True):
        step("delete")
        if (batch.producer_id, batch.segment) in kept:
            # Older than what the lake has of this producer and yet not in it: somebody put it back. Not ours to drop.
            aside.append(str(quarantine(layout, path)))
        else:
            path.unlink(missing_ok=True)
    return rest, Shipped(appended.segments, appended.rows, appended.dead_letters, tuple(aside))


def watch(layout: Layout, *, interval_s: float = INTERVAL_S, linger_s: float = LINGER_S) -> int:
    """Ship every interval, or sooner when much has gathered, while a producer lives; then once more, and return.

    Only the leader works: returns at once when another shipper holds the lock. Returns 1 after an error that no retry
    can cure; the journal keeps everything until it is cured.
    """
    lock = os.open(leader_lock(layout), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return 0
    try:
        return _lead(layout, interval_s, linger_s)
    finally:
        os.close(lock)


def _lead(layout: Layout, interval_s: float, linger_s: float) -> int:
    from metering.lake import Lake

    lake = Lake(layout.lake)
    quiet_since_s: float | None = None
    while True:
        try:
            shipped = ship(layout, lake)
        except MeteringError as error:
            print(f"{error.code}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log of this process
            if not isinstance(error, Retryable):
                return 1
            time.sleep(PAUSE_AFTER_ERROR_S)
            continue
        for path in shipped.quarantined:
            print(f"quarantined: {path}", file=sys.stderr, flush=True)  # noqa: T201 - as above
        if producer_folders(layout.journal):
            quiet_since_s = None
        elif quiet_since_s is None:
            quiet_since_s = time.monotonic()
        elif time.monotonic() - quiet_since_s >= linger_s:
            return 0
        _wait(layout, interval_s)


def _wait(layout: Layout, interval_s: float) -> None:
    """Wait one interval, or until a commit's worth of sealed segments has gathered, or a producer has died."""
    until_s = time.monotonic() + interval_s
    while time.monotonic() < until_s:
        time.sleep(min(POLL_S, interval_s))
        folders = producer_folders(layout.journal)
        if not folders or any(_is_dead(folder) for folder in folders):
            return
        if sum(_size(path) for folder in folders for path in folder.sealed()) >= BYTES_PER_COMMIT:
            return


def _is_dead(folder: ProducerFolder) -> bool:
    with folder:
        return folder.is_ours


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m metering.ship", description="Bring the journal to the lake.")
    parser.add_argument("root", help="folder of the workspace")
    parser.add_argument("--watch", action="store_true", help="go on while producers live")
    parser.add_argument("--interval", type=float, default=INTERVAL_S, help="seconds between commits")
    parser.add_argument("--linger", type=float, default=LINGER_S, help="seconds to wait for new producers at the end")
    options = parser.parse_args(arguments)
    layout = Layout.of(options.root)
    layout.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.watch:
        return watch(layout, interval_s=options.interval, linger_s=options.linger)
    from metering.lake import Lake

    shipped = ship(layout, Lake(layout.lake))
    print(f"{shipped.segments} segments, {shipped.rows} usage events, {shipped.dead_letters} dead letters")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
