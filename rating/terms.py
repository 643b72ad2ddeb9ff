"""The terms of sale, laid out as rows that SQL can join.

Enters: the catalog's models (meters, plans, accounts, subscriptions) and the period asked for.
Leaves: billing spans (one row per subscription and billing period), currencies, the tables of the prices, and the spans
and selectors that usage is asked with.
Refuses: to look at usage. The same catalog and period give the same rows, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.periods import CALENDAR_ANCHOR, BillingCycle, Period, WallPeriod, zone
from metering.usage import Selector, register
from rating.adjust_tables import load_adjustments
from rating.dialect import STRICT, Switches, measure_under
from rating.errors import NotFound
from rating.flat_parts import load_flat_parts
from rating.included_shares import load_included_shares
from rating.iso4217 import minor_units
from rating.phases import OVERRIDDEN, Plans, phases_of
from rating.plans import instant_of
from rating.pots import Pots
from rating.price_ids import is_since_plan, selector_before, selector_id_of
from rating.price_tables import cell_attributes, load_flat_amounts, load_prices
from rating.spans import BillingSpan, BillingSpans, Stretch, UsageSpans, plan_key
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date

    import duckdb

    from metering.catalog import Meter
    from rating.balances import Balance
    from rating.grants import TenantGrant
    from rating.plans import Account, Plan, Subscription

# An open end, far enough that no usage lies beyond it and near enough for every database.
NEVER = datetime(2200, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a catalog says, looked up by key: one plan per (name, version), one meter per name."""

    meters: Mapping[str, Meter]
    plans: Mapping[str, Plan]
    accounts: Mapping[str, Account]
    subscriptions: Sequence[Subscription]
    balances: Sequence[Balance] = ()
    grants: Sequence[TenantGrant] = ()
    # All that tenants are entitled by, also where only some subscriptions are rated; by the side of a span (rating.whatif).
    entitling: Sequence[Sequence[Subscription]] = ()
    # The few subscriptions that say more than their plan, by id: looked for once, not by everyone who needs them.
    special: Mapping[str, Subscription] = field(init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        meters: Iterable[Meter],
        plans: Iterable[Plan],
        accounts: Iterable[Account],
        subscriptions: Iterable[Subscription],
        balances: Iterable[Balance] = (),
        grants: Iterable[TenantGrant] = (),
    ) -> Terms:
        subscriptions = sorted(subscriptions, key=lambda subscription: subscription.id)
        return cls(
            meters={meter.name: meter for meter in meters},
            plans={plan_key(plan.name, plan.version): plan for plan in plans},
            accounts={account.id: account for account in accounts},
            subscriptions=subscriptions,
            balances=sorted(balances, key=lambda balance: balance.id),
            grants=sorted(grants, key=lambda grant: grant.id),
            entitling=(subscriptions,),
        )

    def balances_by_account(self) -> dict[str, list[Balance]]:
        """Return the prepaid balances of each account that has any."""
        found: dict[str, list[Balance]] = {}
        for balance in self.balances:
            found.setdefault(balance.account, []).append(balance)
        return found

    def payer_by_tenant(self) -> dict[str, str]:
        """Return the billing account of each tenant that an account lists."""
        return {tenant: account.id for account in self.accounts.values() for tenant in account.tenants}

    def tenants(self) -> set[str]:
        """Return every tenant that an account lists or a subscription names."""
        return {*self.payer_by_tenant(), *(subscription.tenant for subscription in self.subscriptions)}

    def __post_init__(self) -> None:
        object.__setattr__(self, "plans", Plans(self.plans, self.subscriptions))
        object.__setattr__(
            self,
            "special",
            {
                one.id: one
                for one in self.subscriptions
                if one.changes or one.overrides or one.discounts or one.quantities
            },
        )

    def plan_of(self, subscription: Subscription, name: str | None = None, version: int | None = None) -> Plan:
        """Return the plan that a subscription begins on, or the named one that it is on later. Raises NotFound."""
        name, version = name or subscription.plan, version or subscription.version
        try:
            return self.plans[plan_key(name, version)]
        except KeyError:
            raise NotFound(
                f"subscription {subscription.id} is on plan {name} version {version}, "
                "which the catalog does not hold; add the plan version and apply"
            ) from None

    def plan_for(self, subscription_id: str, name: str, version: int) -> Plan | None:
        """Return a plan version as it is for a subscription, overrides included; None if the catalog does not hold it."""
        key = plan_key(name, version)
        try:
            return self.plans[f"{key}{OVERRIDDEN}{subscription_id}"]
        except KeyError:
            return self.plans.get(key)


class Running(NamedTuple):
    """When a subscription runs, as the catalog writes it: all that its billing periods depend on besides the plan."""

    starts_at: date | datetime
    ends_at: date | datetime | None


