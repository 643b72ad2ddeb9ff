"""What every tenant may use and what is left of it: entitlements, grants and usage, put together at an instant.

Enters: a workspace's catalog, its lake, an instant. Leaves: `EntitlementState`s that explain themselves; a `View` for
checkers; history in fixed windows. Refuses: to store anything; states are worked out from what was used and granted.

Only what matters is run through: a burn-down begins at the last reset after which nothing depends on what was before
(full quotas, no overage kept), else at the one before that, and so on. Usage is asked once for all tenants, one span per
stretch between two cuts. Meters whose usage cannot be added up stretch by stretch are ceilings: the aggregate of the whole
period so far against the grants that are active (price models, section 8).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from entitlements.burndown import ZERO, Grant, Run, Segment, State, Used, burn_down, burn_order
from entitlements.decisions import Decision, to_billionths
from entitlements.leases import LeaseBook
from entitlements.view import Figures, HardFigures, Held, Rule, View, fold_of
from metering.clock import EPOCH
from metering.measures import PLAIN
from metering.numbers import exact_sum
from metering.usage import Selector, Span, aggregate, open_evidence
from rating.errors import NotFound
from rating.terms import Terms
from tallybook.entitlement_terms import Entitled, resolve, templates

if TYPE_CHECKING:
    import duckdb

    from metering.catalog import Meter
    from metering.clock import Clock
    from metering.periods import BillingCycle
    from tallybook.catalog_entries import Catalog
    from tallybook.workspace import Workspace

# One question to usage: whose, of which meter, from when to when.
Asked = tuple[str, str, datetime, datetime]
# A window of a hard limit that is over, and what leases were granted in it.
Leased = tuple[datetime, datetime, Decimal]
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class GrantState:
    """One grant at an instant: what it was, and what is left of it. In units of the meter."""

    grant: Grant
    balance: Decimal


@dataclass(frozen=True, slots=True)
class EntitlementState:
    """One feature of one tenant at an instant. Quantities are in units of the meter and count since the last reset.

    `limit` None: no limit. `segments` are the stretches that led here, each with what was there, used and burned.
    """

    entitled: Entitled
    limit: Decimal | None = None
    used: Decimal = ZERO
    remaining: Decimal | None = None
    overage: Decimal = ZERO
    resets_at: datetime | None = None
    grants: tuple[GrantState, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def decision(self) -> Decision:
        """Return what a check for nothing in particular answers: is anything left?"""
        entitlement, source = self.entitled.entitlement, self.entitled.source
        names = {"tenant": self.entitled.tenant, "feature": entitlement.feature}
        if entitlement.type != "metered" or self.remaining is None:
            is_on = entitlement.enabled is not False
            value, reason = entitlement.typed_value, "granted" if is_on else "switched_off"
            return Decision.of(is_on, reason, used=self.used, value=value, source=source, **names)  # type: ignore[arg-type]
        left = self.remaining - self.overage
        more = {
            "limit": self.limit,
            "used": self.used,
            "remaining": left,
            "resets_at": self.resets_at,
            "source": source,
        }
        if self.remaining > 0:
            return Decision.of(True, "within_quota", **names, **more)  # type: ignore[arg-type]
        reason = "quota_exhausted" if entitlement.stops else "soft_limit_exceeded"
        return Decision.of(not entitlement.stops, reason, **names, **more)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One window [start, end) of a metered entitlement: what was used in it, and the balance at its start."""

    start: datetime
    end: datetime
    usage: Decimal
    balance_at_start: Decimal


