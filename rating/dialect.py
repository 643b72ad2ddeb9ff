"""How a plan is read where billing systems disagree: named switches, and dialects as sets of their values.

Enters: the `dialect` and the `switches` of a plan, as the catalog files write them. Leaves: `Switches`, one value for each
switch, which the steps of metering and rating ask. Without either, every switch has its strict value.
Refuses: a value that the engine does not do, in a sentence that says why and what to write instead. Nothing is ignored: a
plan that asks for a dialect names, under `switches`, the strict value wherever it accepts ours.
Source: price models, section 10. The table below is in its order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from metering.errors import BadSelector
from metering.measures import Rounding
from rating.proration import DAY_BASES, basis_misfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from metering.catalog import Meter, Place
    from metering.measures import Measure

DialectName = Literal[
    "strict", "stripe", "lago", "openmeter", "orb", "killbill", "flexprice", "meteroid", "m3ter", "zuora", "metronome",
    "togai",
]  # fmt: skip
STRICT_NAME: Final = "strict"
DIALECTS: Final = get_args(DialectName)
HONOURED: Final = ""
# The values of tiers_past_end under which the last tier may end.
ENDING: Final = ("lose", "extend")


@dataclass(frozen=True, slots=True)
class Switch:
    """One question on which systems differ. `others`: each other value, and why the engine does not do it ('': it does)."""

    strict: str
    others: Mapping[str, str]

    @property
    def values(self) -> tuple[str, ...]:
        return self.strict, *self.others


_FROM_CUTS = (
    "what a period costs would depend on when invoices were made, and the pieces would not add up to the period"
)
_EVERYWHERE = "an event is one fact for all plans of a tenant, so no plan can count it differently"
_OUTSIDE = "taxes are worked out by the tax calculator, by line or by invoice (rating.tax), not by a plan"
_GRANTS = "grants and quotas belong to entitlements, which answer all plans alike"

SWITCHES: Final[Mapping[str, Switch]] = {
    "tier_edge": Switch("upper", {"lower": HONOURED}),
    "tier_gap": Switch("continuous", {"lost": HONOURED}),
    "tiers_past_end": Switch("refused", {"lose": HONOURED, "extend": HONOURED, "overage_price": HONOURED}),
    "flat_at_zero": Switch("due", {"waived": HONOURED}),
    "tier_memory": Switch(
        "period",
        {
            "bucket": "the plan must say which buckets; write price_per on the price that restarts in every bucket",
            "since_invoice": _FROM_CUTS,
            "plan_life": "the plan must say whose tiers go on; write tiers_since: plan_start on the graduated price",
        },
    ),
    "part_package": Switch("up", {"down": HONOURED, "up_per_tier": HONOURED}),
    "round_at": Switch(
        "line",
        {
            "component": HONOURED,
            "event": "a thousand events of 0.004 would be worth nothing for ever; component is the finest that is done",
            "unit_price": HONOURED,
        },
    ),
    "conversion_of": Switch("cumulative", {"piece": _FROM_CUTS}),
    "period_end": Switch(
        "open",
        {
            "closed": "an event on the boundary would be billed in two periods",
            "cancel_closed": "the instant of a change would belong to the old plan and to the new one",
        },
    ),
    "proration_basis": Switch("instants", dict.fromkeys(DAY_BASES, HONOURED)),
    "zone_offset": Switch("zone_rules", {"fixed": HONOURED, "utc": HONOURED}),
    "month_end": Switch("clamp", {"overflow": f"{_GRANTS}; a month after 31 January would end in March"}),
    "discount_order": Switch("percent_first", {"amount_first": HONOURED, "listed": HONOURED}),
    "min_max_order": Switch("refused", {"minimum_first": HONOURED, "maximum_first": HONOURED}),
    "cap_basis": Switch("net", {"gross": _FROM_CUTS}),
    "prepaid_and_tax": Switch("after", {"before": HONOURED}),
    "residue": Switch("largest_remainder", {"largest_line": HONOURED, "five_decimals": HONOURED}),
    "unmatched": Switch(
        "default_else_finding", {"unbilled": HONOURED, "default_cell": HONOURED, "skip": HONOURED}
    ),
    "allowance_edge": Switch("free", {"fixed_due": HONOURED}),
    "allowance_pair": Switch("first_to_end", {"units_only": HONOURED}),
    "advance_charge": Switch(
        "delta",
        {"peak": "what a period costs would depend on the order of its events, and falling usage give nothing back"},
    ),
    "quantity_rounding": Switch(
        "half_away_9", {"up_5": HONOURED, "up_20": "a quantity has nine decimals; write up_5, or round on the meter"}
    ),
    "late_usage": Switch("correct", {"two_periods": HONOURED, "frozen": HONOURED}),
    "burn_order": Switch("priority", {"expiry": HONOURED}),
    "grant_grain": Switch("exact", {"minute": f"{_GRANTS}; a grant begins when it says"}),
    "ceiling_meters": Switch(
        "whole_period", {"per_segment": f"{_GRANTS}; a level would be added up over the cuts of a period"}
    ),
    "identity": Switch("one_event", {"two_events": f"{_EVERYWHERE}; and a retry would be billed twice"}),
    "minimum_share": Switch("instants", {"whole_days": HONOURED}),
    "threshold_count": Switch("from_largest", {"from_zero": HONOURED}),
    "tax_rounding": Switch("once", {"each": _OUTSIDE}),
    "negative_value": Switch("refused", {"minimum": HONOURED}),
    # Beyond the table: section 11, fault 7. Tiers of units that are held from day to day.
    "held_flats": Switch("by_day", {"peak": HONOURED}),
    "included_share": Switch("declared", {"never": HONOURED}),
}  # fmt: skip

# What is asked of a price by itself.
OF_PRICES: Final = frozenset(
    {
        "tier_edge", "tier_gap", "tiers_past_end", "flat_at_zero", "part_package", "round_at", "allowance_edge",
        "allowance_pair", "negative_value", "held_flats",
    }
)  # fmt: skip

# Each dialect by what it answers differently from strict.
DIFFERENCES: Final[Mapping[str, Mapping[str, str]]] = {
    "strict": {},
    "stripe": {"late_usage": "frozen"},
    "lago": {
        "round_at": "event", "proration_basis": "local_days", "residue": "five_decimals", "allowance_edge": "fixed_due",
        "allowance_pair": "units_only", "advance_charge": "peak", "quantity_rounding": "up_5", "late_usage": "frozen",
        "identity": "two_events", "minimum_share": "whole_days", "threshold_count": "from_zero",
        "negative_value": "minimum", "held_flats": "peak",
    },
    "openmeter": {
        "round_at": "component", "conversion_of": "piece", "cap_basis": "gross", "late_usage": "frozen",
        "grant_grain": "minute", "ceiling_meters": "per_segment",
    },
    "orb": {
        "discount_order": "amount_first", "min_max_order": "minimum_first", "prepaid_and_tax": "before",
        "late_usage": "frozen", "burn_order": "expiry",
    },
    "killbill": {
        "tiers_past_end": "extend", "part_package": "up_per_tier", "period_end": "cancel_closed",
        "proration_basis": "local_days", "zone_offset": "fixed", "unmatched": "skip", "late_usage": "two_periods",
    },
    "flexprice": {
        "tiers_past_end": "lose", "tier_memory": "bucket", "proration_basis": "days_inclusive", "zone_offset": "utc",
        "discount_order": "listed", "identity": "two_events", "tax_rounding": "each",
    },
    "meteroid": {
        "tier_edge": "lower", "tier_gap": "lost", "round_at": "unit_price", "period_end": "closed",
        "proration_basis": "local_days", "residue": "largest_line", "unmatched": "unbilled",
    },
    "m3ter": {},
    "zuora": {"tiers_past_end": "overage_price", "included_share": "never"},
    "metronome": {"late_usage": "frozen"},
    "togai": {"late_usage": "frozen"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Switches:
    """The value of every switch of a plan; only what differs from strict is kept."""

    different: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, dialect: str = STRICT_NAME, switches: Mapping[str, str] | None = None) -> Switches:
        """Return the values of a dialect with single ones overridden. Refuses nothing: `refusals` does."""
        chosen = {**DIFFERENCES[dialect], **(switches or {})}
        return cls(tuple(sorted((name, value) for name, value in chosen.items() if value != SWITCHES[name].strict)))

    def __getitem__(self, name: str) -> str:
        return dict(self.different).get(name, SWITCHES[name].strict)

    @property
    def of_prices(self) -> dict[str, str]:
        """Return what differs in how a price is read by itself, without what stands around it."""
        return {name: value for name, value in self.different if name in OF_PRICES}

    @property
    def is_strict(self) -> bool:
        return not self.different


STRICT: Final = Switches()


def ends_of(plan: Any) -> bool:
    """Return whether the tiers of a plan, as it is written, may end. Refuses nothing: what is wrong is said later."""
    if not isinstance(plan, Mapping):
        return getattr(plan, "reading", STRICT)["tiers_past_end"] in ENDING
    dialect, switches = plan.get("dialect", STRICT_NAME), plan.get("switches")
    said = switches.get("tiers_past_end") if isinstance(switches, Mapping) else None
    told = DIFFERENCES[dialect].get("tiers_past_end") if isinstance(dialect, str) and dialect in DIFFERENCES else None
    return (said or told) in ENDING


def _zone_without_changes(plan: Any, _: str) -> str:
    zone = plan.billing_period.timezone
    if zone == "UTC" or zone.startswith("Etc/"):
        return ""
    return f"the clocks of {zone} change, and periods would begin an hour off; write timezone: Etc/GMT-1 or the like"


def _zone_is_utc(plan: Any, _: str) -> str:
    zone = plan.billing_period.timezone
    return "" if zone in {"UTC", "Etc/UTC"} else f"the plan is in {zone}; write timezone: UTC"


def _cells_have_defaults(plan: Any, _: str) -> str:
    named = {"matrix": "default_unit_price", "dynamic": "default"}
    for price in plan.prices:
        if price.type in named and getattr(price, named[price.type]) is None:
            return f"price {price.id!r} has no default; write its {named[price.type]}"
    return ""


def _nothing_prorated(plan: Any, _: str) -> str:
    said = [price.id for price in plan.prices if getattr(price, "prorate_included", False)]
    return f"price {said[0]!r} says prorate_included: true; leave that out" if said else ""


def _nothing_held_ends(plan: Any, _: str) -> str:
    for price in plan.prices:
        if getattr(price, "tiers_by", "quantity") == "held" and price.tiers[-1].up_to is not None:
            return f"price {price.id!r} holds units, and its last tier ends; leave out the up_to of that one"
    return ""


def _basis_is_free(plan: Any, value: str) -> str:
    said = plan.billing_period
    if said.proration == "instants":
        return basis_misfit(value, said.every)
    if said.proration != value and "proration_basis" in plan.switches:
        return f"billing_period says proration: {said.proration}; leave out one of the two"
    return ""


# What a value asks of the rest of the plan: (switch, value) to a sentence of what is in the way, or ''.
CONDITIONS: Final[Mapping[tuple[str, str], Callable[[Any, str], str]]] = {
    ("tiers_past_end", "lose"): _nothing_held_ends,
    ("zone_offset", "fixed"): _zone_without_changes,
    ("zone_offset", "utc"): _zone_is_utc,
    ("unmatched", "default_cell"): _cells_have_defaults,
    ("included_share", "never"): _nothing_prorated,
    **{("proration_basis", basis): _basis_is_free for basis in DAY_BASES},
}


def refusals(dialect: str, switches: Mapping[str, str], plan: Any = None) -> list[tuple[Place, str]]:
    """Return (place below the plan, sentence) of everything that a plan asks for and the engine does not do.

    Some values ask something of the rest of the plan; that is looked at where `plan` is given.
    """
    found: list[tuple[Place, str]] = []
    for name, value in switches.items():
        if name not in SWITCHES:
            found.append((("switches", name), f"nobody knows the switch {name!r}; write one of {', '.join(SWITCHES)}"))
        elif value not in SWITCHES[name].values:
            known = ", ".join(SWITCHES[name].values)
            found.append((("switches", name), f"{name} has no value {value!r}; write one of {known}"))
        elif reason := _reason(name, value, plan):
            sentence = (
                f"{name}: {value} is not done here: {reason}; write {name}: {SWITCHES[name].strict}, or leave it out"
            )
            found.append((("switches", name), sentence))
    kept = {name: value for name, value in DIFFERENCES[dialect].items() if name not in switches}
    refused = {name: reason for name, value in kept.items() if (reason := _reason(name, value, plan))}
    if refused:
        listed = "; ".join(f"{name}: {kept[name]} ({reason})" for name, reason in refused.items())
        accepted = ", ".join(f"{name}: {SWITCHES[name].strict}" for name in refused)
        sentence = f"not all of the dialect {dialect} is done here: {listed}"
        sentence += f". Where our answer is fine write switches: {{{accepted}}}"
        found.append((("dialect",), sentence))
    return found


def _reason(name: str, value: str, plan: Any) -> str:
    """Return why a value of a switch is not done under a plan; '' where it is."""
    if reason := SWITCHES[name].others.get(value, HONOURED):
        return reason
    condition = CONDITIONS.get((name, value))
    return "" if condition is None or plan is None else condition(plan, value)


def measure_under(meter: Meter, switches: Switches) -> Measure:
    """Return how a meter is read under a plan: a quantity that was divided by days may be rounded up to five places.

    Raises BadSelector where the meter rounds as well: there, one system would round twice, and we do not.
    """
    measure = meter.measure
    if switches["quantity_rounding"] != "up_5" or not measure.prorate:
        return measure
    if measure.rounding is not None:
        raise BadSelector(
            f"meter {meter.name} rounds its quantity, and the plan's switch quantity_rounding: up_5 would round it before "
            "that; remove round from the meter, or write quantity_rounding: half_away_9 in the plan",
            selector_id=meter.name,
        )
    return replace(measure, rounding=Rounding("ceil", 5))
