"""Lint: what a catalog may say and probably does not mean, found in the plans alone.

Enters: the terms of sale. Leaves: findings, each with a code, a severity and what to do about it.
Refuses: to repeat what the catalog's models refuse already (gaps, overlaps, unknown names), to look at usage (that is
`rating.lint_history`, which also prices these findings), and to compute worth by rules of its own: cliffs are found by
asking the very SQL that rates invoices what a quantity at a tier's edge is worth, and one just above it.

Every check is a small function over one plan. A price type that a check does not know is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from metering.numbers import exact_arithmetic, plain, trimmed
from rating.iso4217 import minor_units
from rating.lint_floors import floors_inside
from rating.phases import plan_keys_of
from rating.rate import rate_quantities
from rating.rounding import exact_sum, round_amount
from rating.spans import plan_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rating.plans import Plan
    from rating.terms import Terms

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
# Every code, how bad it is, and what it means; docs/lint.md says the same with what to do.
CODES: dict[str, tuple[Severity, str]] = {
    "maximum_below_minimum": ("error", "a maximum is below what the minimums and promises inside it owe together"),
    "usage_unpriced": ("warning", "the plan prices the meter, but some of its usage matches no price"),
    "tier_cliff": ("warning", "one unit more than a tier holds costs less than the tier's last unit"),
    "tier_jump": ("warning", "one unit more makes every unit before it dearer"),
    "tier_beyond_quota": ("warning", "a blocked quota ends before the tier begins, so nobody reaches it"),
    "tier_unreachable": ("warning", "quantities come in whole steps, and none lies between the edges of the tier"),
    "prices_overlap": ("warning", "two prices charge the same usage events"),
    "commitment_idle": ("warning", "a commitment adds nothing, or says how to share what it never adds"),
    "price_negative": ("warning", "using more lowers the invoice"),
    "included_and_free_tier": ("warning", "units are free twice: included, and again in a first tier at 0"),
    "more_decimals": ("warning", "an amount due as it stands has more decimals than its currency"),
    "meter_unpriced": ("warning", "no plan has a price on the meter"),
    "meter_not_in_plan": ("warning", "tenants of the plan use a meter that the plan has no price on"),
    "negative_usage": ("warning", "usage below zero is rated as zero"),
    "many_groups": ("warning", "a price that splits by attributes makes very many lines"),
    "ledger_unmapped": ("warning", "amounts would be posted to no account of the general ledger"),
    "tier_repeated": ("info", "a tier has the price of the one before it"),
    "price_zero": ("info", "a price that is always 0"),
    "package_of_one": ("info", "a package of one unit rounds parts of a unit up"),
    "flat_at_zero": ("info", "a first tier's flat amount is due without any usage"),
    "quota_above_free_tier": ("info", "the quota goes beyond what the first tier gives for nothing"),
    "plan_unused": ("info", "nobody is, or ever was, on the plan version"),
    "price_without_usage": ("info", "a price whose meter nobody used"),
}
# The smallest step of a quantity; what lies just above a tier's edge.
STEP = Decimal("0.000000001")
# The fields of prices and tiers that are money, or a share of money.
_MONEY = ("amount", "unit_price", "package_price", "flat_amount", "percent", "minimum", "fixed_amount")
_ALONE: dict[str, Any] = {
    "where": {}, "by": (), "sibling": None, "groups_max": None, "convert": None, "price_per": None,
    "included_per": "price", "tiers_over": "group", "tiers_by": "quantity", "tiers_since": "period", "combine": None,
    "groups_priced": "all",
    "prorate_included": False, "bucket_commitment": None, "line_limits": None, "included_from": None,
    "amount_tiers": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is legal and probably wrong. `message` says what, where and what to do.

    `tenants` and `amount` price it on history: how many tenants were concerned, and how much money of theirs; None where
    history was not asked or says nothing.
    """

    code: str
    message: str
    plan: str | None = None
    version: int | None = None
    price_id: str | None = None
    meter: str | None = None
    edge: Decimal | None = None
    other_price_id: str | None = None
    tenants: int | None = None
    amount: Decimal | None = None
    currency: str | None = None

    @property
    def severity(self) -> Severity:
        return CODES[self.code][0]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; amounts as text."""
        return {
            "code": self.code,
            "severity": self.severity,
            "plan": self.plan,
            "version": self.version,
            "price_id": self.price_id,
            "other_price_id": self.other_price_id,
            "meter": self.meter,
            "message": self.message,
            "tenants": self.tenants,
            "amount": None if self.amount is None else plain(self.amount),
            "currency": self.currency,
        }


def lint_catalog(terms: Terms) -> list[Finding]:
    """Return what looks wrong in the plans, the worst first. Pure: the same terms, the same findings."""
    findings = [
        finding for _, plan in sorted(terms.plans.items()) for check in PLAN_CHECKS for finding in check(plan, terms)
    ]
    return in_order([*findings, *find_unpriced_meters(terms), *find_unused_plans(terms)])


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by severity, then plan, price and code."""
    return sorted(
        findings,
        key=lambda one: (
            SEVERITIES.index(one.severity),
            one.plan or "",
            one.version or 0,
            one.price_id or "",
            one.meter or "",
            one.code,
            one.edge or 0,
        ),
    )