class Entitlements:
    """What is known of entitlements at one instant over one workspace: its catalog as applied, its lake as of now."""

    def __init__(
        self,
        workspace: Workspace,
        at: datetime | None = None,
        *,
        tenant: str | None = None,
        catalog: Catalog | None = None,
    ) -> None:
        self.at = workspace.now if at is None else at
        catalog = workspace.catalog() if catalog is None else catalog
        terms = Terms.of(catalog.meters, catalog.plans, catalog.accounts, catalog.subscriptions)
        self.meters: Mapping[str, Meter] = terms.meters
        self._books = workspace.books
        # Read before the lake: a cut may be older than what is counted, never newer.
        self._files, self.snapshot = workspace.evidence()
        self._grants = [one for one in catalog.grants if tenant is None or one.tenant == tenant]
        held = [one for one in terms.subscriptions if tenant is None or one.tenant == tenant]
        self._terms = replace(terms, subscriptions=held)

    @cached_property
    def by_tenant(self) -> Mapping[str, list[Entitled]]:
        """What each tenant is entitled to at the instant."""
        return resolve(self._terms, self._grants, self.at)[0]

    def entitled(self, tenants: Container[str]) -> dict[str, list[Entitled]]:
        """Return what some tenants are entitled to at the instant."""
        held = [one for one in self._terms.subscriptions if one.tenant in tenants]
        return resolve(replace(self._terms, subscriptions=held), self._grants, self.at)[0]

    def states(self) -> list[EntitlementState]:
        """Return every feature of every tenant, by tenant and feature."""
        return self._states(self.by_tenant)

    def view(self) -> View:
        """Return what a checker needs, with the cut up to which usage is counted."""
        shared, others = templates(self._terms, self._grants, self.at)
        by_tenant, elsewhen = resolve(others, self._grants, self.at)
        tenants = self._alike(shared)
        rules: dict[tuple[object, ...], dict[str, Rule]] = {}
        for tenant, found in groupby(self._states(by_tenant), key=lambda one: one.entitled.tenant):
            states = list(found)
            key = tuple((one.entitled.source, one.entitled.entitlement) for one in states)
            if key not in rules:
                rules[key] = self._rules([one.entitled for one in states])
            figures = tuple(_figures(one, self.at) for one in states if one.entitled.entitlement.type == "metered")
            tenants[tenant] = Held(rules[key], figures, frozenset(elsewhen.get(tenant, ())))
        for tenant, features in elsewhen.items():
            tenants.setdefault(tenant, Held({}, (), frozenset(features)))
        return View(tenants, dict(self.snapshot.cut), self.at)

    def _states(self, by_tenant: Mapping[str, list[Entitled]]) -> list[EntitlementState]:
        entitled = [one for held in by_tenant.values() for one in held]
        plans = {id(one): self._plan(one) for one in entitled if one.entitlement.type == "metered"}
        usage = self._usage(asked for plan in plans.values() for asked in plan.asked)
        states = [
            EntitlementState(one) if one.entitlement.type != "metered" else plans[id(one)].state(usage, self.at)
            for one in entitled
        ]
        return sorted(states, key=lambda one: (one.entitled.tenant, one.entitled.entitlement.feature))

    def _alike(self, shared: Iterable[tuple[list[Entitled], list[str]]]) -> dict[str, Held]:
        """Return what tenants hold that differ in what they used only: full quotas minus use since the last reset."""
        tenants: dict[str, Held] = {}
        for held, names in shared:
            rules = self._rules(held)
            metered = [one for one in held if one.entitlement.type == "metered"]
            starts = [(one.entitlement.meter or "", one.last_reset(self.at)) for one in metered]
            asked = ((name, meter, start, self.at) for name in names for meter, start in starts if start < self.at)
            usage = self._usage(asked)
            unused = tuple(_figures_of(one, ZERO, self.at) for one in metered)
            nothing_used = Held(rules, unused)
            for name in names:
                used = [usage.get((name, meter, start, self.at)) for meter, start in starts]
                pairs = zip(metered, used, unused, strict=True)
                tenants[name] = (
                    Held(
                        rules, tuple(_figures_of(one, count, self.at) if count else none for one, count, none in pairs)
                    )
                    if any(used)
                    else nothing_used
                )
        return tenants

    def history(
        self, tenant: str, feature: str, start: datetime, until: datetime, every: BillingCycle
    ) -> list[HistoryRow]:
        """Return one row per whole window of a cycle in [start, until), for a metered entitlement that burns down.

        A grant effective exactly at a window's start is in its balance; one that begins inside shows in the next row.
        Raises NotFound where the tenant has no such entitlement at this instant, or its meter is a ceiling.
        """
        found = [one for one in self.by_tenant.get(tenant, ()) if one.entitlement.feature == feature]
        if (
            not found
            or found[0].entitlement.type != "metered"
            or _is_ceiling(self.meters[found[0].entitlement.meter or ""])
        ):
            raise NotFound(f"tenant {tenant!r} has no metered entitlement to {feature!r} with a history at {self.at}")
        first = every.number_at(start)
        number = first if every.boundary(first) == start else first + 1
        bounds = [every.boundary(number)]
        while (bound := every.boundary(len(bounds) + number)) <= min(until, self.at):
            bounds.append(bound)
        plan = _Plan(
            found[0], self.meters[found[0].entitlement.meter or ""], found[0].measured_from, bounds[-1], bounds
        )
        usage = self._usage(plan.asked)
        return [row for row in plan.rows(usage, bounds) if row.start >= found[0].measured_from]

    def used(self, asked: Sequence[Asked]) -> list[Decimal]:
        """Return what was used of each (tenant, meter, start, end), in units of the meter, as its meter aggregates."""
        usage = self._usage(asked)
        return [usage.get(question, ZERO) for question in asked]

    def _plan(self, entitled: Entitled) -> _Plan:
        meter = self.meters[entitled.entitlement.meter or ""]
        start = _begin(entitled, self.at)
        is_carried = entitled.entitlement.is_hard and start < entitled.last_reset(self.at)
        leased = self._leased.get((entitled.tenant, entitled.entitlement.feature), ()) if is_carried else ()
        return _Plan(entitled, meter, start, self.at, leased=leased)

    @cached_property
    def _leased(self) -> dict[tuple[str, str], list[Leased]]:
        """What leases were granted in windows that are over and not accounted for yet, by tenant and feature."""
        found: dict[tuple[str, str], list[Leased]] = {}
        for key, granted, metered in LeaseBook(self._books).over(EPOCH, self.at + INSTANT):
            if metered is None and key.end is not None:
                found.setdefault((key.tenant, key.feature), []).append((key.start, key.end, granted))
        return found

    def _rules(self, held: Iterable[Entitled]) -> dict[str, Rule]:
        rules, place = {}, 0
        for one in held:
            entitlement = one.entitlement
            fold = fold_of(self.meters[entitlement.meter].aggregation) if entitlement.meter else "hides"
            is_metered = entitlement.type == "metered"
            rules[entitlement.feature] = Rule.of(
                entitlement, one.source, fold=fold, place=place if is_metered else None
            )
            place += is_metered
        return rules

    def _usage(self, asked: Iterable[Asked]) -> dict[Asked, Decimal]:
        questions = sorted(set(asked))
        meters = {question[1] for question in questions}
        spans = [
            Span(number, tenant, meter, start, end) for number, (tenant, meter, start, end) in enumerate(questions)
        ]
        selectors = [
            Selector(name, name, name, meter.aggregation, meter.unique_attribute, measure=meter.measure)
            for name, meter in sorted(self.meters.items())
            if name in meters
        ]
        if not spans:
            return {}
        engine = open_evidence(self._files, self.snapshot)
        try:
            aggregate(engine, spans, selectors)
            return _answers(engine, questions)
        finally:
            engine.close()


