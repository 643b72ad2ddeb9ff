"""Views of a workspace for checkers, whose cost follows what changed.

Enters: a workspace. Leaves: a `View` each time, the same as one that is made anew. Refuses: to keep anything on a disk, and a
lake that knows less than it did: a folder that is not mounted reads as an empty one, and all quotas would be full again.

The first view is made of everything. Later ones take over each tenant's figures but of those who
- have an event that one of the two cuts has and the other has not (metering.changes);
- come to an instant at which something changes by itself: a reset, a beginning, an end, an event dated ahead;
- cannot be said to stand still: levels over time, hard limits that carry something over a reset.
They are worked out again, by the same code. Another catalog makes everything anew.
"""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from entitlements.view import View
from metering.changes import changed_tenants, register_cut
from metering.clock import from_us
from metering.engine import open_engine, read_sql
from metering.errors import LakeUnavailable
from rating.entitled import INSTANT
from tallybook.catalog_history import last_revision
from tallybook.entitlements import Entitlements

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from datetime import datetime

    from entitlements.view import Rule
    from metering.clock import Clock
    from metering.usage import Snapshot
    from rating.grants import TenantGrant
    from rating.plans import Subscription
    from tallybook.catalog_entries import Catalog
    from tallybook.workspace import Workspace

# With more than one in so many to be worked out again, all are: that is quicker then.
PART = 5


@dataclass(frozen=True, slots=True)
class _Kept:
    """A view that was made, when, and the snapshot it was made from."""

    view: View
    at: datetime
    snapshot: Snapshot


class LiveView:
    """The views of one catalog over a workspace. For one thread at a time.

    A read that raises changes nothing: the next one makes up for it.
    """

    def __init__(self, workspace: Workspace, catalog: Catalog) -> None:
        self._workspace = workspace
        self._terms = catalog.terms()
        self._subscriptions: dict[str, list[Subscription]] = {}
        for subscription in self._terms.subscriptions:
            self._subscriptions.setdefault(subscription.tenant, []).append(subscription)
        self._all_grants = catalog.grants
        self._grants: dict[str, list[TenantGrant]] = {}
        for grant in catalog.grants:
            self._grants.setdefault(grant.tenant, []).append(grant)
        self._kept: _Kept | None = None
        self._rules: dict[tuple[object, ...], Mapping[str, Rule]] = {}
        self._changes: dict[datetime, set[str]] = {}
        self._instants: list[datetime] = []
        # Who came to such an instant and was not worked out since.
        self._due: set[str] = set()
        self._restless: set[str] = set()
        # How many tenants the last read worked out.
        self.worked_out = 0
        # The last segment that was read of each producer.
        self.cut: Mapping[str, int] = {}

    def read(self) -> View:
        """Return the view as of now. Raises what the books and the lake raise while they are away."""
        kept, now = self._kept, self._workspace.now
        evidence = self._workspace.evidence()
        self._refuse_less(dict(evidence[1].cut))
        if kept is None or now < kept.at:
            return self._make_all(now, evidence)
        changed = changed_tenants(evidence[0], kept.snapshot, evidence[1])
        self._pass_instants(now)
        wanted = {name for name in changed if name in self._subscriptions} | self._due | self._restless
        if len(wanted) * PART > len(self._subscriptions):
            return self._make_all(now, evidence)
        view = kept.view if not wanted else self._make_part(now, evidence, kept.view, wanted)
        self.worked_out = len(wanted)
        return self._keep(View(view.tenants, dict(evidence[1].cut), now), now, evidence[1])

    def _refuse_less(self, cut: Mapping[str, int]) -> None:
        """Raise LakeUnavailable where segments are gone that were read before: a lake only grows."""
        lost = [producer for producer, segment in self.cut.items() if cut.get(producer, 0) < segment]
        if lost:
            raise LakeUnavailable(
                f"the lake {self._workspace.layout.lake} has lost segments of {len(lost)} producers that were read "
                "before; mount or restore it, or (if they are to be gone) start this process again",
                producers=lost,
            )
        self.cut = cut

    def _make_all(self, now: datetime, evidence: tuple[list[str], Snapshot]) -> View:
        made = Entitlements.of_terms(self._workspace, now, self._terms, self._all_grants, evidence)
        made.rules_held = self._rules
        view, later = made.view(), _later(now, evidence)
        # Nothing raises from here on.
        self._changes, self._instants, self._due, self._restless = {}, [], set(), set()
        self._take_over(made, later, self._subscriptions.keys())
        self.worked_out = len(self._subscriptions)
        return self._keep(view, now, evidence[1])

    def _make_part(self, now: datetime, evidence: tuple[list[str], Snapshot], before: View, wanted: set[str]) -> View:
        held = [one for name in wanted for one in self._subscriptions[name]]
        terms = replace(self._terms, subscriptions=sorted(held, key=lambda one: one.id))
        grants = [one for name in sorted(wanted) for one in self._grants.get(name, ())]
        made = Entitlements.of_terms(self._workspace, now, terms, grants, evidence, is_part=True)
        made.rules_held = self._rules
        view, later = made.view(), _later(now, evidence)
        # Nothing raises from here on. The view that is in use stays as it is.
        tenants = {**before.tenants, **view.tenants}
        for name in wanted - view.tenants.keys():
            tenants.pop(name, None)
        self._due = set()
        self._restless -= wanted
        self._take_over(made, later, wanted)
        return View(tenants)

    def _keep(self, view: View, now: datetime, snapshot: Snapshot) -> View:
        self._kept = _Kept(view, now, snapshot)
        return view

    def _pass_instants(self, now: datetime) -> None:
        """Take who came to an instant at which something changes by itself to those who are due."""
        while self._instants and self._instants[0] <= now:
            self._due |= self._changes.pop(heapq.heappop(self._instants))

    def _take_over(self, made: Entitlements, later: Iterable[tuple[str, datetime]], names: Container[str]) -> None:
        """Note of those who were worked out when they are due again."""
        self._restless |= made.restless
        for at, due in made.changes.items():
            self._note(at, due)
        for name, at in later:
            if name in names:
                # An event at an instant is used just after it.
                self._note(at + INSTANT, [name])

    def _note(self, at: datetime, names: Iterable[str]) -> None:
        if at not in self._changes:
            heapq.heappush(self._instants, at)
            self._changes[at] = set()
        self._changes[at].update(names)


