"""Shipping: sealed segments become one commit of the lake, and only then go from the journal.

Enters: the journal folder and a lake. Leaves: rows in the lake, a tidied journal, a count of what moved. Refuses: to
delete a segment before the lake said that it is durable there, and to let one segment hold up another producer's: what
is damaged is set aside; a producer of whom this machine refuses a file waits, in order, and is named.

Two shippers at once, or one that is killed between any two steps, are correct without any lock: the lake takes each
(producer, segment) once. The leader's lock only saves work. Run as `python -m metering.ship ROOT [--watch]`.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import math
import os
import random
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.backoff import full_jitter_s
from metering.clock import SystemClock
from metering.errors import JournalDamaged, LakeUnavailable, MeteringError, Retryable
from metering.keeper import leader_lock
from metering.layout import Layout
from metering.meters import load_rules
from metering.segments import ProducerFolder, producer_folders, quarantine, read_segment, remove_unborn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from metering.batch import SegmentBatch
    from metering.clock import Clock
    from metering.lake import Lake
    from metering.meters import MeterRule

    Rules = Mapping[str, MeterRule] | None

# One commit takes at most this much of the journal, so that memory is bounded however long nobody shipped. Segments that
# hold next to nothing cost memory too: an idle process seals one per second.
BYTES_PER_COMMIT = 64 << 20
SEGMENTS_PER_COMMIT = 1000
# A narrow batch has millions of rows in that, and every row costs memory, however few bytes it came in.
ROWS_PER_COMMIT = 4_000_000
INTERVAL_S = 5.0
POLL_S = 0.25
LINGER_S = 5.0
# While the lake is away, the shippers of many hosts wait for it; they must not all come back in the same second.
RETRY_BASE_S, RETRY_CAP_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one pass brought to the lake. `quarantined` segments are damaged and were set aside, not counted.

    `refused` says, for each producer of whom this machine refused a file, which and why. What that producer still has in
    the journal stays there, in order, for the next pass; everything of the others was shipped.
    """

    segments: int = 0
    rows: int = 0
    dead_letters: int = 0
    quarantined: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def plus(self, other: Shipped) -> Shipped:
        return Shipped(
            self.segments + other.segments,
            self.rows + other.rows,
            self.dead_letters + other.dead_letters,
            self.quarantined + other.quarantined,
            self.refused + other.refused,
        )


def ship(
    layout: Layout, lake: Lake, clock: Clock | None = None, *, on_step: Callable[[str], None] | None = None
) -> Shipped:
    """Bring every sealed segment, and all of dead producers, to the lake; return what this call added. Idempotent.

    `rows` are usage events. `on_step` is told each step before it is taken (for tests that crash there).
    One file that this machine refuses holds up its own producer only (see `Shipped.refused`). Raises LakeUnavailable (a
    retry helps), also where this machine refuses more than that, and LakeDamaged; the journal then still has everything.
    """
    now_us = (clock or SystemClock()).now_us()
    try:
        return _Pass(layout, lake, on_step or (lambda _name: None)).run(now_us)
    except OSError as error:
        raise LakeUnavailable(
            f"shipping was refused by this machine ({error}); the journal still has everything, ship again",
            errno=error.errno,
        ) from error