class WorkspaceSource:
    """Views of a workspace, for a `Checker`. Opened when first read, anew in each process."""

    def __init__(self, root: str, *, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock
        self._opened: tuple[int, Workspace] | None = None
        # A revision never changes, so it is read once.
        self._catalog: Catalog | None = None

    def read(self) -> View:
        """Return the view as of now. Raises what the books and the lake raise while they are away."""
        import os

        from tallybook.catalog_history import last_revision
        from tallybook.workspace import Workspace

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), Workspace(self._root, clock=self._clock)
        workspace = self._opened[1]
        last = last_revision(workspace.books)
        if self._catalog is None or self._catalog.revision != last:
            self._catalog = workspace.catalog()
        return Entitlements(workspace, catalog=self._catalog).view()


class _Plan:
    """What to ask of usage for one metered entitlement from one instant to another, and what the answers mean."""

    def __init__(
        self,
        entitled: Entitled,
        meter: Meter,
        start: datetime,
        until: datetime,
        cuts: Iterable[datetime] = (),
        leased: Sequence[Leased] = (),
    ) -> None:
        self._entitled, self._meter, self._leased = entitled, meter, leased
        self._start, self._until = start, until
        self._resets = entitled.resets(start, until)
        self._is_ceiling = _is_ceiling(meter)
        if self._is_ceiling:
            self._start = entitled.last_reset(until)
            self._bounds = [self._start, until]
        else:
            inside = {*cuts, *self._resets, *_cuts(entitled.grants, start, until)}
            self._bounds = sorted({start, until, *(cut for cut in inside if start < cut < until)})

    @property
    def asked(self) -> list[Asked]:
        """Return the questions: each stretch by itself, or (for what is unique) from the last reset to its end."""
        tenant, meter = self._entitled.tenant, self._meter.name
        return [(tenant, meter, start, end) for start, end in self._spans() if start < end]

    def _spans(self) -> list[tuple[datetime, datetime]]:
        pairs = list(pairwise(self._bounds))
        if self._meter.aggregation != "unique_count":
            return pairs
        return [(self._since_reset(start), end) for start, end in pairs]

    def _since_reset(self, at: datetime) -> datetime:
        return max([self._start, *(reset for reset in self._resets if reset <= at)])

    def used(self, usage: Mapping[Asked, Decimal]) -> list[Used]:
        """Return what was used in each stretch, as of its beginning: nothing of the grants changes within one."""
        found: list[Used] = []
        before = ZERO
        for (start, end), at in zip(self._spans(), self._bounds, strict=False):
            quantity = usage.get((self._entitled.tenant, self._meter.name, start, end), ZERO)
            if self._meter.aggregation == "unique_count":
                # What was seen earlier in the period is not used again: the difference of two counts from its start.
                before = ZERO if start == at else before
                quantity, before = quantity - before, quantity
            found.append(Used(at, quantity))
        return self._with_leased(found)

    def _with_leased(self, used: list[Used]) -> list[Used]:
        """Add what leases were granted in windows that are over and usage does not say: it is used until it is accounted for.

        Else what is carried over a reset could be granted twice: once to a process whose usage has not arrived, or that
        died, and once more. It burns at the window's end, where what is carried is what is left.
        """
        more = []
        for start, end, granted in self._leased:
            inside = [one for one in used if start <= one.at < end]
            rest = granted - exact_sum(one.quantity for one in inside)
            if inside and rest > 0:
                more.append(Used(inside[-1].at, rest))
        return sorted([*used, *more], key=lambda one: one.at) if more else used

    def state(self, usage: Mapping[Asked, Decimal], at: datetime) -> EntitlementState:
        entitled = self._entitled
        resets_at = entitled.next_reset(at)
        if self._is_ceiling:
            return self._ceiling(usage, at, resets_at)
        used = self.used(usage)
        if not entitled.is_limited:
            since = entitled.last_reset(at)
            total = exact_sum(one.quantity for one in used if one.at >= since)
            return EntitlementState(entitled, used=total, resets_at=resets_at)
        run = self.run(used, at)
        end = run.state
        return EntitlementState(
            entitled,
            limit=end.available,
            used=end.usage,
            remaining=end.balance,
            overage=end.overage,
            resets_at=resets_at,
            grants=tuple(GrantState(one, end.balances[one.id]) for one in burn_order(entitled.grants)),
            segments=run.segments,
        )

    def run(self, used: Sequence[Used], until: datetime, start: State | None = None) -> Run:
        begin = start or _state_at(self._entitled.grants, self._start)
        resets = [reset for reset in self._resets if begin.at < reset <= until]
        keep = bool(self._entitled.entitlement.keep_overage)
        return burn_down(self._entitled.grants, used, begin, until, resets=resets, keep_overage=keep)

    def rows(self, usage: Mapping[Asked, Decimal], bounds: Sequence[datetime]) -> list[HistoryRow]:
        used = self.used(usage)
        state = _state_at(self._entitled.grants, self._start)
        rows = []
        for start, end in pairwise(bounds):
            if start > state.at:
                state = self.run(used, start, state).state
            quantity = exact_sum(one.quantity for one in used if start <= one.at < end)
            rows.append(HistoryRow(start, end, quantity, state.balance))
        return rows

    def _ceiling(self, usage: Mapping[Asked, Decimal], at: datetime, resets_at: datetime | None) -> EntitlementState:
        entitled = self._entitled
        used = usage.get((entitled.tenant, self._meter.name, self._bounds[0], self._bounds[-1]), ZERO)
        if not entitled.is_limited:
            return EntitlementState(entitled, used=used, resets_at=resets_at)
        active = [one for one in burn_order(entitled.grants) if one.is_active(at)]
        limit = exact_sum(one.amount for one in active)
        left = limit - used
        grants = tuple(GrantState(one, one.amount) for one in active)
        return EntitlementState(entitled, limit, used, max(ZERO, left), max(ZERO, -left), resets_at, grants=grants)


