"""Acknowledgement by the disk: many callers wait, one fdatasync answers all of them.

Enters: callers who stored a row and want to know it on the disk. Leaves: their return, or NotYetDurable. Refuses: to
answer by a sync that began before the row was stored, by one that failed, and to keep anybody waiting past a limit.

Problem. A row that survives a power cut costs an fdatasync, 0.2 to 10 ms and sometimes many seconds; a caller may have to
wait for it, an event loop must not, and a hundred callers must not pay a hundred times.

Choice. One daemon thread syncs, started with the first who asks. Who asks has stored its row before, joins the queue, and
waits for a lock of its own. The thread takes all that wait, syncs once and answers them; those who come meanwhile are the
next group, so that the group grows with the load. Waiters on an event loop are answered by one wake of each loop.
The queue is a deque and each waiter's lock its own, so that nothing is half done when a signal handler asks while its
thread is asking. A handler had better not: what it interrupted may hold what the sync needs, and then it waits to its limit.

Rejected: a leader among the callers (it could not keep its own limit while it hangs in fdatasync), a thread of a pool per
asyncio call (one sync each, and a loop's default pool is small), counting what a sync covers by offsets (a slot may be
claimed and not yet stored when the sync begins; who stores first and asks then needs no offset).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal

from metering.errors import MeteringError, NotYetDurable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    Ack = Literal["process", "disk"]
    # Says how it went: None, or why the rows are not on the disk.
    Answer = MeteringError | None


class _Waiter:
    """A thread that waits. The lock is free as soon as there is an answer."""

    __slots__ = ("answer", "lock")

    def __init__(self) -> None:
        self.answer: Answer = None
        self.lock = threading.Lock()
        self.lock.acquire()


class DiskAcknowledger:
    """Answers who stored rows when a sync that began later has succeeded. `sync` is the recorder's own way to flush."""

    def __init__(self, sync: Callable[[], object], timeout_s: float) -> None:
        self._sync = sync
        self._timeout_s = timeout_s
        self._waiters: deque[_Waiter] = deque()
        self._futures: deque[asyncio.Future[Answer]] = deque()
        # Free means: somebody waits. Released, never set: a signal handler may come between any two steps.
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    def wait(self) -> None:
        """Return when everything that this thread stored is on the disk. Raises NotYetDurable; the rows count all the same."""
        if not self._is_running():
            # The interpreter is ending and starts no threads any more: there is nobody to share with either.
            self._raise(self._synced())
            return
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._wake()
        if self._is_stopped:
            # Stopped since it was looked at: perhaps nobody comes for this waiter any more.
            self._raise(self._synced())
            return
        if not waiter.lock.acquire(timeout=self._timeout_s):
            raise _late(self._timeout_s)
        self._raise(waiter.answer)

    async def wait_async(self) -> None:
        """The same for a coroutine; its loop goes on meanwhile."""
        import asyncio

        loop = asyncio.get_running_loop()
        if not self._is_running():
            self._raise(await asyncio.to_thread(self._synced))
            return
        future: asyncio.Future[Answer] = loop.create_future()
        self._futures.append(future)
        self._wake()
        if self._is_stopped:
            self._raise(await asyncio.to_thread(self._synced))
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await future
        except TimeoutError:
            raise _late(self._timeout_s) from None
        self._raise(answer)

    def stop(self) -> None:
        """Answer who waits, and end the thread. Who asks afterwards syncs in its own thread."""
        self._is_stopped = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._wake()
            thread.join(self._timeout_s)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._asleep.release()

    def _is_running(self) -> bool:
        if self._thread is None and not self._is_stopped:
            with self._starting, contextlib.suppress(RuntimeError):
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="tallybook-acknowledge", daemon=True)
                    thread.start()
                    self._thread = thread
        return self._thread is not None and not self._is_stopped

    def _run(self) -> None:
        while True:
            self._asleep.acquire()
            # Taken before the sync begins: whoever comes later stored later, and is of the next group.
            waiters = [self._waiters.popleft() for _ in range(len(self._waiters))]
            futures = [self._futures.popleft() for _ in range(len(self._futures))]
            answer = self._synced() if waiters or futures else None
            for waiter in waiters:
                waiter.answer = answer
                waiter.lock.release()
            _answer_loops(futures, answer)
            if self._is_stopped and not self._waiters and not self._futures:
                return

    def _synced(self) -> Answer:
        try:
            self._sync()
        except MeteringError as error:
            return error
        return None

    @staticmethod
    def _raise(answer: Answer) -> None:
        if answer is not None:
            number = answer.details.get("errno")
            said = os.strerror(number) if isinstance(number, int) else answer.message
            raise NotYetDurable(
                f"written, not yet on disk: the disk refused ({said}); the rows count and survive the death of this "
                "process: do not record them again without a key, call flush() to wait for the disk once more",
                errno=number,
            ) from answer


def _late(timeout_s: float) -> NotYetDurable:
    return NotYetDurable(
        f"written, not yet on disk after {timeout_s:g} s; the rows count and survive the death of this process: do not "
        "record them again without a key, call flush() to wait for the disk once more",
        timeout_s=timeout_s,
    )


def _answer_loops(futures: list[asyncio.Future[Answer]], answer: Answer) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[Answer]]] = {}
    for future in futures:
        by_loop.setdefault(future.get_loop(), []).append(future)
    for loop, waiting in by_loop.items():
        # A loop that was closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, waiting, answer)


def _settle(futures: list[asyncio.Future[Answer]], answer: Answer) -> None:
    for future in futures:
        # Cancelled, or given up at its limit.
        if not future.done():
            future.set_result(answer)
