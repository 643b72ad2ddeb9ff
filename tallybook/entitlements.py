"""What every tenant may use and what is left of it: entitlements, grants and usage, put together at an instant.

Enters: a workspace's catalog, its lake, an instant. Leaves: `EntitlementState`s that explain themselves; a `View` for
checkers; history in fixed windows. Refuses: to store anything; states are worked out from what was used and granted.

Only what matters is run through: a burn-down begins at the last reset after which nothing depends on what was before
(full quotas, no overage kept), else at the one before that, and so on. Usage is asked once for all tenants, one span per
stretch between two cuts. Meters whose usage cannot be added up stretch by stretch are ceilings: the aggregate of the whole
period so far against the grants that are active (price models, section 8).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from itertools import chain, groupby, pairwise
from typing import TYPE_CHECKING, Self

from entitlements.burndown import ZERO
from entitlements.decisions import to_billionths
from entitlements.leases import LeaseBook
from entitlements.view import Figures, HardFigures, Held, Rule, View, fold_of
from metering.clock import EPOCH
from metering.engine import read_sql
from metering.measures import PLAIN
from metering.numbers import exact_difference, exact_sum
from metering.usage import open_evidence, register
from rating.entitled import INSTANT, Entitled, changes_of, resolve, templates
from rating.entitled_use import (
    Asked,
    EntitlementState,
    HistoryRow,
    Leased,
    UsagePlan,
    ask_usage,
    begin_of,
    is_ceiling,
)
from rating.errors import NotFound
from rating.terms import Terms

if TYPE_CHECKING:
    import duckdb

    from metering.catalog import Meter
    from metering.periods import BillingCycle
    from metering.usage import Snapshot
    from rating.grants import TenantGrant
    from rating.plans import Subscription
    from tallybook.catalog_entries import Catalog
    from tallybook.workspace import Workspace

# One entitlement of a template: the template's number, its place among the metered ones, its meter, since when.
Place = tuple[int, int, str, datetime]
# Aggregations of which all tenants are asked at once, without a span for each.
ADDED = frozenset({"sum", "count"})
# Aggregations of which the time that passes changes nothing.
STANDING = frozenset({"count", "sum", "max", "min", "first", "last", "average", "unique_count"})


class Entitlements:
    """What is known of entitlements at one instant over one workspace: its catalog as applied, its lake as of now."""

    def __init__(
        self,
        workspace: Workspace,
        at: datetime | None = None,
        *,
        tenant: str | None = None,
        catalog: Catalog | None = None,
        evidence: tuple[list[str], Snapshot] | None = None,
    ) -> None:
        catalog = workspace.catalog() if catalog is None else catalog
        terms = catalog.terms()
        held = [one for one in terms.subscriptions if tenant is None or one.tenant == tenant]
        grants = [one for one in catalog.grants if tenant is None or one.tenant == tenant]
        self._set(workspace, at, replace(terms, subscriptions=held), grants, evidence)

    @classmethod
    def of_terms(
        cls,
        workspace: Workspace,
        at: datetime,
        terms: Terms,
        grants: Sequence[TenantGrant],
        evidence: tuple[list[str], Snapshot],
        *,
        is_part: bool = False,
    ) -> Self:
        """Return the same for terms that were read before, at a cut that was taken before.

        `is_part`: the terms are those of few tenants, so that usage is asked of each and not of all at once.
        """
        made = cls.__new__(cls)
        made._set(workspace, at, terms, grants, evidence)  # noqa: SLF001 - its own
        made._is_part = is_part  # noqa: SLF001
        return made

    def _set(
        self,
        workspace: Workspace,
        at: datetime | None,
        terms: Terms,
        grants: Sequence[TenantGrant],
        evidence: tuple[list[str], Snapshot] | None,
    ) -> None:
        self.at = workspace.now if at is None else at
        self._books = workspace.books
        self.meters: Mapping[str, Meter] = terms.meters
        # Read before the lake: a cut may be older than what is counted, never newer.
        self._files, self.snapshot = workspace.evidence() if evidence is None else evidence
        self._terms, self._grants = terms, grants
        # When something changes without being used, and whose figures grow older by themselves; see `view`.
        self.changes: dict[datetime, set[str]] = {}
        self.restless: set[str] = set()
        # What tenants share is held once; whoever makes one view after the other hands on what the one before held.
        self.rules_held: dict[tuple[object, ...], Mapping[str, Rule]] = {}
        self._is_part = False

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
        """Return what a checker needs, with the cut up to which usage is counted.

        Notes in `changes` at which instants whose figures change though nothing is used, and in `restless` the tenants of
        whom that cannot be said.
        """
        shared, by_tenant, elsewhen = self._resolved()
        tenants = self._alike(shared)
        for tenant, found in groupby(self._states(by_tenant), key=lambda one: one.entitled.tenant):
            states = list(found)
            rules = self._rules([one.entitled for one in states])
            figures = tuple(_figures(one, self.at) for one in states if one.entitled.entitlement.type == "metered")
            tenants[tenant] = Held(rules, figures, frozenset(elsewhen.get(tenant, ())))
        for tenant, features in elsewhen.items():
            tenants.setdefault(tenant, Held({}, (), frozenset(features)))
        return View(tenants, dict(self.snapshot.cut), self.at)

    def changing(self, until: datetime) -> set[str]:
        """Return the tenants of whom something changes by itself in (the instant, until]: a reset, a beginning, an end."""
        self._resolved()
        return {name for at, names in self.changes.items() if at <= until for name in names}

    def _resolved(
        self,
    ) -> tuple[list[tuple[list[Entitled], list[str]]], dict[str, list[Entitled]], dict[str, set[str]]]:
        """Return what tenants share, what the others are entitled to and at other times; note when it changes by itself."""
        shared, others = templates(self._terms, self._grants, self.at)
        by_tenant, elsewhen = resolve(others, self._grants, self.at)
        for held, names in shared:
            self._note(held, held[0].holding.subscription, names)
        for subscription in others.subscriptions:
            self._note(by_tenant.get(subscription.tenant, ()), subscription, [subscription.tenant])
        return shared, by_tenant, elsewhen

    def _note(self, held: Sequence[Entitled], subscription: Subscription, names: Sequence[str]) -> None:
        """Note when something of these tenants changes though nothing is used."""
        if any(self._is_restless(one) for one in held):
            self.restless.update(names)
        after = [at for at in changes_of(held, subscription, self._terms, self.at) if at > self.at]
        if after:
            self.changes.setdefault(min(after), set()).update(names)

    def _is_restless(self, entitled: Entitled) -> bool:
        """Return whether figures grow older by themselves: levels over time, and what leases say of windows that are over.

        Only of aggregations that are known to stand still between two events is it said that they do.
        """
        entitlement = entitled.entitlement
        if entitlement.meter is None:
            return False
        meter = self.meters[entitlement.meter]
        is_carried = entitlement.is_hard and begin_of(entitled, self.at) < entitled.last_reset(self.at)
        return is_carried or meter.measure != PLAIN or meter.aggregation not in STANDING

    def _states(self, by_tenant: Mapping[str, list[Entitled]]) -> list[EntitlementState]:
        entitled = [one for held in by_tenant.values() for one in held]
        plans = {id(one): self._plan(one) for one in entitled if one.entitlement.type == "metered"}
        usage = self.usage(asked for plan in plans.values() for asked in plan.asked)
        states = [
            EntitlementState(one) if one.entitlement.type != "metered" else plans[id(one)].state(usage, self.at)
            for one in entitled
        ]
        return sorted(states, key=lambda one: (one.entitled.tenant, one.entitled.entitlement.feature))

    def _alike(self, shared: Sequence[tuple[list[Entitled], list[str]]]) -> dict[str, Held]:
        """Return what tenants hold that differ in what they used only: full quotas minus use since the last reset."""
        tenants: dict[str, Held] = {}
        metered = [[one for one in held if one.entitlement.type == "metered"] for held, _ in shared]
        for number, (held, names) in enumerate(shared):
            unused = tuple(_figures_of(one, ZERO, self.at) for one in metered[number])
            tenants.update(dict.fromkeys(names, Held(self._rules(held), unused)))
        for name, (number, used) in self._used_by(metered, [names for _, names in shared]).items():
            before = tenants[name]
            pairs = zip(metered[number], used, before.figures, strict=True)
            figures = tuple(_figures_of(one, count, self.at) if count else none for one, count, none in pairs)
            tenants[name] = Held(before.rules, figures)
        return tenants

    def _used_by(
        self, metered: Sequence[Sequence[Entitled]], names: Sequence[Sequence[str]]
    ) -> dict[str, tuple[int, list[Decimal]]]:
        """Return the number of its template and what it used since the last reset, for each tenant who used anything."""
        found: dict[str, tuple[int, list[Decimal]]] = {}
        asked: dict[Asked, tuple[int, int]] = {}
        places: list[Place] = []
        for number, held in enumerate(metered):
            for place, one in enumerate(held):
                meter, start = self.meters[one.entitlement.meter or ""], one.last_reset(self.at)
                if not self._is_part and meter.measure == PLAIN and meter.aggregation in ADDED:
                    places.append((number, place, meter.name, start))
                elif start < self.at:
                    asked |= {(name, meter.name, start, self.at): (number, place) for name in names[number]}
        added = self._added(places, names) if places else ()
        usage = self.usage(asked)
        others = ((question[0], *asked[question], quantity) for question, quantity in usage.items() if quantity)
        for name, number, place, quantity in chain(added, others):
            found.setdefault(name, (number, [ZERO] * len(metered[number])))[1][place] = quantity
        return found

    def _added(
        self, places: Sequence[Place], names: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, int, int, Decimal]]:
        """Yield (tenant, template, place, quantity) of all who used something, for meters whose events just add up."""
        import pyarrow as pa

        numbers, at, meters, starts = zip(*places, strict=True)
        questions = {
            "template": pa.array(numbers, pa.int64()),
            "place": pa.array(at, pa.int64()),
            "meter": pa.array(meters, pa.string()),
            "is_count": pa.array([self.meters[meter].aggregation == "count" for meter in meters], pa.bool_()),
            "start_at": pa.array(starts, pa.timestamp("us", tz="UTC")),
        }
        tenants = {
            "tenant_id": pa.array([name for some in names for name in some], pa.string()),
            "template": pa.array([number for number, some in enumerate(names) for _ in some], pa.int64()),
        }
        with self._evidence as engine:
            register(engine, "since_question", pa.table(questions))
            register(engine, "since_tenant", pa.table(tenants))
            answer = engine.execute(read_sql("entitlements", "used_since"), {"until": self.at})
            while rows := answer.fetchmany(100_000):
                yield from rows

    @property
    @contextmanager
    def _evidence(self) -> Iterator[duckdb.DuckDBPyConnection]:
        engine = open_evidence(self._files, self.snapshot)
        try:
            yield engine
        finally:
            engine.close()

    def history(
        self, tenant: str, feature: str, start: datetime, until: datetime, every: BillingCycle
    ) -> list[HistoryRow]:
        """Return one row per whole window of a cycle in [start, until), for a metered entitlement.

        A grant effective exactly at a window's start is in its balance; one that begins inside shows in the next row. Of a
        ceiling, usage is the aggregate of the window alone, and the balance what the aggregate since the last reset leaves.
        Raises NotFound where the tenant has no such entitlement at this instant.
        """
        found = [one for one in self.by_tenant.get(tenant, ()) if one.entitlement.feature == feature]
        if not found or found[0].entitlement.type != "metered":
            raise NotFound(f"tenant {tenant!r} has no metered entitlement to {feature!r} at {self.at}")
        first = every.number_at(start)
        number = first if every.boundary(first) == start else first + 1
        bounds = [every.boundary(number)]
        while (bound := every.boundary(len(bounds) + number)) <= min(until, self.at):
            bounds.append(bound)
        bounds = [bound for bound in bounds if bound >= found[0].measured_from]
        if len(bounds) < 2:
            return []
        meter = self.meters[found[0].entitlement.meter or ""]
        if is_ceiling(meter):
            return self._ceiling_rows(found[0], meter.name, bounds)
        plan = UsagePlan(found[0], meter, found[0].measured_from, bounds[-1], bounds)
        return plan.rows(self.usage(plan.asked), bounds)

    def _ceiling_rows(self, entitled: Entitled, meter: str, bounds: Sequence[datetime]) -> list[HistoryRow]:
        windows = [(entitled.tenant, meter, start, end) for start, end in pairwise(bounds)]
        before = [(entitled.tenant, meter, entitled.last_reset(start), start) for start in bounds[:-1]]
        usage = self.usage(asked for asked in (*windows, *before) if asked[2] < asked[3])
        rows = []
        for window, past in zip(windows, before, strict=True):
            *_, start, end = window
            limit = exact_sum(grant.amount for grant in entitled.grants if grant.is_active(start))
            left = max(ZERO, exact_difference(limit, usage.get(past, ZERO)))
            rows.append(HistoryRow(start, end, usage.get(window, ZERO), left))
        return rows

    def used(self, asked: Sequence[Asked]) -> list[Decimal]:
        """Return what was used of each (tenant, meter, start, end), in units of the meter, as its meter aggregates."""
        usage = self.usage(asked)
        return [usage.get(question, ZERO) for question in asked]

    def _plan(self, entitled: Entitled) -> UsagePlan:
        meter = self.meters[entitled.entitlement.meter or ""]
        start = begin_of(entitled, self.at)
        is_carried = entitled.entitlement.is_hard and start < entitled.last_reset(self.at)
        leased = self._leased.get((entitled.tenant, entitled.entitlement.feature), ()) if is_carried else ()
        return UsagePlan(entitled, meter, start, self.at, leased=leased)

    @cached_property
    def _leased(self) -> dict[tuple[str, str], list[Leased]]:
        """What leases were granted in windows that are over and not accounted for yet, by tenant and feature."""
        found: dict[tuple[str, str], list[Leased]] = {}
        for key, granted, metered in LeaseBook(self._books).over(EPOCH, self.at + INSTANT):
            if metered is None and key.end is not None:
                found.setdefault((key.tenant, key.feature), []).append((key.start, key.end, granted))
        return found

    def _rules(self, held: Sequence[Entitled]) -> Mapping[str, Rule]:
        key = tuple((one.source, one.entitlement) for one in held)
        if key not in self.rules_held:
            self.rules_held[key] = self._rules_of(held)
        return self.rules_held[key]

    def _rules_of(self, held: Iterable[Entitled]) -> dict[str, Rule]:
        rules, place = {}, 0
        for one in held:
            entitlement = one.entitlement
            fold = fold_of(self.meters[entitlement.meter]) if entitlement.meter else "hides"
            is_metered = entitlement.type == "metered"
            rules[entitlement.feature] = Rule.of(
                entitlement, one.source, fold=fold, place=place if is_metered else None
            )
            place += is_metered
        return rules

    def usage(self, asked: Iterable[Asked]) -> dict[Asked, Decimal]:
        """Return what was used of each (tenant, meter, start, end) with any use, in units of the meter, as it aggregates."""
        questions = list(asked)
        if not questions:
            return {}
        with self._evidence as engine:
            return ask_usage(engine, questions, self.meters)


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
