"""What keeps the leases of a process: one thread that refills them ahead of need and returns what is not needed.

Enters: hard quotas that hold leases. Leaves: calls of their `tend`, soon after they ask and at every tick. Refuses: to be
needed. Without it a spender that runs out asks the books itself, and a lease that nobody tends counts in full.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import weakref
from typing import Protocol

TICK_S = 1.0


class Tended(Protocol):
    """A holder of a lease."""

    def tend(self) -> None:
        """Refill, prolong or return the lease, whichever is due. Keeps what goes wrong to itself, and counts it."""

    def close(self) -> None:
        """Return the lease."""


class LeaseKeeper:
    """Tends from a daemon thread that starts when the first holder enrols. One per process; a fork makes it new."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self.renew_after_fork()
        atexit.register(self._close_all)

    def renew_after_fork(self) -> None:
        """Begin anew in the child: the thread is the parent's, and so is all that was asked of it."""
        self._held: weakref.WeakSet[Tended] = weakref.WeakSet()
        self._asked: queue.SimpleQueue[weakref.ref[Tended]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def enrol(self, holder: Tended) -> None:
        """Tend this one from now on, for as long as it lives."""
        with self._lock:
            self._held.add(holder)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tallybook-leases", daemon=True)
                self._thread.start()

    def ask(self, holder: Tended) -> None:
        """Tend this one now. Never waits."""
        self._asked.put(weakref.ref(holder))

    def _run(self) -> None:
        while True:
            try:
                holder = self._asked.get(timeout=self._tick_s)()
                due = [] if holder is None else [holder]
            except queue.Empty:
                with self._lock:
                    due = list(self._held)
            for one in due:
                one.tend()
            # Nothing that is collected may be kept alive until the next tick.
            holder = None
            due.clear()

    def _close_all(self) -> None:
        """Return what is held when the interpreter ends. Best effort: what is not returned counts in full."""
        for holder in list(self._held):
            with contextlib.suppress(Exception):
                holder.close()


keeper = LeaseKeeper()
