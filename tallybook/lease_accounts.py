"""Leases accounted for: what dead processes held is what they metered, and the rest returns.

Enters: a workspace: its journal, lake and books. Leaves: leases of dead producers settled, and windows that are over marked
with what usage says of them. Idempotent; for any number of hosts at once. Refuses: to guess who is dead.

A holder is named `JOURNAL/PRODUCER`. Its journal's host alone can tell that it is dead: the producer's folder is gone when
nobody holds its lock and all it recorded is in the lake. Then what it metered is known for ever. Of that, what it said it
spent of other leases is taken off; the rest, at most the lease, was spent of this one. What it recorded beside its leases
makes that more, never less. A producer of which something is in quarantine or among the dead letters has not said all, and
its leases go on counting in full, as do those of a host that is gone: until the window has been over for `GRACE`.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from entitlements.decisions import BILLIONTHS, from_billionths, to_billionths
from entitlements.leases import LeaseBook
from entitlements.view import fold_of
from metering.clock import EPOCH
from metering.engine import open_engine, read_sql
from metering.usage import load_evidence, register
from tallybook.entitlements import Entitlements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from entitlements.leases import OpenLease, QuotaKey
    from metering.layout import Layout
    from metering.recorder import Recorder
    from rating.terms import Terms
    from tallybook.workspace import Workspace

# Usage of a window may still be on its way from another host for so long after its end.
GRACE = timedelta(days=7)
NAME_FILE = "name"


@dataclass(frozen=True, slots=True)
class OverUse:
    """More was metered in a window than leases were granted: let through while the books were away, or beside the quota."""

    key: QuotaKey
    granted: Decimal
    metered: Decimal


@dataclass(frozen=True, slots=True)
class LeaseAccounts:
    """What one pass did. `settled` leases of dead producers; `waiting` expired leases of which nobody knows yet.

    `windows` that were marked with what usage said; `over_used` those of which more was metered than granted.
    """

    settled: int
    waiting: int
    windows: int
    over_used: tuple[OverUse, ...]


def journal_name(layout: Layout) -> str:
    """Return the name of this host's journal, made when it is first asked for. The same for all processes."""
    path = layout.journal / NAME_FILE
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii")
    mine = path.with_name(f"{NAME_FILE}.{os.getpid()}.part")
    mine.write_text(f"j-{secrets.token_hex(8)}", encoding="ascii")
    # Whoever links first has named it; nobody ever reads half of a name.
    with suppress(FileExistsError):
        path.hardlink_to(mine)
    mine.unlink()
    return path.read_text(encoding="ascii")


def holder_of(recorder: Recorder) -> Callable[[], str]:
    """Return what names this process as a holder of leases: by the producer that records what it spends."""

    def name() -> str:
        position = recorder.position(opens=True)
        return "" if position is None else f"{journal_name(recorder.layout)}/{position[0]}"

    return name


def account_leases(workspace: Workspace) -> LeaseAccounts:
    """Settle what dead producers of this host held, and mark windows that are over with what usage says. Idempotent."""
    book = LeaseBook(workspace.books, workspace.clock)
    terms = workspace.terms_or_empty()
    # First whose folders are gone, then what the lake holds: all that they recorded is in it by then.
    expired = book.expired(f"{journal_name(workspace.layout)}/")
    dead = [lease for lease in expired if _is_gone(workspace.layout, _producer(lease))]
    settled = _settle(workspace, book, terms, dead) if dead else 0
    over = [
        (key, granted)
        for key, granted, metered in book.over(EPOCH, workspace.now - GRACE)
        if metered is None and key.end is not None
    ]
    over_used = _mark(workspace, book, terms, over) if over else []
    return LeaseAccounts(settled, len(expired) - settled, len(over), tuple(over_used))


def _producer(lease: OpenLease) -> str:
    return lease.holder.partition("/")[2]


def _is_gone(layout: Layout, producer_id: str) -> bool:
    return not (layout.journal / producer_id).exists() and not (layout.quarantine / producer_id).exists()


def _settle(workspace: Workspace, book: LeaseBook, terms: Terms, leases: Sequence[OpenLease]) -> int:
    incomplete = set(workspace.lake.dead_letters()["producer_id"].to_pylist())
    meters = hard_meters(terms)
    known = []
    # The newest window first: of one that is over nothing can be granted any more, of one that goes on nothing may be that
    # somebody used. Where a holder had leases of two, nobody knows which of them its events were spent of.
    for lease in sorted(leases, key=lambda one: one.key.start, reverse=True):
        meter = meters.get((lease.key.tenant, lease.key.feature))
        if meter is not None and _producer(lease) not in incomplete:
            known.append((lease, meter))
    metered = _metered_by(workspace, [(_producer(lease), lease.key.tenant, meter) for lease, meter in known])
    for (lease, meter), (events, quantity) in zip(known, metered, strict=True):
        consumed = events * BILLIONTHS if fold_of(terms.meters[meter]) == "counts" else to_billionths(quantity)
        others = book.settled(lease.holder, lease.key.tenant, lease.key.feature)
        book.settle(lease.key, lease.lease_id, min(lease.quantity, max(0, consumed - others)))
    return len(known)


def hard_meters(terms: Terms) -> dict[tuple[str, str], str]:
    """Return the meter of every hard limit that a tenant has or had, by tenant and feature."""
    return {
        (subscription.tenant, one.feature): one.meter
        for subscription in terms.subscriptions
        for one in (*terms.plan_of(subscription).entitlements, *subscription.entitlements)
        if one.is_hard and one.meter is not None
    }


def _metered_by(workspace: Workspace, asked: Sequence[tuple[str, str, str]]) -> list[tuple[int, Decimal]]:
    """Return events and quantity that each (producer, tenant, meter) recorded, whatever became of them later."""
    import pyarrow as pa

    files, snapshot = workspace.evidence()
    engine = open_engine(files)
    try:
        load_evidence(engine, files, snapshot)
        names = ("producer_id", "tenant_id", "meter")
        columns = {name: pa.array([row[at] for row in asked], pa.string()) for at, name in enumerate(names)}
        columns["question"] = pa.array(range(len(asked)), pa.int64())
        register(engine, "lease_question", pa.table(columns))
        rows = engine.execute(read_sql("entitlements", "lease_metered")).fetchall()
    finally:
        engine.close()
    answers = {question: (events, quantity) for question, events, quantity in rows}
    return [answers.get(question, (0, from_billionths(0))) for question in range(len(asked))]


def _mark(
    workspace: Workspace, book: LeaseBook, terms: Terms, over: Sequence[tuple[QuotaKey, Decimal]]
) -> list[OverUse]:
    meters = hard_meters(terms)
    known = [(key, meters[key.tenant, key.feature]) for key, _ in over if (key.tenant, key.feature) in meters]
    used = Entitlements(workspace).used(
        [(key.tenant, meter, key.start, key.end) for key, meter in known if key.end is not None]
    )
    found = []
    for (key, _), metered in zip(known, used, strict=True):
        told = book.reconcile(key, metered)
        if told.ungranted > 0:
            found.append(OverUse(key, told.granted, told.metered))
    return found
