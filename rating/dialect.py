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
from typing import TYPE_CHECKING, Final, Literal, get_args

from metering.errors import BadSelector
from metering.measures import Rounding

if TYPE_CHECKING:
    from metering.catalog import Meter, Place
    from metering.measures import Measure

DialectName = Literal[
    "strict", "stripe", "lago", "openmeter", "orb", "killbill", "flexprice", "meteroid", "m3ter", "zuora", "metronome",
    "togai",
]  # fmt: skip
STRICT_NAME: Final = "strict"
DIALECTS: Final = get_args(DialectName)
HONOURED: Final = ""


@dataclass(frozen=True, slots=True)
class Switch:
    """One question on which systems differ. `others`: each other value, and why the engine does not do it ('': it does)."""

    strict: str
    others: Mapping[str, str]

    @property
    def values(self) -> tuple[str, ...]:
        return self.strict, *self.others


_NO_SILENCE = "usage would go unbilled without a word"
_FROZEN = "a final invoice would stay wrong although its usage is known"
_DRIFT = "the pieces would not add up to the period"
_OUTSIDE = "it is not a matter of a plan"

SWITCHES: Final[Mapping[str, Switch]] = {
    "tier_edge": Switch("upper", {"lower": "up_to is the last quantity of its tier; write the tiers with the edges you mean"}),
    "tier_gap": Switch("continuous", {"lost": _NO_SILENCE}),
    "tiers_past_end": Switch(
        "refused",
        {
            "lose": _NO_SILENCE,
            "extend": "the last tier must say that it is open; leave out its up_to",
            "overage_price": "the price beyond the tiers is a tier too; write it as the last one",
        },
    ),
    "flat_at_zero": Switch("due", {"waived": "write a first tier up_to 0 without a flat amount"}),
    "tier_memory": Switch(
        "period",
        {
            "bucket": "write price_per on the price that restarts in every bucket",
            "since_invoice": "an invoice in between would change what the same usage costs",
            "plan_life": "tiers belong to a billing period; write a longer billing period",
        },
    ),
    "part_package": Switch(
        "up", {"down": "write part: down on the price", "up_per_tier": "write packages inside the tiers of the price"}
    ),
    "round_at": Switch("line", {"component": _DRIFT, "event": _DRIFT, "unit_price": _DRIFT}),
    "conversion_of": Switch("cumulative", {"piece": _DRIFT}),
    "period_end": Switch(
        "open",
        {
            "closed": "an event on the boundary would be billed in two periods",
            "cancel_closed": "the instant of a change would belong to the old plan and to the new one",
        },
    ),
    "proration_basis": Switch(
        "instants",
        {
            "local_days": "write the basis on the plan's proration",
            "days_inclusive": "write the basis on the plan's proration",
            "thirty_day_month": "write the basis on the plan's proration",
            "nominal_year": "write the basis on the plan's proration",
        },
    ),
    "zone_offset": Switch(
        "zone_rules",
        {
            "fixed": "periods would begin an hour off after the clocks change; write a zone such as Etc/GMT-1 if you mean it",
            "utc": "write timezone: UTC",
        },
    ),
    "month_end": Switch("clamp", {"overflow": "a month after 31 January would end in March"}),
    "discount_order": Switch(
        "percent_first",
        {"amount_first": "percent discounts are taken before fixed ones", "listed": "percent discounts are taken first"},
    ),
    "min_max_order": Switch(
        "refused",
        {
            "minimum_first": "a maximum below the minimum is a mistake; correct one of them",
            "maximum_first": "a maximum below the minimum is a mistake; correct one of them",
        },
    ),
    "cap_basis": Switch("net", {"gross": "a discount would use up the cap, and the customer pay less than the cap says"}),
    "prepaid_and_tax": Switch("after", {"before": "the tax would depend on how an invoice is paid"}),
    "residue": Switch(
        "largest_remainder",
        {
            "largest_line": "the cents left over would all go to one line",
            "five_decimals": "shares would have decimals that the currency has not",
        },
    ),
    "unmatched": Switch(
        "default_else_finding",
        {"unbilled": _NO_SILENCE, "default_cell": "write a default on the price", "skip": _NO_SILENCE},
    ),
    "allowance_edge": Switch("free", {"fixed_due": "the event that ends exactly on the free units is free"}),
    "allowance_pair": Switch("first_to_end", {"units_only": "write free_units alone"}),
    "advance_charge": Switch("delta", {"peak": "falling usage would give nothing back and rising usage charge nothing"}),
    "quantity_rounding": Switch(
        "half_away_9", {"up_5": HONOURED, "up_20": "a quantity has nine decimals; write up_5, or round on the meter"}
    ),
    "late_usage": Switch("correct", {"two_periods": _NO_SILENCE, "frozen": _FROZEN}),
    "burn_order": Switch("priority", {"expiry": "give all balances the same priority; the next to expire is then first"}),
    "grant_grain": Switch("exact", {"minute": "a grant begins when it says"}),
    "ceiling_meters": Switch("whole_period", {"per_segment": "a level would be added up over the cuts of a period"}),
    "identity": Switch("one_event", {"two_events": "a retry would be billed twice"}),
    "minimum_share": Switch("instants", {"whole_days": "write the basis on the plan's proration"}),
    "threshold_count": Switch("from_largest", {"from_zero": "a threshold would fire before the amount that it names"}),
    "tax_rounding": Switch("once", {"each": _OUTSIDE}),
    "negative_value": Switch("refused", {"minimum": "a negative value would be charged the minimum"}),
    # Beyond the table: section 11, fault 7. Tiers of units that are held from day to day.
    "held_flats": Switch("by_day", {"peak": HONOURED}),
    "included_share": Switch("declared", {"never": "write prorate: false on the included quantity"}),
}  # fmt: skip

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
    def is_strict(self) -> bool:
        return not self.different


STRICT: Final = Switches()


def refusals(dialect: str, switches: Mapping[str, str]) -> list[tuple[Place, str]]:
    """Return (place below the plan, sentence) of everything that a plan asks for and the engine does not do."""
    found: list[tuple[Place, str]] = []
    for name, value in switches.items():
        if name not in SWITCHES:
            found.append((("switches", name), f"nobody knows the switch {name!r}; write one of {', '.join(SWITCHES)}"))
        elif value not in SWITCHES[name].values:
            known = ", ".join(SWITCHES[name].values)
            found.append((("switches", name), f"{name} has no value {value!r}; write one of {known}"))
        elif reason := SWITCHES[name].others.get(value, HONOURED):
            sentence = (
                f"{name}: {value} is not done here: {reason}; write {name}: {SWITCHES[name].strict}, or leave it out"
            )
            found.append((("switches", name), sentence))
    kept = {name: value for name, value in DIFFERENCES[dialect].items() if name not in switches}
    refused = {name: SWITCHES[name].others[value] for name, value in kept.items() if SWITCHES[name].others[value]}
    if refused:
        listed = "; ".join(f"{name}: {kept[name]} ({reason})" for name, reason in refused.items())
        accepted = ", ".join(f"{name}: {SWITCHES[name].strict}" for name in refused)
        sentence = f"not all of the dialect {dialect} is done here: {listed}"
        sentence += f". Where our answer is fine write switches: {{{accepted}}}"
        found.append((("dialect",), sentence))
    return found


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