def service_of(subscription: Subscription | Running, plan: Plan) -> Period:
    """Return when a subscription runs, [from, to); plain dates are midnights in the plan's time zone."""
    timezone = plan.billing_period.timezone
    start = instant_of(subscription.starts_at, timezone)
    end = NEVER if subscription.ends_at is None else instant_of(subscription.ends_at, timezone)
    return Period(start, end)


def cycle_of(subscription: Subscription | Running, plan: Plan) -> BillingCycle:
    """Return the billing periods of a subscription: by the calendar, or around its own start (or a date the plan names)."""
    terms = plan.billing_period
    if terms.anchor == "calendar":
        anchor = CALENDAR_ANCHOR
    elif terms.anchor == "subscription":
        start = service_of(subscription, plan).start
        anchor = start.astimezone(zone(terms.timezone)).replace(tzinfo=None)
    else:
        anchor = datetime.combine(terms.anchor, datetime.min.time())
    return BillingCycle(terms.every, anchor, terms.timezone)


def billing_spans(terms: Terms, current: WallPeriod | None, earlier: Sequence[WallPeriod] = ()) -> BillingSpans:
    """Return the billing spans of a close: those that end in the period invoiced, and those of periods closed before.

    A billing period belongs to the month in which its last instant lies, in the plan's zone: a period from 15 September
    to 15 October belongs to October.
    """
    # All subscriptions of a plan by the calendar share one cycle; its periods are worked out once.
    return _spans(terms, terms.subscriptions, cache(lambda cycle: _periods_asked(cycle, current, earlier)))


def spans_between(terms: Terms, subscriptions: Sequence[Subscription], dates: Period) -> BillingSpans:
    """Return all billing spans of subscriptions whose billing periods meet a time, whole."""
    return _spans(terms, subscriptions, cache(lambda cycle: _periods_between(cycle, dates)))


def _spans(
    terms: Terms,
    subscriptions: Sequence[Subscription],
    periods_of: Callable[[BillingCycle], Mapping[Period, bool]],
) -> BillingSpans:
    payers = terms.payer_by_tenant()
    # Most subscriptions begin with many others, and share the very same stretches.
    stretches: list[Stretch] = []
    shared: dict[tuple[object, ...], tuple[int, ...]] = {}
    held: list[Subscription] = []
    stretch: list[int] = []
    for subscription in subscriptions:
        one = terms.special.get(subscription.id)
        is_alone = one is not None and bool(one.changes or one.overrides)
        key = (subscription.plan, subscription.version, subscription.starts_at, subscription.ends_at)
        places = None if is_alone else shared.get(key)
        if places is None:
            found = _stretches(terms, subscription, periods_of)
            places = tuple(range(len(stretches), len(stretches) + len(found)))
            stretches += found
            if not is_alone:
                shared[key] = places
        held += [subscription] * len(places)
        stretch += places
    return BillingSpans(
        [one.id for one in held],
        [one.tenant for one in held],
        [one.account or payers[one.tenant] for one in held],
        stretch,
        stretches,
    )


def plans_over_time(terms: Terms, subscription: Subscription) -> list[tuple[Plan, Period]]:
    """Return the plans that a subscription is on, one after the other, each with its time. Raises NotFound."""
    return _phases(terms, subscription) if subscription.changes else [_only_phase(terms, subscription)]


def _stretches(
    terms: Terms, subscription: Subscription, periods_of: Callable[[BillingCycle], Mapping[Period, bool]]
) -> list[Stretch]:
    """Return what the billing spans of a subscription are, one after the other."""
    has_overrides = bool(subscription.overrides)
    apart = f"{OVERRIDDEN}{subscription.id}" if has_overrides else ""
    return [
        Stretch(
            plan.name, plan.version, plan_key(plan.name, plan.version) + apart, plan.currency, period, service,
            is_current, 0, has_overrides, phase.start,
        )
        for plan, phase in plans_over_time(terms, subscription)
        for period, service, is_current in _within(phase, periods_of(cycle_of(subscription, plan)))
    ]  # fmt: skip


def _only_phase(terms: Terms, subscription: Subscription) -> tuple[Plan, Period]:
    plan = terms.plan_of(subscription)
    return plan, service_of(subscription, plan)


def _phases(terms: Terms, subscription: Subscription) -> list[tuple[Plan, Period]]:
    """Return the plans that a subscription is on, one after the other, each with its time."""
    running = Running(subscription.starts_at, subscription.ends_at)
    phases = phases_of(
        subscription,
        lambda name, version: terms.plan_of(subscription, name, version),
        lambda plan, instant: cycle_of(running, plan).period_at(instant),
    )
    return [(terms.plan_of(subscription, one.plan, one.version), Period(one.start, one.end or NEVER)) for one in phases]


