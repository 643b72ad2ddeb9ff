"""What if the prices had been others: history, rated under the terms as they are and under new ones, side by side.

Enters: an engine with the evidence of a snapshot, the terms of sale, and plans that take the place of others.
Leaves: WHATIF, one row per (tenant, plan, new plan, price, billing period, currency), and its sums per tenant, plan, price.
Refuses: to book anything, to read a clock, to mix currencies, and to guess: a plan that nobody is on, a name that stands
for two plans, a price on a meter that is not declared.

Both sides are rated by the very statements that rate invoices, over the same usage events, as if every period of the range
were over. Same snapshot, same plans, same answer. What was invoiced is not looked at: the old side is what the plans of
the catalog say today.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from metering.clock import EPOCH, iso_utc
from metering.engine import fetch, read_sql
from metering.numbers import plain, trimmed
from metering.rollups import Rollups
from metering.usage import open_evidence, register
from rating.errors import NotFound
from rating.iso4217 import minor_units
from rating.phases import plan_keys_of
from rating.rate import overflow_named, rate
from rating.rounding import round_amount, round_fraction
from rating.spans import plan_key
from rating.tables import kinds
from rating.terms import billing_spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    import duckdb
    import pyarrow as pa

    from metering.periods import WallPeriod
    from metering.usage import Snapshot
    from rating.plans import Plan, Subscription
    from rating.spans import BillingSpans, Stretch
    from rating.terms import Terms

# Both sides are rated in one engine, where terms are found by plan name and version; this sets the new ones apart. No
# name of a catalog can hold a control character.
_NEW = "\x1f"
_SIDE_COLUMNS = {"plan": "text", "plan_version": "int", "new_plan": "text", "new_plan_version": "int"}


@dataclass(frozen=True, slots=True)
class Replacement:
    """One plan version, what takes its place, and how many subscriptions are on it."""

    plan: str
    version: int
    new_plan: str
    new_version: int
    subscriptions: int


@dataclass(frozen=True, slots=True)
class Change:
    """The question: the subscriptions concerned, under their own plans (`old`) and under the new ones (`new`)."""

    old: Terms
    new: Terms
    replacements: tuple[Replacement, ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The answer. Every table has old_amount, new_amount and difference = new - old, decimal(38, 12), in `currency`.

    `lines` is WHATIF itself; `tenants` has one row per (tenant, currency), `plans` per (plan version, currency),
    `prices` per (plan, price, currency). A tenant whose difference is below zero would have paid less.
    """

    replacements: tuple[Replacement, ...]
    lines: pa.Table
    tenants: pa.Table
    plans: pa.Table
    prices: pa.Table

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without the lines: amounts as text with the digits of their currency."""
        return {
            "replacements": [{name: getattr(one, name) for name in one.__slots__} for one in self.replacements],
            "plans": rows_as_json(self.plans),
            "prices": rows_as_json(self.prices),
            "tenants": rows_as_json(self.tenants),
        }


def change_of(terms: Terms, plans: Sequence[Plan], replaced: Mapping[str, str] | None = None) -> Change:
    """Return the question: each plan takes the place of every version of its name; `replaced` says old=new besides.

    Names in `replaced` are those of plans (`pro`) or of plan versions (`pro/3`); the new one is looked for among `plans`
    first, then in the terms. Raises NotFound.
    """
    replaced = dict(replaced or {})
    by_name: dict[str, list[Plan]] = {}
    for plan in plans:
        by_name.setdefault(plan.name, []).append(plan)

    def target(name: str, version: int) -> Plan | None:
        wanted = replaced.get(plan_key(name, version)) or replaced.get(name)
        if wanted is not None:
            return _plan_called(wanted, by_name, terms)
        return _only(name, by_name[name]) if name in by_name else None

    moved: list[tuple[Subscription, Plan]] = []
    held: list[Subscription] = []
    new_plans: dict[str, Plan] = {}
    for subscription in terms.subscriptions:
        targets = [target(*key) for key in plan_keys_of(subscription)]
        if not any(targets):
            continue
        stays = [terms.plan_of(subscription, *key) for key in plan_keys_of(subscription)]
        each = [new or old for new, old in zip(targets, stays, strict=True)]
        new_plans |= {plan_key(plan.name, plan.version): plan for plan in each}
        moved.append((subscription, each[0]))
        held.append(_put_on(subscription, [(plan.name, plan.version) for plan in each]))
    _check_all_used(terms, [subscription for subscription, _ in moved], by_name, replaced)
    for plan in new_plans.values():
        _check_meters(plan, terms)
    pairs: dict[tuple[str, int, str, int], int] = {}
    for subscription, plan in moved:
        pair = (subscription.plan, subscription.version, plan.name, plan.version)
        pairs[pair] = pairs.get(pair, 0) + 1
    return Change(
        old=replace(terms, subscriptions=[subscription for subscription, _ in moved]),
        new=replace(terms, plans=new_plans, subscriptions=held),
        replacements=tuple(Replacement(*pair, count) for pair, count in sorted(pairs.items())),
    )


def what_if(
    engine: duckdb.DuckDBPyConnection, change: Change, wall: WallPeriod, *, rollups: Rollups | None = None
) -> WhatIf:
    """Rate all billing periods that end in a range under both terms and compare. Books nothing; reads no clock.

    `engine` holds the evidence (`metering.usage.open_evidence`). Raises AmountOverflow.
    """
    lines = whatif(engine, change.old, change.new, wall, rollups=rollups)
    register(engine, "whatif", lines)
    with overflow_named(engine):
        return WhatIf(
            replacements=change.replacements,
            lines=lines,
            tenants=fetch(engine, read_sql("rating", "whatif_tenant")),
            plans=fetch(engine, read_sql("rating", "whatif_plan")),
            prices=fetch(engine, read_sql("rating", "whatif_price")),
        )


def whatif(
    engine: duckdb.DuckDBPyConnection, old: Terms, new: Terms, wall: WallPeriod, *, rollups: Rollups | None = None
) -> pa.Table:
    """Return WHATIF for the same subscriptions under old and under new terms. See `Change`."""
    return _compared(engine, old, new, wall, "whatif", rollups)


def without_overrides(
    engine: duckdb.DuckDBPyConnection, terms: Terms, wall: WallPeriod, *, rollups: Rollups | None = None
) -> pa.Table:
    """Return what subscriptions with overrides are worth, and what their plans themselves ask for it: one row per
    (subscription, price, billing period that ends in the range). See `what_if`."""
    held = [one for one in terms.subscriptions if one.overrides]
    plain = [one.model_copy(update={"overrides": {}}) for one in held]
    old, new = replace(terms, subscriptions=held), replace(terms, subscriptions=plain)
    return _compared(engine, old, new, wall, "override_given", rollups)


def _compared(
    engine: duckdb.DuckDBPyConnection, old: Terms, new: Terms, wall: WallPeriod, question: str, rollups: Rollups | None
) -> pa.Table:
    """Return what a statement reads when both sides are rated in one engine."""
    import pyarrow as pa

    both = _side_by_side(old, new)
    old_spans = billing_spans(old, wall)
    members = old_spans + billing_spans(new, wall).with_stretches(_set_apart)
    pairs = _pairs(old.subscriptions, new.subscriptions)
    parts = [
        _asked(engine, question, both, pairs, members.take(places), [at >= len(old_spans) for at in places], rollups)
        # One part of the year at a time: each reads only its own events, and memory does not grow with the range.
        for places in _by_month(members)
    ]
    return pa.concat_tables(parts or [_asked(engine, question, both, pairs, members, [], rollups)])


def _asked(
    engine: duckdb.DuckDBPyConnection,
    question: str,
    both: Terms,
    pairs: Mapping[str, tuple[str, int, str, int]],
    spans: BillingSpans,
    is_new: Sequence[bool],
    rollups: Rollups | None,
) -> pa.Table:
    _register_sides(engine, [pairs[subscription] for subscription in spans.subscriptions], is_new)
    # Every period counts as if it were over.
    as_of = max((stretch.period.end for stretch in spans.stretches), default=EPOCH)
    rate(engine, both, spans, as_of, rollups=rollups)
    with overflow_named(engine):
        return fetch(engine, read_sql("rating", question))


def _register_sides(
    engine: duckdb.DuckDBPyConnection, pairs: Sequence[tuple[str, int, str, int]], is_new: Sequence[bool]
) -> None:
    """Make the table whatif_side: one row per span, which side it is of and which plans are compared."""
    import pyarrow as pa

    distinct = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    places = pa.array([distinct[pair] for pair in pairs], pa.int64())
    columns = {"span_id": pa.array(range(len(pairs)), pa.int64()), "is_new": pa.array(is_new, pa.bool_())}
    for at, (name, kind) in enumerate(_SIDE_COLUMNS.items()):
        columns[name] = pa.array([pair[at] for pair in distinct], kinds()[kind]).take(places)
    register(engine, "whatif_side", pa.table(columns))


def _by_month(members: BillingSpans) -> list[list[int]]:
    """Return the places of spans by the month in which their periods end: a period's two sides stay together."""
    ends = [(stretch.period.end.year, stretch.period.end.month) for stretch in members.stretches]
    months: dict[tuple[int, int], list[int]] = {}
    for place, stretch in enumerate(members.stretch):
        months.setdefault(ends[stretch], []).append(place)
    return [months[month] for month in sorted(months)]


