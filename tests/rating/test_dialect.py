"""Named switches: what a dialect asks for, what is done, and what is refused in a sentence."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from metering.catalog import Meter
from metering.errors import BadSelector
from rating.dialect import DIALECTS, DIFFERENCES, STRICT, SWITCHES, Switches, measure_under, refusals
from rating.plans import Plan


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
    with pytest.raises(ValidationError, match=r"late_usage: frozen \(a final invoice would stay wrong"):
        plan(dialect="stripe")
    with pytest.raises(ValidationError, match="residue: largest_line is not done here"):
        plan(switches={"residue": "largest_line"})
    with pytest.raises(ValidationError, match="nobody knows the switch 'rounding'"):
        plan(switches={"rounding": "up"})
    with pytest.raises(ValidationError, match="tier_edge has no value 'middle'; write one of upper, lower"):
        plan(switches={"tier_edge": "middle"})


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