def _within(service: Period, periods: Mapping[Period, bool]) -> list[tuple[Period, Period, bool]]:
    found = []
    for period, is_current in periods.items():
        start, end = max(period.start, service.start), min(period.end, service.end)
        if start < end:
            found.append((period, Period(start, end), is_current))
    return found


def usage_questions(terms: Terms, spans: Sequence[BillingSpan]) -> tuple[UsageSpans, list[Selector]]:
    """Return what to ask usage for: every billing span, and every metered price of every plan as a selector."""
    columns = BillingSpans.of(spans)
    selectors = [
        selector
        for key in sorted({stretch.plan_key for stretch in columns.stretches})
        for price in terms.plans[key].prices
        for selector in selectors_of(key, price, terms.meters, terms.plans[key].reading)
    ]
    return UsageSpans(columns, terms.plans), selectors


def selectors_of(key: str, price: Any, meters: Mapping[str, Meter], switches: Switches = STRICT) -> Iterator[Selector]:
    """Yield the questions that a price asks of usage: that of its line first; a flat price asks nothing."""
    names = price.meters_read
    if names:
        yield selector_of(key, price, meters[names[0]], switches)
    if is_since_plan(price):
        first = selector_of(key, price, meters[names[0]], switches)
        yield replace(first, selector_id=selector_before(price), is_before=True)
    combined = getattr(price, "combine", None)
    for name in names[1:]:
        where = price.where if combined is None else combined.where
        first = selector_of(key, price, meters[name], switches)
        yield replace(
            first, selector_id=selector_id_of(price, name), where=tuple(sorted(where.items())), cell_by=(), sibling=None
        )


def selector_of(key: str, price: Any, meter: Meter, switches: Switches = STRICT) -> Selector:
    """Return the question that a metered price asks of usage, read as the plan's dialect reads it."""
    return Selector(
        selector_set=key,
        selector_id=price.id,
        meter=meter.name,
        aggregation=meter.aggregation,
        unique_attribute=meter.unique_attribute,
        where=tuple(sorted(price.where.items())),
        by=tuple(sorted(price.by)),
        cell_by=cell_attributes(price),
        bucket=getattr(price, "price_per", None),
        sibling=price.sibling,
        groups_max=price.groups_max,
        measure=measure_under(meter, switches),
    )


def load_terms(
    engine: duckdb.DuckDBPyConnection, terms: Terms, spans: Sequence[BillingSpan], pots: Pots | None = None
) -> None:
    """Make the tables billing_span, currency, and those of the prices (rating.price_tables) in the engine.

    `pots` know what of commitments over several billing periods was used before the spans; without them, nothing was.
    """
    columns = BillingSpans.of(spans)
    register(engine, "billing_span", columns.table())
    used = {stretch.plan_key: terms.plans[stretch.plan_key] for stretch in columns.stretches}
    load_prices(engine, terms.meters, used)
    load_flat_amounts(engine, used, {_lengths(stretch) for stretch in columns.stretches})
    load_flat_parts(engine, terms, used, spans)
    load_adjustments(engine, terms, used, spans, pots or Pots(terms))
    load_included_shares(engine, used, spans)
    currencies = sorted({plan.currency for plan in used.values()})
    load_table(engine, "currency", _CURRENCY_COLUMNS, [_currency_row(currency) for currency in currencies])


_CURRENCY_COLUMNS = {"currency": "text", "minor_per_major": "factor", "minor_unit": "price"}


def _lengths(stretch: Stretch) -> tuple[str, int, int]:
    """Return plan, length of the service period and of the billing period in microseconds."""
    service, period = stretch.service, stretch.period
    return (
        stretch.plan_key,
        (service.end - service.start) // _MICROSECOND,
        (period.end - period.start) // _MICROSECOND,
    )


def _currency_row(currency: str) -> tuple[object, ...]:
    digits = minor_units(currency)
    return currency, Decimal(10) ** digits, Decimal(1).scaleb(-digits)


def _periods_between(cycle: BillingCycle, dates: Period) -> dict[Period, bool]:
    found, start = {}, dates.start
    while start < dates.end:
        period = cycle.period_at(start)
        found[period], start = False, period.end
    return found


def _periods_asked(
    cycle: BillingCycle, current: WallPeriod | None, earlier: Sequence[WallPeriod]
) -> dict[Period, bool]:
    asked = {period: False for wall in earlier for period in cycle.periods_ending_in(wall.in_zone(cycle.timezone))}
    if current is not None:
        asked |= dict.fromkeys(cycle.periods_ending_in(current.in_zone(cycle.timezone)), True)
    return asked
