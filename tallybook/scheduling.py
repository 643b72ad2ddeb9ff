"""The scheduler that stays: APScheduler wakes every step when it is due, and the books say whether there is something to do.

Enters: the folder of a workspace. Leaves: when it is told to stop, after the steps in hand. Refuses: to keep anything in
APScheduler. Its jobs are in memory and hold the name of a step; what is done, and up to when, is in the books
(tallybook.run_books), so that a wake-up that came late, twice or not at all changes nothing but the time of the work.

Told to stop, it lets every step in hand finish and no further one begin.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from tallybook.run_telemetry import Telemetry
from tallybook.runner import Runner
from tallybook.steps import STEPS
from tallybook.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from tallybook.run_books import Run
    from tallybook.triggers import Trigger

THREADS = 4
PULSE = timedelta(seconds=10)


class Wake(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires when a step is due, and at least every pulse: for what failed, what waited, and what another host left."""

    def __init__(self, trigger: Trigger, pulse: timedelta) -> None:
        self._trigger = trigger
        self._pulse = pulse

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        """Return the next instant to wake at."""
        utc = now.astimezone(UTC)
        return min(self._trigger.next_after(utc), utc + self._pulse)


class Scheduler:
    """The jobs of one process. Each thread has a workspace and a runner of its own; they share one name and one stop."""

    def __init__(
        self,
        root: Path,
        *,
        only: Collection[str] = (),
        pulse: timedelta = PULSE,
        on_run: Callable[[Run], object] = lambda _run: None,
        on_error: Callable[[str, Exception], object] = lambda _step, _error: None,
    ) -> None:
        self.stopping = threading.Event()
        self.last_error: str | None = None
        self._root, self.only, self._pulse = root, only, pulse
        self._on_run, self._on_error = on_run, on_error
        self._own = threading.local()
        self._opened = ExitStack()
        self._lock = threading.Lock()
        self._telemetry = Telemetry()
        self._first = self._runner()
        self.holder = self._first.holder

    def run(self) -> None:
        """Run until `stopping` is set, then let every step in hand finish."""
        # It warns at every pulse that a long step is still at it, which is no news.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        jobs = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(THREADS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )
        now = datetime.now(UTC)
        for step in STEPS:
            trigger = self._first.rules.run.trigger_of(step.name)
            if trigger is not None and (not self.only or step.name in self.only):
                jobs.add_job(self._wake, Wake(trigger, self._pulse), args=[step.name], id=step.name, next_run_time=now)
        jobs.start()
        try:
            self.stopping.wait()
        finally:
            self.stopping.set()
            jobs.shutdown(wait=True)
            self._opened.close()

    def _wake(self, step: str) -> None:
        try:
            self._runner().run_step(step)
            self.last_error = None
        except Exception as error:  # noqa: BLE001 - the books may be away: it is said, and the next pulse tries again
            self.last_error = self._first.workspace.settings.without_secrets(f"{type(error).__name__}: {error}")
            self._on_error(step, error)

    def _runner(self) -> Runner:
        made: Runner | None = getattr(self._own, "runner", None)
        if made is None:
            with self._lock:
                workspace = self._opened.enter_context(Workspace(self._root))
            made = self._own.runner = Runner(
                workspace,
                only=self.only,
                holder=getattr(self, "holder", None),
                stopping=self.stopping,
                telemetry=self._telemetry,
                on_run=self._on_run,
            )
        return made
