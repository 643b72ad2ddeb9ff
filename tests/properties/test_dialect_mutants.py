"""The rules of named switches, broken on purpose. See test_mutants.py for the idea.

Each mutant names the switches that it breaks; it is rated over dense worlds with these until one differs.
A rule that is data on the terms, not SQL, is broken where that data is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

import rating.adjust_steps
import rating.adjust_tables
import rating.price_tables
from metering.catalog import Meter
from rating.dialect import SWITCHES, Switches
from rating.errors import RatingError
from rating.plans import Plan
from rating.price_meters import find_misfits
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.checks import check_same_lines
from tests.properties.dialect_worlds import CHOICES, dense_world_of
from tests.properties.mutated import RATING, fails, mutate
from tests.properties.strategies import World

# After so many worlds without a difference a mutant lives.
# The worlds of a file are made by the first test that needs them; on a crowded machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

WORLDS = 12
LOWER, LOST, LOSE = {"tier_edge": "lower"}, {"tier_gap": "lost"}, {"tiers_past_end": "lose"}
WAIVED, EDGE, NEGATIVE = {"flat_at_zero": "waived"}, {"allowance_edge": "fixed_due"}, {"negative_value": "minimum"}
COMPONENT, MINIMUM_FIRST = {"round_at": "component"}, {"min_max_order": "minimum_first"}


class Mutant(NamedTuple):
    switches: dict[str, str]
    file: str
    find: str
    replace: str
    is_held: bool = False


BY_EVENT, GRADUATED, BY_DAY = "charge_percentage_by_event", "charge_graduated", "charge_graduated_by_day"
MUTANTS = {
    "a lower edge belongs to the tier before": Mutant(
        LOWER, "holds_quantity", "OR quantity < upper_bound)", "OR quantity <= upper_bound)"
    ),
    "a lower edge is not reached": Mutant(LOWER, "holds_quantity", "THEN quantity >= lower", "THEN quantity > lower"),
    "a flat amount at a lower edge waits": Mutant(LOWER, GRADUATED, "tiers_to >= lower_bound AND", "tiers_to > lower_bound AND"),
    "a lower edge at zero is reached by every group": Mutant(
        LOWER, GRADUATED, "(tiers_from < lower_bound OR is_first_group)", "(tiers_from <= lower_bound)"
    ),
    "held units enter a tier beyond its lower edge": Mutant(
        LOWER, BY_DAY, "(held.edge_is_lower AND held.level = tier.lower_bound)", "false", True
    ),
    "what lies before a lower gap is lost too": Mutant(
        LOWER | LOST, "holds_quantity", "OR quantity <= upper_bound - 1)", "OR quantity < upper_bound - 1)"
    ),
    "nothing is lost between lower bounds": Mutant(
        LOWER | LOST, "holds_quantity", "OR quantity <= upper_bound - 1)", "OR true)"
    ),
    "nothing is lost between bounds": Mutant(LOST, "holds_quantity", "OR quantity >= lower_bound + 1)", "OR true)"),
    "the first tier has a gap before it": Mutant(
        LOST, "holds_quantity", "(NOT gap_is_lost OR tier_number = 1 OR", "(NOT gap_is_lost OR"
    ),
    "what lies beyond the tiers is priced": Mutant(
        LOSE, "rated_usage", "coalesce(tiers_end, converted_quantity))::DECIMAL(38, 9) AS quantity",
        "converted_quantity)::DECIMAL(38, 9) AS quantity",
    ),
    "each group may go to the end of the tiers": Mutant(
        LOSE, "rated_usage_pooled", "coalesce(tiers_end - quantity_before, quantity)", "coalesce(tiers_end, quantity)"
    ),
    "zero usage owes a flat amount of a volume": Mutant(WAIVED, "charge_volume", " AND flat_is_due", ""),
    "zero usage owes a graduated flat amount": Mutant(WAIVED, GRADUATED, "    AND flat_is_due\n", ""),
    "a date without units owes a flat amount": Mutant(
        WAIVED, BY_DAY, "(held.level > 0 OR NOT held.flat_waits)", "true", True
    ),
    "the event that ends the free units is free": Mutant(EDGE, BY_EVENT, "NOT (edge_pays AND", "NOT (false AND"),
    "the event that ends the free units has no limits": Mutant(
        EDGE, BY_EVENT, "WHEN is_free THEN 0", "WHEN is_open AND fits THEN 0"
    ),
    "a sum below zero is worth nothing": Mutant(
        NEGATIVE, BY_EVENT, "WHERE charged_quantity <> 0", "WHERE charged_quantity > 0"
    ),
    "components stay exact": Mutant(COMPONENT, "round_component", "SET exact_amount = round_amount(charge.exact_amount,",
        "SET exact_amount = least(round_amount(0, 1, 1), 0) + round_amount(charge.exact_amount * 1000,"),
    "a true-up goes beyond the maximum": Mutant(
        MINIMUM_FIRST, "true_up", "least(missing, coalesce(true_up_ceiling.amount, missing))", "missing"
    ),
    "a true-up fills the maximum whatever the lines are": Mutant(
        MINIMUM_FIRST, "true_up_ceiling", " - coalesce(covered.amount, 0)", ""
    ),
    "two maximums take off the same lines twice": Mutant(
        MINIMUM_FIRST, "true_up_ceiling", "SELECT DISTINCT span_id", "SELECT span_id"
    ),
}  # fmt: skip


class Forgotten(NamedTuple):
    """A rule that is data on the terms, forgotten: what stands in the place of an attribute."""

    switches: dict[str, str]
    owner: Any
    name: str
    instead: Callable[..., Any]


_ORDER, _SHARE_OUT = rating.adjust_tables.order_of, rating.adjust_steps.share_out
FORGOTTEN = {
    "fixed discounts wait": Forgotten(
        {"discount_order": "amount_first"}, rating.adjust_tables, "order_of",
        lambda one, _, listed, **said: _ORDER(one, "percent_first", listed, **said),
    ),
    "discounts are not as listed": Forgotten(
        {"discount_order": "listed"}, rating.adjust_tables, "order_of",
        lambda one, _, listed, **said: _ORDER(one, "percent_first", listed, **said),
    ),
    "the residue goes by remainders": Forgotten(
        {"residue": "largest_line"}, rating.adjust_steps, "share_out", lambda *asked: _SHARE_OUT(*asked[:3])
    ),
    "shares have the decimals of the currency": Forgotten(
        {"residue": "five_decimals"}, rating.adjust_steps, "share_out", lambda *asked: _SHARE_OUT(*asked[:3], "largest_line")
    ),
    "a started package is whole": Forgotten(
        {"part_package": "down"}, rating.price_tables, "part_of", lambda price, _: price.part
    ),
    "free events end the allowance": Forgotten(
        {"allowance_pair": "units_only"}, rating.price_tables, "free_events_of", lambda price, _: price.free_events
    ),
    "unit prices stay exact": Forgotten(
        {"round_at": "unit_price"}, rating.price_tables, "unit_price_read", lambda unit_price, _: unit_price
    ),
    "shares go by instants": Forgotten(
        {"proration_basis": "local_days"}, Plan, "proration", property(lambda plan: plan.billing_period.proration)
    ),
    "minimums go by instants": Forgotten(
        {"minimum_share": "whole_days"}, Plan, "minimum_proration", property(lambda plan: plan.proration)
    ),
}  # fmt: skip


@cache
def _made(key: tuple[tuple[str, str], ...], is_held: bool) -> tuple[list[Any], Iterator[Any]]:
    made = (dense_world_of(seed, dict(key), is_held=is_held) for seed in range(WORLDS))
    return [], ((world, oracle.lines(*world)) for world in made)


def worlds(switches: dict[str, str], *, is_held: bool = False) -> Iterator[tuple[World, dict[LineKey, Line]]]:
    """Yield dense worlds under these switches with the oracle's lines; each is made when it is first asked for."""
    made, more = _made(tuple(switches.items()), is_held)
    for at in count():
        if at == len(made):
            found = next(more, None)
            if found is None:
                return
            made.append(found)
        yield made[at]