def _later(now: datetime, evidence: tuple[list[str], Snapshot]) -> list[tuple[str, datetime]]:
    """Return whose events are dated ahead, and when the first of each is. Of those whom a correction takes out, too."""
    # By the day in the path, not by asking the lake again: it may have been compacted meanwhile.
    files = [file for file in evidence[0] if Path(file).parent.name >= f"event_date={now.astimezone(UTC):%Y-%m-%d}"]
    if not files:
        return []
    engine = open_engine(files)
    try:
        register_cut(engine, "cut", evidence[1])
        engine.read_parquet(files, hive_partitioning=False).create_view("data_file")
        engine.execute(read_sql("metering", "stored_event"))
        rows = engine.execute(read_sql("entitlements", "later_event"), {"after": now}).fetchall()
    finally:
        engine.close()
    return [(name, from_us(first_at_us)) for name, first_at_us in rows]


class WorkspaceSource:
    """Views of a workspace, for a `Checker`. Opened when first read, anew in each process."""

    def __init__(self, root: str, *, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock
        self._opened: tuple[int, Workspace] | None = None
        # A revision never changes, so it is read once.
        self._live: tuple[int | None, LiveView] | None = None

    def read(self) -> View:
        """Return the view as of now. Raises what the books and the lake raise while they are away."""
        from tallybook.workspace import Workspace

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened, self._live = (os.getpid(), Workspace(self._root, clock=self._clock)), None
        workspace = self._opened[1]
        last = last_revision(workspace.books)
        if self._live is None or self._live[0] != last:
            catalog = workspace.catalog()
            live = LiveView(workspace, catalog)
            live.cut = {} if self._live is None else self._live[1].cut
            self._live = catalog.revision, live
        return self._live[1].read()

    def close(self) -> None:
        """Give back the connections of the books; another read opens them again."""
        opened, self._opened = self._opened, None
        # Those of a parent are not ours to close.
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()