def find_cliffs(plan: Plan, terms: Terms) -> Iterator[Finding]:
    """Find edges at which the worth falls, or at which a volume price makes all earlier units dearer."""
    asked = [(price, edge) for price in plan.prices for edge in _edges(price)]
    prices = [alone(price) for price, _ in asked for _ in range(3)]
    # Where an edge belongs to the tier that begins there, the cliff is just before it.
    down = plan.reading["tier_edge"] == "lower"
    quantities = [
        more - step_of(price, terms) * down
        for price, edge in asked
        for more in (edge, edge + step_of(price, terms), edge + 1)
    ]
    worth = rate_alone(prices, quantities, plan) if asked else []
    for number, (price, edge) in enumerate(asked):
        at, above, one_more = worth[3 * number : 3 * number + 3]
        unit = _unit(price, terms)
        more = f"{trimmed(edge + 1)} {unit} {_paper(one_more, plan)}"
        where = f"{trimmed(edge)} {unit} are worth {_paper(at, plan)}"
        if step_of(price, terms) < 1:
            where = f"{where}, any part of a unit more {_paper(above, plan)}"
        if above < at:
            yield _of(plan, price, "tier_cliff", (
                f"{where}, {more}: {_paper(at - above, plan)} less for using more. Raise the flat amount or unit price of "
                "the tier above, or use graduated tiers"
            ), edge=edge)  # fmt: skip
        elif price.type == "volume" and _rises(price, edge):
            yield _of(plan, price, "tier_jump", (
                f"{where}, {more}, because the dearer unit price holds for all units. If only the units above the edge are "
                "meant, use graduated tiers"
            ), edge=edge)  # fmt: skip


def rate_alone(prices: Sequence[Any], quantities: Sequence[Decimal], plan: Plan) -> list[Decimal]:
    """Return what each quantity is worth under the price beside it, read as the plan reads it. What it loses is worth 0."""
    switches = {
        name: value for name, value in plan.reading.of_prices.items() if name not in {"tier_gap", "tiers_past_end"}
    }
    rated = rate_quantities(prices, quantities, currency=plan.currency, switches=switches)
    return [one.exact_amount for one in rated]


def step_of(price: Any, terms: Terms) -> Decimal:
    """Return the least by which a quantity can grow: 1 where events or values are counted, else a billionth.

    Where the quantity is converted, it is the step that the conversion rounds to.
    """
    if getattr(price, "convert", None) is not None:
        return Decimal(1).scaleb(-price.convert.places_kept)
    return Decimal(1) if terms.meters[price.meter].aggregation in {"count", "unique_count"} else STEP


def alone(price: Any) -> Any:
    """Return the price as it rates one quantity in its own unit: without filters, groups, buckets and conversion."""
    return price.model_copy(update={name: value for name, value in _ALONE.items() if name in type(price).model_fields})


