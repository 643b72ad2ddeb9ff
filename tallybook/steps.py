"""The steps that run by themselves, as a table: what each does, when, over which periods, and what it waits for.

Enters: a workspace, a place (a host's journal, an adapter, or nothing) and a period. Leaves: one sentence of what was done.
Refuses: to remember anything. Each is one call of the workspace that is idempotent, with a command of its own for who has a
scheduler of another kind. The names stand in the books and in settings: they are never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from metering.clock import EPOCH, iso_utc
from metering.numbers import exact_sum, plain
from metering.periods import add_months
from rating.close import read_closes
from tallybook.books import reading
from tallybook.run_books import forget_runs
from tallybook.triggers import HOUR, floor_month, month_from

if TYPE_CHECKING:
    from rating.invoice import Invoice
    from tallybook.workspace import Workspace

# What is at a provider by the hour or by the window, told when it is over.
USAGE_GRAINS = frozenset({"hour", "interval"})
RUNS_KEPT = timedelta(days=35)
Grain = Literal["pass", "hour", "month"]
Scope = Literal["books", "host", "adapter"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a step did, in a sentence. `is_finding`: somebody should look."""

    detail: str
    is_finding: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table.

    `grain`: a pass takes what there is, however much time it missed; hours and months are done one by one, in order.
    `trigger`: when, unless the settings say otherwise. `needs` must have been done for the same time, `after` for all time
    before; `follows` makes a pass due as soon as one of them did something new. `scope`: once for the books, on every host
    for its own journal, or for every adapter by itself; `option`: only those whose section of the settings says it.
    """

    name: str
    does: str
    grain: Grain
    trigger: str
    command: str
    do: Callable[[Workspace, str, str], Done]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    scope: Scope = "books"
    option: str | None = None


def ship(workspace: Workspace, _place: str, _period: str) -> Done:
    """Bring the journal of this host to the lake."""
    done = workspace.ship()
    said = f"{done.rows:,} rows of {done.segments:,} segments"
    troubles = [*(f"quarantined: {one}" for one in done.quarantined), *(f"refused: {one}" for one in done.refused)]
    return Done("; ".join([said, *troubles]), bool(troubles))


def maintain(workspace: Workspace, _place: str, _period: str) -> Done:
    """Keep the files of the lake few, look for duplicates in what is new, account for leases, forget old runs of passes."""
    from metering.duplicates import find_duplicates

    done = workspace.maintain()
    duplicates = find_duplicates(workspace.lake)
    leases = workspace.account_leases()
    passes = [step.name for step in STEPS if step.grain == "pass"]
    forget_runs(workspace.books, passes, workspace.now - RUNS_KEPT)
    upkeep = f"{done.rewritten:,} files rewritten, {done.deleted:,} deleted, {leases.settled:,} leases settled"
    return Done(f"{upkeep}, {duplicates.rows:,} duplicates, {duplicates.conflicts:,} of them conflicts")


def listen(workspace: Workspace, _place: str, _period: str) -> Done:
    """Take what a marketplace says of buyers and licences, and import anew where it asks for that."""
    from tallybook.marketplace import listen_once

    taken, done = listen_once(workspace)
    left_out = () if done is None else done.left_out
    said = [f"{taken.new:,} new notices", *taken.refused, *left_out]
    return Done("; ".join(said), bool(taken.refused or left_out))


def deliver_hours(workspace: Workspace, place: str, period: str) -> Done:
    """Tell one hour to a marketplace, or to the meters of a provider."""
    return _deliver(workspace, place, datetime.fromisoformat(period) + HOUR)


def deliver(workspace: Workspace, place: str, _period: str) -> Done:
    """Send what is new of the books, and what waits, to one provider."""
    tells_hours = workspace.settings.run.trigger_of("deliver_hours") is not None
    return _deliver(workspace, place, EPOCH if tells_hours else None)


def _deliver(workspace: Workspace, adapter: str, usage_until: datetime | None) -> Done:
    (done,) = workspace.deliver([adapter], usage_until=usage_until)
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(done.delivered.states.items()) if number)
    said = f"{done.enqueued.new:,} new; {states or 'nothing sent'}"
    if done.delivered.is_away:
        said += "; the provider seems to be away"
    errors = "".join(f"; {type(one).__name__}: {one}" for one in done.delivered.errors[:1])
    return Done(said + errors, bool(errors or done.enqueued.parked or done.delivered.states["parked"]))


def thresholds(workspace: Workspace, _place: str, _period: str) -> Done:
    """Invoice the accounts that reached a threshold in the open month."""
    if not any(account.invoice_thresholds for account in workspace.catalog_or_empty().accounts):
        return Done("no account has thresholds")
    invoiced = workspace.invoice_thresholds()
    if invoiced.invoices:
        workspace.publish(f"{workspace.now:%Y-%m}")
    return Done(f"{len(invoiced.invoices):,} invoices")


def cut(workspace: Workspace, _place: str, _period: str) -> Done:
    """Invoice what is due of the open month so far; a month that is over is left to its close."""
    name, _ = month_from(floor_month(workspace.now))
    if workspace.end_of(name) <= workspace.now:
        return Done(f"{name} is over; its close is next")
    return _invoice(workspace, name)


def rate(workspace: Workspace, _place: str, _period: str) -> Done:
    """Rate the open month as far as it is known, for finance to look at: drafts, which book nothing."""
    name, _ = month_from(floor_month(workspace.now))
    if workspace.end_of(name) <= workspace.now:
        return Done(f"{name} is over; its close is next")
    made = workspace.invoice(name).invoices
    return Done(f"{name} so far: {len(made):,} drafts{_totals(made)}")


def close(workspace: Workspace, _place: str, period: str) -> Done:
    """Pin the snapshot and the catalog that a month is invoiced from."""
    done = workspace.close_period(period)
    return Done(f"{done.close_id} of {iso_utc(done.as_of)}, catalog revision {done.catalog_revision}")


def invoice(workspace: Workspace, _place: str, period: str) -> Done:
    """Book and publish the invoices of a month that is closed."""
    return _invoice(workspace, period)


def _invoice(workspace: Workspace, period: str) -> Done:
    made = workspace.invoice(period, final=True).invoices
    if not made:
        return Done("no invoices")
    workspace.publish(period)
    return Done(f"{len(made):,} invoices{_totals(made)}")


def _totals(made: Sequence[Invoice]) -> str:
    """Return what documents ask for, by currency."""
    totals = {currency: exact_sum([one.amount_due for one in made if one.currency == currency]) for currency in
              sorted({one.currency for one in made})}  # fmt: skip
    return "".join(f", {plain(total)} {name}" for name, total in totals.items())


def reconcile(workspace: Workspace, _place: str, period: str) -> Done:
    """Reconcile a month after its invoices were delivered, and keep what is found."""
    report = workspace.report(period)
    is_conserved = report.statement.is_conserved
    said = "conserved" if is_conserved else "NOT conserved"
    return Done(f"{period}: {said}, {len(report.unsettled):,} findings", not is_conserved)


def reconcile_open(workspace: Workspace, place: str, _period: str) -> Done:
    """Reconcile the month that is open, while what is found can still be mended; and the one before, once it is invoiced: its
    payments, the lists of its providers and what came late are known by and by."""
    start = floor_month(workspace.now)
    done = [reconcile(workspace, place, month_from(start)[0])]
    before, wall = month_from(add_months(start, -1))
    with reading(workspace.books) as connection:
        closes = read_closes(connection, wall=wall)
    if any(one.is_complete and one.invoices_made and not one.is_draft for one in closes):
        done.append(reconcile(workspace, place, before))
    return Done("; ".join(one.detail for one in done), any(one.is_finding for one in done))


def alerts(workspace: Workspace, _place: str, _period: str) -> Done:
    """Raise what the alert rules reach, and tell the receiver. Raises what the first of its failures was, after all others."""
    done = workspace.alerts()
    if done.failures:
        raise done.failures[0]
    return Done(f"{len(done.raised):,} raised, {done.delivered:,} delivered, {done.pending:,} wait")


_MONTHLY = "months, one by one"
STEPS = (
    Step("ship", "the journal of this host into the lake", "pass", "every minute", "ship", ship, scope="host"),
    Step("maintain", "few files, leases of dead processes, old runs", "pass", "hourly at :40", "maintain", maintain,
         scope="host"),
    Step("listen", "notices of a marketplace, and what buyers bought", "pass", "every 5 minutes", "marketplace listen",
         listen, scope="adapter", option="queue"),
    Step("deliver_hours", "closed hours to marketplaces and meters", "hour", "hours, one by one", "deliver",
         deliver_hours, needs=("ship",), scope="adapter"),
    Step("thresholds", "invoices of accounts that reached a threshold", "pass", "hourly at :05", "thresholds",
         thresholds, needs=("ship", "close", "invoice")),
    Step("rate", "the open month so far, as drafts", "pass", "daily at 03:00", "invoice", rate,
         needs=("ship", "close", "invoice")),
    Step("cut", "invoices of the open month so far", "pass", "off", "invoice --final", cut,
         needs=("ship", "close", "invoice")),
    Step("close", "a month that is over, and its grace: what its invoices are made from", "month", _MONTHLY, "close",
         close, needs=("ship",), after=("invoice",)),
    Step("invoice", "book and publish the invoices of a closed month", "month", _MONTHLY, "invoice --final", invoice,
         needs=("close",)),
    Step("deliver", "invoices, and what waits, to every provider", "pass", "every 5 minutes", "deliver", deliver,
         follows=("invoice", "thresholds", "cut"), scope="adapter"),
    Step("reconcile", "a month that was invoiced and delivered", "month", _MONTHLY, "reconcile", reconcile,
         needs=("invoice", "deliver")),
    Step("reconcile_open", "the open month, and the one before it", "pass", "daily at 04:00", "reconcile",
         reconcile_open, needs=("ship",)),
    Step("alerts", "thresholds of quotas and of money", "pass", "every 5 minutes", "alerts", alerts, needs=("ship",)),
)  # fmt: skip
BY_NAME = {step.name: step for step in STEPS}