class _Pass:
    """One look at the journal, and as many bounded commits as it takes to ship what was there."""

    def __init__(self, layout: Layout, lake: Lake, step: Callable[[str], None]) -> None:
        self._layout = layout
        self._lake = lake
        self._step = step
        self._aside: list[str] = []
        # What was refused, by producer; and producers of whom nothing more is shipped in this pass, because the lake takes
        # their segments in order only.
        self._refused: dict[str, str] = {}
        self._held: set[str] = set()

    def run(self, now_us: int) -> Shipped:
        total = Shipped()
        paths: Sequence[Path] = self._take_stock(now_us)
        while paths:
            paths, part = self._ship_some(paths)
            total = total.plus(part)
        self._tidy(now_us)
        return total.plus(Shipped(quarantined=tuple(self._aside), refused=tuple(self._refused.values())))

    def _take_stock(self, now_us: int) -> list[Path]:
        """Recover what dead producers left and return what is sealed, all producers in turn, each in its own order."""
        queues = []
        # One folder at a time: there may be more dead producers than this process may have files open.
        for folder in producer_folders(self._layout.journal):
            try:
                with folder:
                    if folder.is_ours:
                        self._step("recover")
                        try:
                            folder.recover(now_us)
                        except OSError as error:
                            # A full disk may refuse this; what is sealed must leave it all the same, to make room.
                            self._refuse(folder.producer_id, folder.path, error)
                    queues.append(folder.sealed())
            except OSError as error:
                self._refuse(folder.producer_id, folder.path, error)
        return _in_turn(queues)

    def _ship_some(self, paths: Sequence[Path]) -> tuple[Sequence[Path], Shipped]:
        """Ship the first of these segments, as much as one commit takes; return the rest and what was added."""
        rules = load_rules(self._layout.meters_file)
        read: list[tuple[Path, SegmentBatch]] = []
        size = rows = taken = 0
        for path in paths:
            if size >= BYTES_PER_COMMIT or rows >= ROWS_PER_COMMIT or len(read) >= SEGMENTS_PER_COMMIT:
                break
            taken += 1
            found = None if path.parent.name in self._held else self._read(path, rules)
            if found is not None:
                size += found[0]
                rows += found[1].rows
                read.append((path, found[1]))
        return paths[taken:], self._bring(read)

    def _bring(self, read: Sequence[tuple[Path, SegmentBatch]]) -> Shipped:
        """Append these segments to the lake and delete them from the journal; return what was added.

        Where the lake cannot take the rows of one, the others go without it, halved until it is alone.
        """
        self._step("append")
        try:
            appended = self._lake.append([batch for _, batch in read])
        except (OSError, MeteringError):
            raise
        except Exception as error:  # noqa: BLE001 - as in `_read`: not of the lake, but of somebody's rows
            if len(read) == 1:
                self._hold(read[0][0], error)
                return Shipped()
            half, held_before = len(read) // 2, set(self._held)
            added = self._bring(read[:half])
            # The lake takes the segments of a producer in order only.
            just_held = self._held - held_before
            return added.plus(self._bring([one for one in read[half:] if one[1].producer_id not in just_held]))
        kept = set(appended.out_of_order)
        for path, batch in read:
            self._step("delete")
            try:
                if (batch.producer_id, batch.segment) in kept:
                    # Older than what the lake has of its producer, yet not in it: somebody put it back. Not ours to drop.
                    self._set_aside(path)
                else:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                # Another shipper set it aside first.
                continue
            except OSError as error:
                # It is in the lake, and is offered again: the lake passes over it.
                self._refuse(path.parent.name, path, error)
        return Shipped(appended.segments, appended.rows, appended.dead_letters)

    def _read(self, path: Path, rules: Rules) -> tuple[int, SegmentBatch] | None:
        """Return one segment and its size; None when there is nothing to ship, or it has to wait with all behind it."""
        from metering.decode import decode_segment

        try:
            try:
                stored = read_segment(path)
                return len(stored.body), decode_segment(stored, rules)
            except JournalDamaged:
                self._set_aside(path)
        except FileNotFoundError:
            # Another shipper was faster; it deletes only what is in the lake.
            return None
        except Exception as error:  # noqa: BLE001 - what nobody foresaw of one producer must not stop the others
            self._hold(path, error)
        return None

    def _set_aside(self, path: Path) -> None:
        self._step("quarantine")
        self._aside.append(str(quarantine(self._layout, path)))

    def _tidy(self, now_us: int) -> None:
        for folder in producer_folders(self._layout.journal):
            try:
                with folder:
                    if folder.is_ours:
                        self._step("remove folder")
                        folder.remove_if_empty()
            except FileNotFoundError:
                # Another shipper removed it first.
                continue
            except OSError as error:
                self._refuse(folder.producer_id, folder.path, error)
        remove_unborn(self._layout.journal, now_us)

    def _hold(self, path: Path, error: Exception) -> None:
        self._held.add(path.parent.name)
        self._refuse(path.parent.name, path, error)

    def _refuse(self, producer_id: str, path: Path, error: Exception) -> None:
        self._refused.setdefault(
            producer_id,
            f"{path}: {error}; what this producer recorded stays in the journal and is tried again. "
            "Make the file readable, or move it to quarantine/ to ship what comes after it",
        )