def _is_ceiling(meter: Meter) -> bool:
    """Return whether the usage of a period is not the sum of what was used in its stretches."""
    return meter.aggregation not in {"count", "sum", "unique_count"} or meter.measure != PLAIN


def _cuts(grants: Iterable[Grant], start: datetime, until: datetime) -> set[datetime]:
    found = set()
    for grant in grants:
        found |= {grant.effective_at, grant.ends_at, *grant.recurrences(start, until)}
    return found


def _state_at(grants: Iterable[Grant], at: datetime) -> State:
    """Return the state from which nothing depends on the past: at the beginning, or just after such a reset."""
    # Whatever began before counts as full: grants from before the first use, and quotas that the reset made full.
    return State(at, {grant.id: grant.amount for grant in grants if grant.is_active(at)})


def _recurs_at(grant: Grant, at: datetime) -> bool:
    cycle = grant.recurrence
    return cycle is not None and cycle.period_at(at).start == at


def _begin(entitled: Entitled, at: datetime) -> datetime:
    """Return the latest reset after which nothing depends on what was before it, or the beginning."""
    start = entitled.last_reset(at)
    while start > entitled.measured_from:
        if not entitled.entitlement.keep_overage and all(_is_renewed(grant, start) for grant in entitled.grants):
            return start
        cycle = entitled.cycle
        if cycle is None:
            break
        start = max(entitled.measured_from, cycle.boundary(cycle.number_at(start) - 1))
    return entitled.measured_from


