"""Named switches: what a dialect asks for, what is done, and what is refused in a sentence."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from metering.catalog import Meter
from metering.errors import BadSelector
from metering.periods import Period
from rating.dialect import DIALECTS, DIFFERENCES, STRICT, SWITCHES, Switches, measure_under, refusals
from rating.plans import Plan
from rating.proration import share_between
from tallybook.catalog_history import definition_of
from tests import oracle
from tests.rated import engine, engine_lines


def plan(**terms: object) -> Plan:
    return Plan.model_validate({"name": "pro", "version": 1, "currency": "EUR", **terms})


def test_a_plan_is_strict_unless_it_says_otherwise() -> None:
    assert plan().reading is not None
    assert plan().reading == STRICT == Switches.of("strict")
    assert all(STRICT[name] == switch.strict for name, switch in SWITCHES.items())


def test_every_dialect_is_made_of_known_values() -> None:
    assert set(DIFFERENCES) == set(DIALECTS)
    for values in DIFFERENCES.values():
        assert all(value in SWITCHES[name].others for name, value in values.items())


def test_what_is_not_done_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(ValidationError, match=r"conversion_of: piece \(what a period costs would depend on when"):
        plan(dialect="openmeter")
    with pytest.raises(ValidationError, match="cap_basis: gross is not done here"):
        plan(switches={"cap_basis": "gross"})
    with pytest.raises(ValidationError, match="nobody knows the switch 'rounding'"):
        plan(switches={"rounding": "up"})
    with pytest.raises(ValidationError, match="tier_edge has no value 'middle'; write one of upper, lower"):
        plan(switches={"tier_edge": "middle"})


# What of each dialect is not done; the others are done as a whole. The page says the same.
NOT_DONE = {
    "lago": {"round_at", "advance_charge", "identity"},
    "openmeter": {"conversion_of", "cap_basis", "grant_grain", "ceiling_meters"},
    "killbill": {"period_end"},
    "meteroid": {"period_end"},
    "flexprice": {"tier_memory", "identity", "tax_rounding"},
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_of_a_dialect_is_done(dialect: str) -> None:
    refused = NOT_DONE.get(dialect, set())
    accepted = {name: SWITCHES[name].strict for name in refused}
    assert plan(dialect=dialect, switches=accepted).reading == Switches.of(dialect, accepted)
    assert {name for name, value in DIFFERENCES[dialect].items() if SWITCHES[name].others[value]} == refused
    if refused:
        with pytest.raises(ValidationError, match=f"not all of the dialect {dialect} is done here"):
            plan(dialect=dialect)


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"switches": {"zone_offset": "fixed"}, "billing_period": {"timezone": "Europe/Paris"}}, "Etc/GMT-1"),
        ({"switches": {"zone_offset": "utc"}, "billing_period": {"timezone": "Europe/Paris"}}, "timezone: UTC"),
        (
            {"switches": {"proration_basis": "local_days"}, "billing_period": {"proration": "days_inclusive"}},
            "leave out one of the two",
        ),
        ({"switches": {"proration_basis": "nominal_year"}}, "a month is no year of 365 days"),
        (
            {
                "switches": {"included_share": "never"},
                "prices": [
                    {"id": "a", "meter": "m", "type": "unit", "unit_price": 1, "included": 5, "prorate_included": True}
                ],
            },
            "leave that out",
        ),
        (
            {
                "switches": {"unmatched": "default_cell"},
                "prices": [{"id": "a", "meter": "m", "type": "matrix", "attributes": ["b"], "cells": []}],
            },
            "write its default_unit_price",
        ),
        (
            {
                "switches": {"tiers_past_end": "lose"},
                "prices": [
                    {
                        "id": "a",
                        "meter": "m",
                        "type": "volume",
                        "tiers_by": "held",
                        "tiers": [{"up_to": 5, "unit_price": 1}],
                    }
                ],
            },
            "leave out the up_to of that one",
        ),
    ],
)
def test_an_answer_that_the_rest_of_the_plan_contradicts_is_refused(terms: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        plan(**terms)


def test_tiers_may_end_only_where_the_plan_says_what_comes_after() -> None:
    ending = {"id": "a", "meter": "m", "type": "graduated", "tiers": [{"up_to": 5, "unit_price": 1}]}
    for switches in ({}, {"tiers_past_end": "refused"}, {"tiers_past_end": "overage_price"}):
        with pytest.raises(ValidationError, match="would fall into a gap"):
            plan(prices=[ending], switches=switches)
    assert plan(prices=[ending], switches={"tiers_past_end": "extend"})
    # And not in the plan that is read after it.
    with pytest.raises(ValidationError, match="would fall into a gap"):
        plan(prices=[ending])


def test_a_plan_in_the_books_reads_as_it_was_written() -> None:
    said = {"tiers_past_end": "lose", "proration_basis": "local_days", "part_package": "down"}
    prices = [
        {"id": "a", "meter": "m", "type": "graduated", "tiers": [{"up_to": 5, "unit_price": 1}]},
        {"id": "b", "meter": "m", "type": "package", "package_size": 1, "package_price": 1},
    ]
    written = plan(prices=prices, switches=said)
    again = Plan.model_validate_json(definition_of(written))
    assert again == written
    assert again.proration == "local_days"


MAY = {"timezone": "Europe/Paris"}


def worth(
    switches: dict[str, str],
    prices: list[dict[str, Any]],
    *used: tuple[str, ...],
    start: str = "2026-03-01",
    **more: Any,
) -> list[str]:
    """Return the amounts of the lines of March 2026, in the order of the plan; `used` are quantities of one meter, in order."""
    terms = {"name": "pro", "version": 1, "currency": "EUR", "prices": prices, "switches": switches, **more}
    events = [
        {
            "tenant_id": "acme", "meter": "m", "quantity": quantity, "event_time": datetime(2026, 3, 20, 12, row, tzinfo=UTC),
            "recorded_at": datetime(2026, 3, 20, 13, tzinfo=UTC), "producer_id": "p", "segment": 0, "row": row,
            "idempotency_key": None, "attributes": {},
        }
        for row, quantity in enumerate(used)
    ]  # fmt: skip
    sold = {
        "meters": [{"name": "m", "negative_allowed": any(one.startswith("-") for one in used)}],
        "plans": [terms],
        "accounts": [{"id": "a", "name": "A", "tenants": ["acme"]}],
        "subscriptions": [{"id": "s", "tenant": "acme", "plan": "pro", "version": 1, "from": start}],
    }
    ours, slow = engine_lines(sold, events, "2026-03"), oracle.lines(sold, events, "2026-03")
    assert ours == slow
    return [f"{line.amount:.2f}" for _, line in sorted(ours.items(), key=lambda row: row[0][2])]


def tiered(kind: str, *tiers: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    names = ("up_to", "unit_price", "flat_amount")
    written = [{name: some for name, some in zip(names, one, strict=False) if some is not None} for one in tiers]
    return {"id": "a", "meter": "m", "type": kind, "tiers": written, **more}


def flat(amount: str, name: str = "a") -> dict[str, Any]:
    return {"id": name, "type": "flat", "amount": amount}


TWO = tiered("volume", (40, 3), (None, 2))
ENDED = tiered("volume", (40, 3))
THIRDS = tiered("graduated", (1, "3.333"), (2, "3.333"), (None, "3.333"))
FEE = {"percent": 2, "fixed_amount": "0.30"}
EVENTS = {"id": "a", "meter": "m", "type": "percentage", **FEE}
OFF = {"discounts": [{"id": "1", "percent": 10}, {"id": "2", "amount": 20}]}
TURNED = {"discounts": [{"id": "1", "amount": 20}, {"id": "2", "percent": 10}]}
BOUNDS = {"minimums": [{"id": "least", "amount": 10}], "maximums": [{"id": "most", "amount": 8}]}
LINES = [flat("1", "a"), flat("1", "b"), flat("1", "c")]
ONE_OFF = {"discounts": [{"id": "off", "amount": 1}]}
PARIS = {"billing_period": MAY}
LATER = {"start": "2026-03-15"}
HALF = [{"id": "a", "meter": "m", "type": "package", "package_size": 10, "package_price": 2}]
LIMITED = {**EVENTS, "fixed_amount": 0, "event_minimum": 0, "free_events": 1, "free_units": 100}
REFUND = {"id": "a", "meter": "m", "type": "percentage", "percent": 2, "event_minimum": "0.50"}
LEAST = {"minimums": [{"id": "least", "amount": 100}], **PARIS}
# The numbers of price models, section 10: (switches, prices, quantities, more terms, amounts).
NUMBERS: list[tuple[dict[str, str], list[dict[str, Any]], tuple[str, ...], dict[str, Any], list[str]]] = [
    ({}, [TWO], ("40",), {}, ["120.00"]),
    ({"tier_edge": "lower"}, [TWO], ("40",), {}, ["80.00"]),
    ({"tier_edge": "lower"}, [TWO], ("39.5",), {}, ["118.50"]),
    ({"tier_edge": "lower", "tier_gap": "lost"}, [TWO], ("39.5",), {}, ["0.00"]),
    ({"tier_edge": "lower", "tier_gap": "lost"}, [TWO], ("39",), {}, ["117.00"]),
    ({"tier_gap": "lost"}, [TWO], ("40.5",), {}, ["0.00"]),
    ({"tiers_past_end": "lose"}, [ENDED], ("50",), {}, ["120.00"]),
    ({"tiers_past_end": "extend"}, [ENDED], ("50",), {}, ["150.00"]),
    ({}, [tiered("volume", (None, 1, 5))], (), {}, ["5.00"]),
    ({"flat_at_zero": "waived"}, [tiered("volume", (None, 1, 5))], (), {}, ["0.00"]),
    ({"flat_at_zero": "waived"}, [tiered("graduated", (None, 1, 5))], (), {}, ["0.00"]),
    ({}, HALF, ("15",), {}, ["4.00"]),
    ({"part_package": "down"}, HALF, ("15",), {}, ["2.00"]),
    ({}, [THIRDS], ("3",), {}, ["10.00"]),
    ({"round_at": "component"}, [THIRDS], ("3",), {}, ["9.99"]),
    ({"round_at": "unit_price"}, [tiered("graduated", (None, "0.006"))], ("1000000",), {}, ["10000.00"]),
    ({}, [flat("100")], (), {**PARIS, **LATER}, ["54.78"]),
    ({"proration_basis": "local_days"}, [flat("100")], (), {**PARIS, **LATER}, ["54.84"]),
    ({"proration_basis": "days_inclusive"}, [flat("100")], (), {**PARIS, **LATER}, ["54.84"]),
    ({"proration_basis": "thirty_day_month"}, [flat("100")], (), {**PARIS, **LATER}, ["53.33"]),
    ({}, [flat("100")], (), OFF, ["70.00"]),
    ({"discount_order": "amount_first"}, [flat("100")], (), OFF, ["72.00"]),
    ({"discount_order": "listed"}, [flat("100")], (), OFF, ["70.00"]),
    ({"discount_order": "listed"}, [flat("100")], (), TURNED, ["72.00"]),
    ({"min_max_order": "minimum_first"}, [flat("6")], (), BOUNDS, ["6.00", "2.00"]),
    ({"min_max_order": "maximum_first"}, [flat("6")], (), BOUNDS, ["6.00", "4.00"]),
    ({}, LINES, (), ONE_OFF, ["0.66", "0.67", "0.67"]),
    ({"residue": "largest_line"}, LINES, (), ONE_OFF, ["0.66", "0.67", "0.67"]),
    (
        {"residue": "largest_line"},
        [flat("1", "a"), flat("1.01", "b"), flat("1", "c")],
        (),
        ONE_OFF,
        ["0.67", "0.67", "0.67"],
    ),
    ({"residue": "five_decimals"}, LINES, (), ONE_OFF, ["0.67", "0.67", "0.67"]),
    ({}, [{**EVENTS, "free_units": 100}], ("60", "40", "50"), {}, ["1.30"]),
    ({"allowance_edge": "fixed_due"}, [{**EVENTS, "free_units": 100}], ("60", "40", "50"), {}, ["1.60"]),
    ({}, [LIMITED], ("10", "10"), {}, ["0.20"]),
    ({"allowance_pair": "units_only"}, [LIMITED], ("10", "10"), {}, ["0.00"]),
    ({}, [flat("0")], (), {**LEAST, "start": "2026-03-15T12:00:00+01:00"}, ["0.00", "53.16"]),
    (
        {"minimum_share": "whole_days"},
        [flat("0")],
        (),
        {**LEAST, "start": "2026-03-15T12:00:00+01:00"},
        ["0.00", "54.84"],
    ),
    ({"negative_value": "minimum"}, [REFUND], ("-5",), {}, ["0.50"]),
]


@pytest.mark.parametrize(("switches", "prices", "used", "more", "amounts"), NUMBERS)
def test_the_numbers_of_the_table(
    switches: dict[str, str],
    prices: list[dict[str, Any]],
    used: tuple[str, ...],
    more: dict[str, Any],
    amounts: list[str],
) -> None:
    assert worth(switches, prices, *used, **more) == amounts


def test_what_a_reading_of_tiers_leaves_without_a_price_is_named() -> None:
    """Nothing is lost without a word: what is not priced is use without an amount, and a finding of reconciliation."""
    assert worth({"tiers_past_end": "lose"}, [ENDED], "50") == ["120.00"]
    assert lost() == [("a", Decimal(10))]
    assert worth({"tier_gap": "lost"}, [TWO], "40.5") == ["0.00"]
    assert lost() == [("a", Decimal("40.5"))]
    assert worth({"tier_gap": "lost"}, [TWO], "41") == ["82.00"]
    assert lost() == []


def lost() -> list[tuple[str, Decimal]]:
    return engine().execute("SELECT price_id, quantity FROM unpriced_usage").fetchall()


def test_a_year_of_365_days() -> None:
    yearly = {"billing_period": {"every": "year"}, "switches": {"proration_basis": "nominal_year"}}
    year = Period(datetime(2028, 1, 1, tzinfo=UTC), datetime(2029, 1, 1, tzinfo=UTC))
    assert plan(**yearly).proration == "nominal_year"
    for start, days in ((datetime(2028, 1, 1, tzinfo=UTC), 365), (datetime(2028, 12, 1, tzinfo=UTC), 31)):
        assert share_between(start, year.end, year, "nominal_year", "UTC", "year") == Fraction(days, 365)


def test_a_discount_of_an_account_over_plans_that_differ_is_read_as_ours() -> None:
    """One amount cannot come before the percents of one plan and after those of another."""
    discounts = [{"id": "1", "amount": "40", "currency": "EUR"}, {"id": "2", "percent": "50"}]
    both = [
        {"name": name, "version": 1, "currency": "EUR", "prices": [flat("100")], "switches": switches}
        for name, switches in (("one", {"discount_order": "amount_first"}), ("two", {}))
    ]
    alike = [both[0], {**both[0], "name": "two"}]
    for plans, amounts in ((both, ["30.00", "30.00"]), (alike, ["40.00", "40.00"])):
        sold = {
            "meters": [],
            "plans": plans,
            "accounts": [{"id": "a", "name": "A", "tenants": ["acme"], "discounts": discounts}],
            "subscriptions": [
                {"id": name, "tenant": "acme", "plan": name, "version": 1, "from": "2026-03-01"}
                for name in ("one", "two")
            ],
        }
        lines = engine_lines(sold, [], "2026-03")
        assert lines == oracle.lines(sold, [], "2026-03")
        assert [f"{line.amount:.2f}" for _, line in sorted(lines.items())] == amounts


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_accepted_once_the_plan_takes_our_answer_where_we_keep_it(dialect: str) -> None:
    accepted = {
        name: SWITCHES[name].strict for name, value in DIFFERENCES[dialect].items() if SWITCHES[name].others[value]
    }
    assert refusals(dialect, accepted) == []
    assert bool(refusals(dialect, {})) == bool(accepted)


def test_a_prorated_quantity_is_rounded_up_to_five_places_in_one_dialect() -> None:
    prorated = {"name": "seats", "aggregation": "sum", "carry": "recurring", "prorate": "day"}
    lago = Switches.of("lago")
    rounding = measure_under(Meter.model_validate(prorated), lago).rounding
    assert rounding is not None
    assert (rounding.mode, rounding.places) == ("ceil", 5)
    assert measure_under(Meter.model_validate(prorated), STRICT).rounding is None
    assert measure_under(Meter(name="calls"), lago).rounding is None
    with pytest.raises(BadSelector, match="remove round from the meter"):
        measure_under(Meter.model_validate({**prorated, "round": {"mode": "ceil", "places": "0"}}), lago)


PAGE = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text(encoding="utf-8")


def test_the_page_names_every_switch_and_every_answer() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(("| `", "| | `"))]
    named = set(re.findall(r"`([a-z0-9_]+)`", "\n".join(rows)))
    assert set(SWITCHES) | {value for one in SWITCHES.values() for value in one.others} <= named
    done, refused = PAGE.split("## Answers that are not done")
    for name, switch in SWITCHES.items():
        for value, reason in switch.others.items():
            assert f"`{value}`" in (refused if reason else done), (name, value)


def test_the_page_can_be_loaded() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    [written] = yaml.safe_load(block)["plans"]
    assert Plan.model_validate(written).reading == Switches.of("orb", {"late_usage": "correct"})