def _in_turn(queues: Sequence[Sequence[Path]]) -> list[Path]:
    """Return the first of each queue, then the second of each: who has a long backlog does not come before the others."""
    return [path for turn in itertools.zip_longest(*queues) for path in turn if path is not None]


def watch(
    layout: Layout,
    *,
    interval_s: float = INTERVAL_S,
    linger_s: float = LINGER_S,
    pause: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> int:
    """Ship every interval, or sooner when much has gathered, while a producer lives; then once more, and return.

    While the lake is away it tries again after a random part of a time that doubles up to half a minute (`pause` waits,
    `chance` draws), and starts from the beginning after a success. Only the leader works: returns at once when another
    shipper holds the lock. A side-car lingers for ever (`linger_s=math.inf`), and so also waits for the lead. Returns 1
    after an error that no retry can cure; the journal keeps everything until then.
    """
    lock = os.open(leader_lock(layout), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if math.isinf(linger_s) else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return 0
    try:
        return _lead(layout, interval_s, linger_s, lambda failures: pause(_retry_after_s(failures, chance)))
    finally:
        os.close(lock)


def _retry_after_s(failures: int, chance: Callable[[], float]) -> float:
    return full_jitter_s(failures, chance, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)


def _lead(layout: Layout, interval_s: float, linger_s: float, pause_after: Callable[[int], None]) -> int:
    from metering.lake import Lake

    lake = Lake(layout.lake)
    quiet_since_s: float | None = None
    refused: tuple[str, ...] = ()
    failures = 0
    while True:
        try:
            shipped = ship(layout, lake)
        except MeteringError as error:
            _log(f"{error.code}: {error}")
            if not isinstance(error, Retryable):
                return 1
            failures += 1
            pause_after(failures)
            continue
        failures = 0
        for path in shipped.quarantined:
            _log(f"quarantined: {path}")
        # A file may be refused for days: it is said when it begins, not every interval.
        for text in sorted({*shipped.refused} - {*refused}):
            _log(f"refused: {text}")
        refused = shipped.refused
        if producer_folders(layout.journal):
            quiet_since_s = None
        elif quiet_since_s is None:
            quiet_since_s = time.monotonic()
        elif time.monotonic() - quiet_since_s >= linger_s:
            return 0
        _wait(layout, interval_s, hasty=not refused)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the log of this process


def _wait(layout: Layout, interval_s: float, *, hasty: bool) -> None:
    """Wait one interval, or if `hasty` until a commit's worth of sealed segments has gathered, or a producer has died."""
    until_s = time.monotonic() + interval_s
    while time.monotonic() < until_s:
        time.sleep(min(POLL_S, interval_s))
        # What is refused stays, and would be a reason to hurry for ever.
        if not hasty:
            continue
        folders = producer_folders(layout.journal)
        if not folders or any(_is_dead(folder) for folder in folders):
            return
        if sum(_size(path) for folder in folders for path in folder.sealed()) >= BYTES_PER_COMMIT:
            return


def _is_dead(folder: ProducerFolder) -> bool:
    try:
        with folder:
            return folder.is_ours
    except OSError:
        # The pass says what is wrong with it.
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m metering.ship", description="Bring the journal to the lake.")
    parser.add_argument("root", help="folder of the workspace")
    parser.add_argument("--watch", action="store_true", help="go on while producers live")
    parser.add_argument("--interval", type=float, default=INTERVAL_S, help="seconds between commits")
    parser.add_argument(
        "--linger", type=float, default=LINGER_S, help="seconds to wait for new producers; inf: for ever"
    )
    options = parser.parse_args(arguments)
    layout = Layout.of(options.root)
    layout.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.watch:
        return watch(layout, interval_s=options.interval, linger_s=options.linger)
    from metering.lake import Lake

    shipped = ship(layout, Lake(layout.lake))
    print(f"{shipped.segments} segments, {shipped.rows} usage events, {shipped.dead_letters} dead letters")  # noqa: T201
    for text in (*shipped.quarantined, *shipped.refused):
        _log(text)
    return 1 if shipped.refused else 0


if __name__ == "__main__":
    sys.exit(main())
