"""Runs what is due: claims a step in the books, does it, writes down what became of it.

Enters: a workspace. Leaves: runs in the books, markers that moved. Refuses: to let one step that fails hold up those that do
not need it, and to remember anything: who comes next, on whatever host, goes on from the books.

Two runners at once share the work: of two that see the same marker one gets the claim. A runner that is killed holds a step for
the time of its lease, and no longer; the step is then done again from its beginning, which every step stands. A step that fails
is tried again after a random time that grows to an hour.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from billing_adapters.errors import AdapterMisconfigured
from metering.backoff import full_jitter_s
from tallybook.books import reading
from tallybook.due import Markers, Next, Rules
from tallybook.errors import BadSettings
from tallybook.lease_accounts import journal_name
from tallybook.metered_hours import SETTLE_MINUTES, settle_of
from tallybook.run_books import Marker, Run, begin_marker, claim, fail, finish, read_markers, renew
from tallybook.run_telemetry import Telemetry
from tallybook.steps import BY_NAME, STEPS, USAGE_GRAINS, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from tallybook.workspace import Workspace

LEASE = timedelta(minutes=5)
RETRY_BASE_S, RETRY_CAP_S, RETRY_MIN_S = 60.0, 3600.0, 5.0
END_KNOWN_FOR = timedelta(minutes=10)
SUCCEEDED = ("done", "finding")


@dataclass(frozen=True, slots=True)
class Standing:
    """How one step stands at one place: its marker, what is next of it, and what that waits for (None: nothing)."""

    step: Step
    marker: Marker
    coming: Next | None
    obstacle: str | None

    def lag(self, now: datetime) -> timedelta:
        """Return for how long it has been due."""
        return timedelta(0) if self.coming is None else max(now - self.coming.since, timedelta(0))


class Runner:
    """Runs the steps of one workspace, one at a time. Any number of runners may run at once, in any number of processes.

    `only`: the steps that this runner does; all by default. `stopping`, once it is set, lets no further step begin.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        only: Collection[str] = (),
        holder: str | None = None,
        stopping: threading.Event | None = None,
        lease: timedelta = LEASE,
        telemetry: Telemetry | None = None,
        chance: Callable[[], float] = random.random,
        on_run: Callable[[Run], object] = lambda _run: None,
    ) -> None:
        self.workspace = workspace
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.stopping = stopping or threading.Event()
        self._steps = [step for step in STEPS if not only or step.name in only]
        self._lease = lease
        self._telemetry = telemetry or Telemetry()
        self._chance = chance
        self._on_run = on_run
        self._ends: dict[str, tuple[datetime, datetime]] = {}
        self._takes_usage: dict[str, bool] = {}
        settle = max((_settle_of(section) for section in self._sections.values()), default=timedelta(0))
        self.rules = Rules(workspace.settings.run, settle, self._end_of)

    @property
    def _sections(self) -> dict[str, dict[str, Any]]:
        return self.workspace.settings.delivery

    # --- what there is ------------------------------------------------------------------------------------------------

    def standings(self, *, begins: bool = True) -> list[Standing]:
        """Return how every step stands, in the order of the table. `begins` the markers of steps that never ran."""
        now = self.workspace.now
        if begins:
            markers = self._markers()
        else:
            with reading(self.workspace.books) as connection:
                markers = read_markers(connection)
        return [
            self._standing(step, place, markers, now)
            for step in self._steps
            for place in self._places(step)
            if (step.name, place) in markers
        ]

    def _standing(self, step: Step, place: str, markers: Markers, now: datetime) -> Standing:
        marker = markers[step.name, place]
        coming = self.rules.next_of(step, marker, markers, now)
        obstacle = "off" if coming is None else self.rules.obstacle(step, coming, marker, markers, now)
        return Standing(step, marker, coming, obstacle)

    def _places(self, step: Step) -> list[str]:
        if step.scope == "host":
            return [journal_name(self.workspace.layout)]
        if step.scope == "books":
            return [""]
        named = [name for name, said in sorted(self._sections.items()) if step.option is None or step.option in said]
        return [name for name in named if step.grain != "hour" or self._tells_usage(name)]

    def _tells_usage(self, adapter: str) -> bool:
        """Return whether an adapter takes usage by the hour or the window. One that cannot be made may: its step will fail."""
        from tallybook.delivering import adapter_of

        if adapter not in self._takes_usage:
            try:
                grain = adapter_of(self.workspace, adapter).capabilities.grain
            except (AdapterMisconfigured, BadSettings):
                return True
            self._takes_usage[adapter] = grain in USAGE_GRAINS
        return self._takes_usage[adapter]

    def _markers(self) -> dict[tuple[str, str], Marker]:
        """Return all markers; those of steps that never ran are begun."""
        with reading(self.workspace.books) as connection:
            markers = read_markers(connection)
        wanted = [(step, place) for step in STEPS if not self.rules.run.is_off(step.name) for place in
                  self._places(step)]  # fmt: skip
        missing = [(step, place) for step, place in wanted if (step.name, place) not in markers]
        for step, place in missing:
            begin_marker(self.workspace.books, step.name, place, self.rules.first_until(step, self.workspace.now))
        if not missing:
            return markers
        with reading(self.workspace.books) as connection:
            return read_markers(connection)

    def _end_of(self, period: str) -> datetime:
        # Asked anew after a while, because subscriptions come and go; a million of them take their time.
        now = self.workspace.now
        known = self._ends.get(period)
        if known is None or now - known[1] > END_KNOWN_FOR:
            self._ends[period] = known = self.workspace.end_of(period), now
        return known[0]

    # --- doing it -----------------------------------------------------------------------------------------------------

    def run_due(self) -> list[Run]:
        """Do all that is due now, in the order of the table, until nothing is left of it; return the runs.

        What comes due meanwhile is for the next call. Periods go through all their steps before the next one begins.
        """
        as_of = self.workspace.now
        made: list[Run] = []
        while not self.stopping.is_set():
            ran: list[Run] = []
            markers = self._markers()
            for step, place in self._all_places():
                if once := self._once(step, place, as_of, markers):
                    ran += once
                    markers = self._markers()
            made += ran
            if not any(run.outcome in SUCCEEDED for run in ran):
                break
        return made

    def _all_places(self) -> list[tuple[Step, str]]:
        return [(step, place) for step in self._steps for place in self._places(step)]

    def run_step(self, name: str) -> list[Run]:
        """Do all that is due of one step, in order."""
        made: list[Run] = []
        as_of = self.workspace.now
        for place in self._places(BY_NAME[name]):
            while ran := self._once(BY_NAME[name], place, as_of, self._markers()):
                made += ran
                if ran[0].outcome not in SUCCEEDED:
                    break
        return made

    def _once(self, step: Step, place: str, as_of: datetime, markers: Markers) -> list[Run]:
        """Do the next period of a step if it is due; an empty list: it is not, or somebody else does it.

        What the markers say may be old by now: the claim succeeds only if that of this step is still the same.
        """
        if self.stopping.is_set() or self.rules.run.is_off(step.name):
            return []
        standing = self._standing(step, place, markers, as_of)
        if standing.coming is None or standing.obstacle is not None:
            return []
        books, now = self.workspace.books, self.workspace.now
        run = claim(books, standing.marker, standing.coming.period, self.holder, now, self._lease)
        if run is None:
            return []
        done = self._do(step, standing, run)
        self._on_run(done)
        return [done]

    def _do(self, step: Step, standing: Standing, run: Run) -> Run:
        books, coming = self.workspace.books, standing.coming
        if coming is None:
            return run
        with self._telemetry.run(run) as seen, self._renewing(run):
            try:
                done = step.do(self.workspace, run.place, run.period)
            except Exception as error:  # noqa: BLE001 - whatever a step raises is written down, and others go on
                seen.detail = self.workspace.settings.without_secrets(f"{type(error).__name__}: {error}")
                failures = standing.marker.failures + 1
                seen.outcome = fail(books, run, self.workspace.now, failures, self._retry_at(failures), seen.detail)
            else:
                outcome = "finding" if done.is_finding else "done"
                seen.detail = self.workspace.settings.without_secrets(done.detail)
                seen.outcome = finish(books, run, self.workspace.now, coming.done_until, outcome, seen.detail)
        return replace(run, ended_at=self.workspace.now, outcome=seen.outcome, detail=seen.detail)

    def _retry_at(self, failures: int) -> datetime:
        wait_s = full_jitter_s(failures, self._chance, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
        return self.workspace.now + timedelta(seconds=max(wait_s, RETRY_MIN_S))

    @contextmanager
    def _renewing(self, run: Run) -> Iterator[None]:
        """Hold the claim for as long as the work takes."""
        is_over = threading.Event()

        def keep() -> None:
            while not is_over.wait(self._lease.total_seconds() / 3):
                try:
                    if not renew(self.workspace.books, run, self.workspace.now + self._lease):
                        return
                except Exception:  # noqa: BLE001, S112 - the books may be away for a moment; the lease is longer
                    continue

        thread = threading.Thread(target=keep, name=f"tallybook-lease-{run.step}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def _settle_of(section: Mapping[str, Any]) -> timedelta:
    try:
        return settle_of(section)
    except BadSettings:
        # Whatever delivers by this section says so, and fails; all others go on.
        return timedelta(minutes=SETTLE_MINUTES)