def is_caught(switches: dict[str, str], *, is_held: bool = False) -> bool:
    return any(
        fails(partial(check_same_lines, world, lines), ValueError, RatingError)
        for world, lines in worlds(switches, is_held=is_held)
    )


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "rating", mutant.file, mutant.find, mutant.replace, RATING)
    assert is_caught(mutant.switches, is_held=mutant.is_held)


@pytest.mark.parametrize("forgotten", FORGOTTEN.values(), ids=FORGOTTEN)
def test_what_is_forgotten_is_caught(forgotten: Forgotten, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgotten.owner, forgotten.name, forgotten.instead)
    assert is_caught(forgotten.switches)


VALUES = [(switch, value) for switch, some in CHOICES.items() for value in some]


@pytest.mark.parametrize(("switch", "value"), VALUES, ids=[f"{switch} {value}" for switch, value in VALUES])
def test_no_switch_is_for_show(switch: str, value: str) -> None:
    """Each answer changes some line: the same world read by ours has another one, or is refused."""
    assert not SWITCHES[switch].others[value]
    for world, lines in worlds({switch: value}):
        strict = [{name: said for name, said in plan.items() if name != "switches"} for plan in world.catalog["plans"]]
        ours = {**world.catalog, "plans": strict}
        if is_refused(ours) or oracle.lines(ours, world.events, world.month) != lines:
            return
    pytest.fail(f"{switch}: {value} changes nothing in {WORLDS} worlds")


def is_refused(catalog: dict[str, Any]) -> bool:
    """Return whether the plan checker refuses a plan, or a price on its meter."""
    meters = {row["name"]: Meter.model_validate(row) for row in catalog["meters"]}
    try:
        plans = [Plan.model_validate(row) for row in catalog["plans"]]
    except ValidationError:
        return True
    return any(list(find_misfits(price, meters[price.meter])) for plan in plans for price in plan.prices if price.meter)


def test_a_switch_that_is_said_wins_over_the_dialect() -> None:
    assert Switches.of("orb", {"discount_order": "listed"})["discount_order"] == "listed"
