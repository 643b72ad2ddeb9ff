"""What must happen between rows: dirty pages go to the disk, full segments are sealed, a shipper runs.

Enters: the producer's own ways to sync and seal. Leaves: one daemon thread per process that records, and at most one
child process per workspace and host. Refuses: to be needed. Without it rows survive the process all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from metering.backoff import full_jitter_s
from metering.errors import JournalFull, MeteringError

if TYPE_CHECKING:
    from collections.abc import Callable

    from metering.layout import Layout

SHIPPER_CHECK_S = 2.0
SHIPPER_PAUSE_MAX_S = 60.0


class Keeper:
    """Calls `sync` every flush interval and `rotate` every seal interval, from a daemon thread that is started here.

    Where no thread can be started (the interpreter is ending, the process has as many as it may), whoever wakes it does
    without: what is full is sealed by the caller then, and the next who wakes it tries again to start it.
    """

    def __init__(
        self,
        *,
        sync: Callable[[], object],
        prepare: Callable[[], object],
        rotate: Callable[[], object],
        seal: Callable[[], object],
        care: Callable[[], object],
        flush_interval_s: float,
        seal_interval_s: float,
    ) -> None:
        self._sync = sync
        self._prepare = prepare
        self._rotate = rotate
        self._seal = seal
        self._care = care
        self._flush_interval_s = flush_interval_s
        self._seal_interval_s = seal_interval_s
        # A lock that is released to wake: unlike an Event, it may be touched by a signal handler that interrupted `wake`.
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._is_stopped = self._is_abandoned = False
        # What the disk last said, while it says no; rows are kept and every interval tries again.
        self.refusal: MeteringError | None = None
        self._thread = threading.Thread(target=self._run, name="tallybook-keeper", daemon=True)
        self._is_running()

    def wake(self) -> bool:
        """Ask for full segments to be sealed now; return whether there is a thread that will."""
        with contextlib.suppress(RuntimeError):
            self._asleep.release()
        return self._is_running()

    def stop(self) -> None:
        self._is_stopped = True
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self.wake()
            self._thread.join()

    def abandon(self) -> None:
        """Let go in a forked child. Threads stay with the parent, but greenlets go on in the child as well."""
        self._is_abandoned = True

    def _is_running(self) -> bool:
        if self._thread.ident is None:
            try:
                self._thread.start()
            except RuntimeError:
                # The caller has a row to record, whatever becomes of the shipper.
                with contextlib.suppress(OSError):
                    self._care()
                return False
        return True

    def _run(self) -> None:
        care_is_due = True
        rotate_at_s = time.monotonic() + self._seal_interval_s
        while True:
            is_woken = self._asleep.acquire(timeout=self._flush_interval_s)
            while self._is_abandoned:
                # For ever: gevent does not know a thread of the parent in the child, and its end would be an error.
                self._asleep.acquire()
            if self._is_stopped:
                return
            try:
                if care_is_due:
                    self._care()
                    care_is_due = False
                self._prepare()
                if is_woken:
                    self._seal()
                self._sync()
                if time.monotonic() >= rotate_at_s:
                    rotate_at_s = time.monotonic() + self._seal_interval_s
                    self._rotate()
                    self._care()
                self.refusal = None
            except MeteringError as error:
                self.refusal = error
            except OSError as error:
                # No file left to open, a lock of somebody else's: flushing must go on, and the next interval tries again.
                self.refusal = JournalFull(
                    f"the journal's keeper was refused ({error}); it tries again", errno=error.errno
                )


class ShipperChild:
    """Sees to it that somebody ships this workspace: whoever holds the leader's lock, or else a child started here."""

    def __init__(
        self,
        layout: Layout,
        *,
        now_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._layout = layout
        self._now_s = now_s
        self._chance = chance
        self._process_id: int | None = None
        self._checked_s = float("-inf")
        # A shipper that gives up says so in its log and would do so again: it is not started again every two seconds.
        self._failures = 0
        self._not_before_s = float("-inf")

    def ensure(self, *, now: bool = False) -> None:
        """Start a shipper unless one runs. Looks at most every two seconds, and waits longer after each that gave up in
        a row, unless told `now`.
        """
        at_s = self._now_s()
        if not now and at_s < self._checked_s + SHIPPER_CHECK_S:
            return
        self._checked_s = at_s
        if self._process_id is not None and not self._has_ended(at_s):
            return
        if (now or at_s >= self._not_before_s) and not is_led(self._layout):
            self._process_id = _spawn(self._layout)

    def _has_ended(self, at_s: float) -> bool:
        """Return whether the child is gone, and note when another may be started: later if it gave up."""
        try:
            ended, status = os.waitpid(self._process_id or 0, os.WNOHANG)
        except ChildProcessError:
            # Somebody else reaped it (or it is the child of our parent, seen after a fork).
            ended, status = self._process_id or 0, 0
        if ended != self._process_id:
            return False
        self._process_id = None
        self._failures = self._failures + 1 if status else 0
        pause_s = full_jitter_s(self._failures, self._chance, base_s=SHIPPER_CHECK_S, cap_s=SHIPPER_PAUSE_MAX_S)
        self._not_before_s = at_s + pause_s if status else at_s
        return True


def leader_lock(layout: Layout) -> Path:
    return layout.journal / "ship.lock"


def is_led(layout: Layout) -> bool:
    """Return whether a shipper holds the leader's lock."""
    file = os.open(leader_lock(layout), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # Shared, so that two who ask at once do not take each other for the leader.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _spawn(layout: Layout) -> int:
    package_folder = str(Path(__file__).parent.parent)
    # -P: a file of the current folder must not shadow a library. What this process can import, the child can.
    search_path = os.pathsep.join([package_folder, *(folder for folder in sys.path if folder)])
    log = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.posix_spawn(
        _interpreter(),
        [_interpreter(), "-P", "-m", "metering.ship", str(layout.root), "--watch"],
        {**os.environ, "PYTHONPATH": search_path},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(layout.journal / "ship.log"), log, 0o600),
        ],
        # A session of its own: Ctrl-C and the end of the application's terminal are not for the shipper.
        setsid=True,
    )


def _interpreter() -> str:
    # Under uWSGI and other embedders sys.executable is not a Python.
    if sys.executable and "python" in Path(sys.executable).name:
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")