def _is_renewed(grant: Grant, reset: datetime) -> bool:
    """Return whether what is left of a grant just after a reset is the same whatever was left before."""
    if not grant.is_active(reset) or grant.effective_at == reset or _recurs_at(grant, reset):
        return True
    return grant.rollover_min == grant.rollover_max == grant.amount


def _figures_of(entitled: Entitled, used: Decimal, at: datetime) -> Figures:
    """Return the figures of a quota that every reset makes full, and of which so much was used since."""
    count, resets_at = to_billionths(used), entitled.next_reset(at)
    if not entitled.is_limited:
        return Figures(used=count, resets_at=resets_at)
    limit = to_billionths(entitled.grants[0].amount)
    return _limited(entitled, at, limit, count, limit - count)


def _figures(state: EntitlementState, at: datetime) -> Figures:
    if state.limit is None or state.remaining is None:
        return Figures(used=to_billionths(state.used), resets_at=state.resets_at)
    left = to_billionths(state.remaining) - to_billionths(state.overage)
    return _limited(state.entitled, at, to_billionths(state.limit), to_billionths(state.used), left)


def _limited(entitled: Entitled, at: datetime, limit: int, used: int, left: int) -> Figures:
    resets_at = entitled.next_reset(at)
    if not entitled.entitlement.is_hard:
        return Figures(limit, used, left, resets_at)
    start, end = entitled.window(at)
    if end is None or resets_at is None:
        return HardFigures(limit, used, left, resets_at, start, end)
    # The plan's own quota at least, as long as nothing is known that a reset takes away from it.
    anew = ZERO if entitled.entitlement.keep_overage else entitled.entitlement.quota or ZERO
    return HardFigures(limit, used, left, resets_at, start, end, entitled.window(resets_at)[1], to_billionths(anew))


def _answers(engine: duckdb.DuckDBPyConnection, questions: Sequence[Asked]) -> dict[Asked, Decimal]:
    rows = engine.execute("SELECT span_id, quantity FROM usage WHERE quantity IS NOT NULL").fetchall()
    return {questions[number]: quantity for number, quantity in rows}