def find_repeated_tiers(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find tiers that change nothing."""
    for price in plan.prices:
        tiers = getattr(price, "tiers", ())
        for number in range(1, len(tiers)):
            before, tier = _terms_of(tiers[number - 1]), _terms_of(tiers[number])
            # In graduated tiers every flat amount adds to those before; elsewhere the tier's own replaces them.
            adds = "graduated" in price.type and any(value for name, value in tier.items() if name == "flat_amount")
            if before == tier and not adds:
                yield _of(plan, price, "tier_repeated", (
                    f"tier {number + 1} has the same price as tier {number}; join them, or correct one of the two prices"
                ))  # fmt: skip


def find_unreachable_tiers(plan: Plan, terms: Terms) -> Iterator[Finding]:
    """Find tiers between whose edges no quantity lies: 1.2 to 1.8 calls, or 5,000 to 5,400 units in whole thousands."""
    is_lower = plan.reading["tier_edge"] == "lower"
    for price in plan.prices:
        step, tiers = _whole_step(price, terms), () if price.type == "capacity" else getattr(price, "tiers", ())
        for number, (low, high) in enumerate(pairwise(_edges(price)) if step and tiers else (), start=2):
            # The first quantity that is beyond the lower edge, or on it where it belongs to this tier.
            with exact_arithmetic():
                first = low if is_lower and low % step == 0 else (low // step + 1) * step
            if first > high or (is_lower and first == high):
                yield _of(plan, price, "tier_unreachable", (
                    f"tier {number} holds no quantity: they come in steps of {trimmed(step)}, and none lies from {trimmed(low)} "
                    f"to {trimmed(high)} {_unit(price, terms)}; remove the tier, or correct its edges"
                ), edge=low)  # fmt: skip


def _whole_step(price: Any, terms: Terms) -> Decimal:
    """Return the step in which quantities come, however much is used; 0 where they may have any decimals."""
    convert = getattr(price, "convert", None)
    if convert is not None:
        return Decimal(0) if convert.rounding == "none" else step_of(price, terms)
    meter = terms.meters.get(price.meter or "")
    is_counted = meter is not None and meter.aggregation in {"count", "unique_count"} and meter.prorate is None
    is_split = any(getattr(price, name, None) is not None for name in ("weights", "combine"))
    return Decimal(1) if is_counted and not is_split else Decimal(0)


def find_overlaps(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find pairs of prices on one meter whose filters let the same event through."""
    metered = [price for price in plan.prices if price.meter is not None]
    for at, price in enumerate(metered):
        for other in metered[at + 1 :]:
            if price.meter == other.meter and not _are_siblings(price, other) and _may_both_match(price, other):
                yield _of(plan, other, "prices_overlap", (
                    f"it and price {price.id} both charge events of meter {price.meter} that match "
                    f"{_filters(price, other)}. If an event should be charged once, give each price a where of its own"
                ), other=price.id)  # fmt: skip


def find_odd_amounts(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find prices of nothing, prices below nothing, and amounts that cannot be paid as they stand."""
    digits = minor_units(plan.currency)
    for price in plan.prices:
        amounts = list(_amounts(price))
        if amounts and not any(amount for _, amount in amounts):
            yield _of(plan, price, "price_zero", (
                "it is always 0; write the price, or leave it if the line is there to show what is free"
            ))  # fmt: skip
        for name, amount in amounts:
            if amount < 0:
                yield _of(plan, price, "price_negative", (
                    f"{name} is {trimmed(amount)}, so using more lowers the invoice; if it is a rebate, write a discount"
                ))  # fmt: skip
            if not name.endswith(("unit_price", "percent")) and amount != round_amount(amount, digits):
                yield _of(plan, price, "more_decimals", (
                    f"{name} {trimmed(amount)} has more than the {digits} decimals of {plan.currency}, so the line shows "
                    f"{_paper(amount, plan)}; write an amount that can be paid"
                ))  # fmt: skip
        if getattr(price, "package_size", None) == 1:
            yield _of(plan, price, "package_of_one", (
                "a package of 1 only rounds parts of a unit up; write type: unit if no rounding is meant"
            ))  # fmt: skip


def find_first_tiers(plan: Plan, terms: Terms) -> Iterator[Finding]:
    """Find first tiers that charge for nothing used, or that give away what is included already."""
    for price in plan.prices:
        first = next(iter(getattr(price, "tiers", ())), None)
        if first is None or price.type == "capacity":
            continue
        is_due = plan.reading["flat_at_zero"] == "due"
        if is_due and first.flat_amount > 0 and first.up_to != 0:
            yield _of(plan, price, "flat_at_zero", (
                f"{_paper(first.flat_amount, plan)} of the first tier is due also without usage; write a first tier "
                "up_to: 0 without a flat amount, or switches: {flat_at_zero: waived}, if only users should pay it"
            ))  # fmt: skip
        included = _included(price)
        if included and first.up_to is not None and _is_free(first):
            unit = _unit(price, terms)
            yield _of(plan, price, "included_and_free_tier", (
                f"{trimmed(included)} {unit} are included and the first {trimmed(first.up_to)} above them are free as "
                "well, because tiers begin after what is included; keep one of the two"
            ))  # fmt: skip


def find_cheaper_capacities(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find tiers of a capacity that cost less than the narrower one before."""
    for price in plan.prices:
        if price.type != "capacity":
            continue
        for number, (before, tier) in enumerate(pairwise(price.tiers), start=2):
            if tier.flat_amount < before.flat_amount:
                less = _paper(before.flat_amount - tier.flat_amount, plan)
                yield _of(plan, price, "tier_cliff", (
                    f"tier {number} has wider limits than tier {number - 1} and costs {less} less; correct one of the two "
                    "amounts, or remove the narrower tier"
                ))  # fmt: skip


def find_limits(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find a maximum that lies below what the minimums, commitments and promises per bucket inside it owe together.

    A single minimum or commitment above the maximum is refused by the plan itself, unless it says which of the two wins.
    """
    for maximum in plan.maximums if plan.reading["min_max_order"] == "refused" else ():
        inside = floors_inside(plan, maximum)
        promised = exact_sum([floor.amount for floor in inside])
        if maximum.amount < promised:
            yield Finding(
                "maximum_below_minimum",
                f"the maximum {maximum.id} is {trimmed(maximum.amount)}, below the {trimmed(promised)} that "
                f"{', '.join(floor.name for floor in inside)} owe together; raise it, or lower one of them",
                plan.name,
                plan.version,
                maximum.id,
            )


def find_idle_commitments(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find commitments that change no amount, or say how to share what they never add."""
    for one in plan.commitments:
        if one.overage_factor == 1 and (not one.true_up or one.share == "pro_rata"):
            why = "nothing is dearer beyond it" + ("" if one.true_up else ", and what is missing of it is not owed")
            what = "remove it, or write an overage_factor above 1" + (
                ", or true_up" if not one.true_up else ", or leave out share"
            )
            yield Finding(
                "commitment_idle", f"the commitment {one.id}: {why}; {what}", plan.name, plan.version, one.id
            )  # fmt: skip


def find_quotas(plan: Plan, _: Terms) -> Iterator[Finding]:
    """Find quotas of the plan's entitlements that do not fit its tiers."""
    for entitlement in plan.entitlements:
        if entitlement.quota is None or entitlement.reset not in {None, "billing_period"}:
            continue
        for price in plan.prices:
            tiers = getattr(price, "tiers", ())
            if price.meter != entitlement.meter or price.where or not tiers or price.type == "capacity":
                continue
            if getattr(price, "included_from", None) == entitlement.feature:
                # Its tiers begin where the grants end.
                continue
            quota, free = entitlement.quota, _included(price)
            beyond = [tier.up_to for tier in tiers[:-1] if free + tier.up_to >= quota]
            if entitlement.overage == "blocked" and beyond:
                yield _of(plan, price, "tier_beyond_quota", (
                    f"the quota of {entitlement.feature} blocks at {trimmed(quota)}, so the tiers above "
                    f"{trimmed(beyond[0])} are never reached; raise the quota or remove them"
                ), edge=beyond[0])  # fmt: skip
            if tiers[0].up_to is not None and _is_free(tiers[0]):
                free += tiers[0].up_to
                if free < quota:
                    yield _of(plan, price, "quota_above_free_tier", (
                        f"the quota of {entitlement.feature} is {trimmed(quota)}, but only {trimmed(free)} are free: the "
                        "tenant pays within the quota; make them equal if the quota is what the fee buys"
                    ))  # fmt: skip


def find_unpriced_meters(terms: Terms) -> Iterator[Finding]:
    """Find meters that no plan has a price on."""
    priced = {meter for plan in terms.plans.values() for price in plan.prices for meter in price.meters_read}
    entitled = {entitlement.meter for plan in terms.plans.values() for entitlement in plan.entitlements}
    for name in sorted(set(terms.meters) - priced):
        why = "; it limits an entitlement only" if name in entitled else ""
        yield Finding(
            "meter_unpriced", f"no plan has a price on meter {name}{why}; add a price, or stop recording it", meter=name
        )


def find_unused_plans(terms: Terms) -> Iterator[Finding]:
    """Find plan versions without a subscription, past ones included."""
    used = {plan_key(*key) for one in terms.subscriptions for key in plan_keys_of(one)}
    for key, plan in sorted(terms.plans.items()):
        if key not in used:
            yield Finding(
                "plan_unused",
                "no subscription is or ever was on this version; remove it, or put a subscription on it",
                plan.name,
                plan.version,
            )


PLAN_CHECKS: tuple[Callable[[Plan, Terms], Iterator[Finding]], ...] = (
    find_cliffs,
    find_repeated_tiers,
    find_unreachable_tiers,
    find_overlaps,
    find_odd_amounts,
    find_first_tiers,
    find_cheaper_capacities,
    find_limits,
    find_idle_commitments,
    find_quotas,
)


def _of(
    plan: Plan, price: Any, code: str, message: str, *, edge: Decimal | None = None, other: str | None = None
) -> Finding:
    return Finding(code, message, plan.name, plan.version, price.id, price.meter, edge, other)


def _unit(price: Any, terms: Terms) -> str:
    unit = terms.meters[price.meter].unit
    return unit if getattr(price, "convert", None) is None else f"converted {unit}"


def _paper(amount: Decimal, plan: Plan) -> str:
    return f"{plain(round_amount(amount, minor_units(plan.currency)))} {plan.currency}"


def _edges(price: Any) -> list[Decimal]:
    """Return the quantities at which a tier ends, included units counted too, in the unit that is priced."""
    tiers: Sequence[Any] = getattr(price, "tiers", ())
    return [_included(price) + tier.up_to for tier in tiers if getattr(tier, "up_to", None) is not None]


def _rises(price: Any, edge: Decimal) -> bool:
    at = [_included(price) + tier.up_to for tier in price.tiers[:-1]].index(edge)
    return bool(edge and price.tiers[at + 1].unit_price > price.tiers[at].unit_price)


def _included(price: Any) -> Decimal:
    included = getattr(price, "included", None)
    return included if isinstance(included, Decimal) else Decimal(0)


def _terms_of(tier: Any) -> dict[str, Any]:
    """Return what a tier charges, by name of the field; whatever fields its type has."""
    return {name: getattr(tier, name) for name in type(tier).model_fields if name not in {"up_to", "limits"}}


def _is_free(tier: Any) -> bool:
    return not any(getattr(tier, name, None) for name in _MONEY)


def _amounts(price: Any) -> Iterator[tuple[str, Decimal]]:
    """Yield every amount and unit price that a price names, with the name it has in the catalog file."""
    for name in _MONEY:
        if isinstance(amount := getattr(price, name, None), Decimal):
            yield name, amount
    for number, tier in enumerate(getattr(price, "tiers", ()), start=1):
        for name in _MONEY:
            if isinstance(amount := getattr(tier, name, None), Decimal):
                yield f"tier {number} {name}", amount


def _are_siblings(price: Any, other: Any) -> bool:
    """Return whether two prices split the events between them, so that each event goes to one."""
    group = getattr(price, "sibling", None)
    return group is not None and group == getattr(other, "sibling", None)


def _may_both_match(price: Any, other: Any) -> bool:
    shared = set(price.where) & set(other.where)
    return all(_values(price, name) is None or _values(other, name) is None
               or _values(price, name) & _values(other, name) for name in shared)  # type: ignore[operator] # fmt: skip


def _values(price: Any, name: str) -> frozenset[str] | None:
    """Return the values that a filter lists; None where it only asks that the attribute is there."""
    listed = price.where[name]
    return None if listed is None else frozenset(listed)


def _filters(price: Any, other: Any) -> str:
    names = sorted({*price.where, *other.where})
    return f"both filters on {', '.join(names)}" if names else "anything: neither has a where"