def whatif_over(
    files: Sequence[str], snapshot: Snapshot, change: Change, wall: WallPeriod, **settings: object
) -> WhatIf:
    """Do `what_if` over the data files of a lake at a snapshot, in an engine of its own. `settings`: those of open_engine."""
    rollups = Rollups.of(files)
    folder = {"folder": str(rollups.folder)} if rollups else {}
    engine = open_evidence(files, snapshot, **folder, **settings)
    try:
        return what_if(engine, change, wall, rollups=rollups)
    finally:
        engine.close()


def percent_of(old_amount: Decimal, difference: Decimal) -> Decimal | None:
    """Return a difference in percent of the old amount, to one place; None where there was nothing before."""
    return round_fraction(Fraction(difference) * 100 / Fraction(old_amount), 1) if old_amount else None


def rows_as_json(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a comparison as plain JSON values: amounts with the digits of their currency, exact."""
    return [{name: _as_json(name, value, row["currency"]) for name, value in row.items()} for row in table.to_pylist()]


def _as_json(name: str, value: Any, currency: str) -> Any:
    if name in {"old_amount", "new_amount", "difference"}:
        return plain(round_amount(value, minor_units(currency)))
    if name in {"old_quantity", "new_quantity"}:
        return trimmed(value)
    return iso_utc(value) if hasattr(value, "astimezone") else value


def _side_by_side(old: Terms, new: Terms) -> Terms:
    """Return terms that hold both sides, the new plans set apart by name."""
    apart = {
        plan_key(_NEW + plan.name, plan.version): plan.model_copy(update={"name": _NEW + plan.name})
        for plan in new.plans.values()
    }
    subscriptions = [*old.subscriptions, *map(_apart, new.subscriptions)]
    moved = {one.id for one in new.subscriptions}
    # Who is on another plan is entitled by it, and by all that stays.
    entitling = (
        old.entitling[0],
        [*(one for one in old.entitling[0] if one.id not in moved), *map(_apart, new.subscriptions)],
    )
    return replace(old, plans={**old.plans, **apart}, subscriptions=subscriptions, entitling=entitling)


def _set_apart(stretch: Stretch) -> Stretch:
    return replace(stretch, plan=_NEW + stretch.plan, plan_key=_NEW + stretch.plan_key, side=1)


def _pairs(old: Sequence[Subscription], new: Sequence[Subscription]) -> dict[str, tuple[str, int, str, int]]:
    then = {one.id: one for one in new}
    return {one.id: (one.plan, one.version, then[one.id].plan, then[one.id].version) for one in old}


def _put_on(subscription: Subscription, plans: Sequence[tuple[str, int]]) -> Subscription:
    """Return a subscription on other plans: the first from its start, the others from its changes of plan on."""
    (name, version), *later = plans
    left = iter(later)
    changes = []
    for change in subscription.changes:
        on = {} if change.version is None else dict(zip(("plan", "version"), next(left), strict=True))
        changes.append(change.model_copy(update=on))
    return subscription.model_copy(update={"plan": name, "version": version, "changes": tuple(changes)})


def _apart(subscription: Subscription) -> Subscription:
    return _put_on(subscription, [(_NEW + name, version) for name, version in plan_keys_of(subscription)])


def _plan_called(wanted: str, by_name: Mapping[str, list[Plan]], terms: Terms) -> Plan:
    """Return the plan that a name or `name/version` means: one of the given plans, else one of the catalog."""
    given = [plan for plans in by_name.values() for plan in plans]
    for plans in (given, list(terms.plans.values())):
        exact = [plan for plan in plans if plan_key(plan.name, plan.version) == wanted]
        named = exact or [plan for plan in plans if plan.name == wanted]
        if named:
            return _only(wanted, named)
    known = ", ".join(sorted({plan.name for plan in [*given, *terms.plans.values()]})) or "none"
    raise NotFound(f"there is no plan {wanted} to put subscriptions on; there are {known}; correct the name")


def _only(name: str, plans: Sequence[Plan]) -> Plan:
    if len(plans) == 1:
        return plans[0]
    versions = ", ".join(plan_key(plan.name, plan.version) for plan in plans)
    raise NotFound(f"{name} may mean {versions}; name one of them, such as --replace {name}={versions.split(',')[0]}")


def _is_named(name: str, by_name: Mapping[str, list[Plan]], replaced: Mapping[str, str]) -> bool:
    """Return whether every plan given under a name is spoken for by `replaced`, and so need not take its own place."""
    keys = {plan_key(plan.name, plan.version) for plan in by_name[name]}
    wanted = set(replaced.values())
    return name in wanted or keys <= wanted


def _check_all_used(
    terms: Terms, moved: Sequence[Subscription], by_name: Mapping[str, list[Plan]], replaced: Mapping[str, str]
) -> None:
    """Refuse a plan that takes nobody's place: an answer without it would look complete."""
    on = {name for one in moved for key in plan_keys_of(one) for name in (key[0], plan_key(*key))}
    idle = [name for name in replaced if name not in on]
    idle += [name for name in by_name if name not in on and not _is_named(name, by_name, replaced)]
    if not idle and moved:
        return
    held = ", ".join(sorted({one.plan for one in terms.subscriptions})) or "none"
    what = f"no subscription is on plan {', '.join(idle)}" if idle else "no plan is given that takes another's place"
    raise NotFound(
        f"{what}; plans with subscriptions: {held}; name the plan as they do, or say --replace {held.split(',')[0]}=NEW"
    )


def _check_meters(plan: Plan, terms: Terms) -> None:
    for price, name in ((one, name) for one in plan.prices for name in one.meters_read):
        if name not in terms.meters:
            known = ", ".join(sorted(terms.meters)) or "none"
            raise NotFound(
                f"price {price.id} of plan {plan_key(plan.name, plan.version)} is on meter {name}, which the catalog "
                f"does not declare (it has {known}), so history has no usage to rate it with; correct the meter's name"
            )
