"""Prices of several meters, of the largest group, of shares of included units and of promises per bucket: worked numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from metering.catalog import Meter
from metering.periods import Period
from rating.lint import lint_catalog
from rating.plans import Plan
from rating.preview import rate_events
from rating.price_meters import find_misfits
from rating.prices import Price
from rating.rate import RatedQuantity, rate_quantity
from tests import oracle
from tests.rated import engine_lines, events_table, terms_of

PRICE: TypeAdapter[Any] = TypeAdapter(Price)
ROWS = count()
CENT = Decimal("0.01")
APRIL = Period(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
METERS = [
    Meter.model_validate({"name": "seats", "aggregation": "max"}),
    Meter.model_validate({"name": "gb", "aggregation": "max"}),
    Meter.model_validate({"name": "calls", "aggregation": "sum"}),
    Meter.model_validate({"name": "errors", "aggregation": "sum"}),
]
SIZES = [
    {"limits": {"seats": "5", "gb": "100"}, "flat_amount": "10"},
    {"limits": {"seats": "20", "gb": "500"}, "flat_amount": "25"},
    {"flat_amount": "60"},
]


def use(meter: str, quantity: str, day: int = 1, **attributes: str) -> dict[str, Any]:
    return {
        "tenant_id": "t", "meter": meter, "quantity": quantity, "attributes": attributes, "idempotency_key": None,
        "event_time": APRIL.start + timedelta(days=day - 1, hours=1), "recorded_at": APRIL.end, "producer_id": "p",
        "segment": 0, "row": next(ROWS),
    }  # fmt: skip


def worth(terms: dict[str, Any], *events: dict[str, Any]) -> dict[str, RatedQuantity]:
    price = PRICE.validate_python({"id": "p", **terms})
    return rate_events(price, METERS, events_table(list(events)), period=APRIL)


def amounts(terms: dict[str, Any], *events: dict[str, Any]) -> list[Decimal]:
    return [line.exact_amount for line in worth(terms, *events).values()]


def refusal(**terms: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        PRICE.validate_python({"id": "p", **terms})
    return str(refused.value)


@pytest.mark.parametrize(
    ("peaks", "amount"),
    [
        ({"seats": "4", "gb": "130"}, "25"),
        ({"seats": "5", "gb": "100"}, "10"),
        ({"seats": "5.000000001"}, "25"),
        ({"gb": "501"}, "60"),
        ({}, "0"),
    ],
)
def test_one_tier_holds_what_several_meters_reach(peaks: dict[str, str], amount: str) -> None:
    """Price models, section 1.7. A limit is inclusive; no use at all is 0."""
    (line,) = worth(
        {"type": "capacity", "meters": ["seats", "gb"], "tiers": SIZES},
        *(use(name, quantity) for name, quantity in peaks.items()),
    ).values()
    assert line.exact_amount == Decimal(amount)
    shown = {charge.cell_key: charge.quantity for charge in line.charges if charge.part == "peak"}
    assert shown == {name: Decimal(quantity) for name, quantity in peaks.items()}


def test_limits_rise_and_the_last_tier_has_none() -> None:
    base = {"type": "capacity", "meters": ["seats", "gb"]}
    assert "no price" in refusal(**base, tiers=SIZES[:2])
    assert "gb does not rise above tiers[0]" in refusal(
        **base, tiers=[SIZES[0], {"limits": {"seats": "9", "gb": "90"}, "flat_amount": "1"}, SIZES[2]]
    )
    assert "does not look at meter 'cpus'" in refusal(
        **base, tiers=[{"limits": {"cpus": "1"}, "flat_amount": "1"}, SIZES[2]]
    )


@pytest.mark.parametrize(
    ("how", "exact"), [("divide", "33.333333333"), ("multiply", "300"), ("add", "103"), ("subtract", "97")]
)
def test_two_meters_are_put_together(how: str, exact: str) -> None:
    terms = {"meter": "calls", "type": "unit", "unit_price": "1", "combine": {"by": how, "meter": "errors"}}
    assert amounts(terms, use("calls", "60"), use("calls", "40"), use("errors", "3")) == [Decimal(exact)]


def test_what_is_divided_by_nothing_is_nothing_and_nothing_is_below_zero() -> None:
    terms: dict[str, Any] = {"meter": "calls", "type": "unit", "unit_price": "1"}
    assert amounts({**terms, "combine": {"by": "divide", "meter": "errors"}}, use("calls", "60")) == [0]
    assert amounts(
        {**terms, "combine": {"by": "subtract", "meter": "errors"}}, use("calls", "2"), use("errors", "5")
    ) == [0]


@pytest.mark.parametrize("split", [{"by": ["zone"]}, {"price_per": "day"}], ids=["groups", "buckets"])
def test_a_sum_is_also_of_what_only_the_other_meter_has(split: dict[str, Any]) -> None:
    terms: dict[str, Any] = {"meter": "calls", "type": "unit", "unit_price": "1", **split}
    events = [use("calls", "10", zone="a"), use("errors", "7", zone="a"), use("errors", "5", day=2, zone="b")]
    assert sum(amounts({**terms, "combine": {"by": "add", "meter": "errors"}}, *events)) == 22
    # What is taken off nothing, or is a part of nothing, is no line.
    assert amounts({**terms, "combine": {"by": "subtract", "meter": "errors"}}, *events) == [3]


def test_a_metered_allowance_is_a_difference() -> None:
    """Price models, section 2.4: 500 units, 180 allowed by another meter, at 0.02 are 6.40."""
    terms = {"meter": "calls", "type": "unit", "unit_price": "0.02", "combine": {"by": "subtract", "meter": "errors"}}
    assert amounts(terms, use("calls", "500"), use("errors", "180")) == [Decimal("6.40")]


def test_only_the_largest_group_costs_something() -> None:
    """Price models, section 2.4: groups of 45 and 67 in packages of 10, 50@4, open@3 are 26.00."""
    terms = {
        "meter": "calls", "type": "graduated", "by": ["region"], "groups_priced": "largest",
        "convert": {"divide": "10", "round": "ceil"},
        "tiers": [{"up_to": "5", "unit_price": "4", "flat_amount": "1"}, {"unit_price": "3"}],
    }  # fmt: skip
    lines = worth(terms, use("calls", "45", region="eu"), use("calls", "67", region="us"))
    assert {key: line.exact_amount for key, line in lines.items()} == {'{"region":"eu"}': 0, '{"region":"us"}': 27}
    assert {key: line.quantity for key, line in lines.items()} == {'{"region":"eu"}': 5, '{"region":"us"}': 7}
    assert "remove tiers_over" in refusal(**{**terms, "tiers_over": "all_groups"})


def test_a_part_of_a_period_includes_its_share() -> None:
    """300 included, half a month: 150, or 300 where they are not prorated (price models, section 10, switch 32)."""

    def amount(is_prorated: str) -> Decimal:
        price = {
            "id": "p", "meter": "calls", "type": "unit", "unit_price": "1", "included": "300",
            "prorate_included": is_prorated,
        }  # fmt: skip
        catalog = {
            "meters": [{"name": "calls"}],
            "plans": [{"name": "plan", "version": 1, "currency": "USD", "prices": [price]}],
            "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
            "subscriptions": [{"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-16"}],
        }
        (line,) = engine_lines(catalog, [use("calls", "400", 20)], "2026-04").values()
        return line.amount

    assert (amount("true"), amount("false")) == (250, 100)
    assert "write included" in refusal(meter="calls", type="unit", unit_price="1", prorate_included="true")


def test_each_line_costs_at_least_and_at_most_so_much() -> None:
    """Amounts of 4, 40 and 400 within 10 and 100 are 150; in half of the month the minimum is half, if it says so."""
    limits = {"minimum": "10", "maximum": "100"}
    terms = {"meter": "calls", "type": "unit", "unit_price": "1", "by": ["region"], "line_limits": limits}
    some = [use("calls", quantity, 20, region=region) for region, quantity in (("a", "4"), ("b", "40"), ("c", "400"))]
    assert sum(amounts(terms, *some)) == 150
    assert "there is no limit" in refusal(meter="calls", type="unit", unit_price="1", line_limits={})
    assert "below the minimum" in refusal(**{**terms, "line_limits": {"minimum": "2", "maximum": "1"}})
    assert "only the minimum has a share" in refusal(**{**terms, "line_limits": {"maximum": "1", "prorate": "true"}})


@pytest.mark.parametrize(
    ("limits", "amount"),
    [({}, "24.00"), ({"minimum": "30"}, "30.00"), ({"maximum": "20"}, "20.00")],
)
def test_a_percentage_of_other_prices(limits: dict[str, str], amount: str) -> None:
    """10 % of 240, at least 30: 30.00. Discounts come afterwards, and lower the percentage as a line of its own."""
    prices = [
        {"id": "seats", "type": "flat", "amount": "200"},
        {"id": "calls", "meter": "calls", "type": "unit", "unit_price": "1"},
        {"id": "other", "type": "flat", "amount": "1000"},
        {"id": "support", "type": "percent_of", "percent": "10", "prices": ["seats", "calls"]},
    ]
    if limits:
        prices[-1]["line_limits"] = limits  # type: ignore[assignment]
    plan = {"name": "plan", "version": 1, "currency": "USD", "prices": prices}
    catalog = {
        "meters": [{"name": "calls"}],
        "plans": [{**plan, "discounts": [{"id": "off", "percent": "50", "prices": ["seats"]}]}],
        "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
        "subscriptions": [{"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-01"}],
    }
    lines = engine_lines(catalog, [use("calls", "40")], "2026-04")
    assert lines == oracle.lines(catalog, [use("calls", "40")], "2026-04")
    assert {key[2]: str(line.amount.quantize(CENT)) for key, line in lines.items()}["support"] == amount
    assert lint_catalog(terms_of(catalog)) == []


def test_a_percentage_is_of_other_prices_that_have_an_amount() -> None:
    flat, support = {"id": "seats", "type": "flat", "amount": "200"}, {"type": "percent_of", "percent": "10"}
    for prices in ([{"id": "a", **support, "prices": ["a"]}], [flat, {"id": "a", **support, "prices": ["nobody"]}]):
        with pytest.raises(ValidationError, match="no other price of this plan with an amount of its own"):
            Plan.model_validate({"name": "plan", "version": 1, "currency": "USD", "prices": prices})


@pytest.mark.parametrize(("order", "exact"), [("cheapest", 8), ("dearest", 4), ("pro_rata", Decimal("6.285714286"))])
def test_a_pool_over_the_cells_of_a_matrix(order: str, exact: int) -> None:
    """Pool 10, 8 at 2 and 6 at 1: the cheapest first are 8.00, the dearest first 4.00, of both in proportion 6.29."""
    cells = [{"values": ["a"], "unit_price": "2"}, {"values": ["b"], "unit_price": "1"}]
    matrix = {"meter": "calls", "type": "matrix", "attributes": ["region"], "cells": cells}
    used = [use("calls", "8", region="a"), use("calls", "6", region="b")]
    assert amounts({**matrix, "pool": "10", "pool_order": order}, *used) == [exact]
    assert "write pool and pool_order" in refusal(**matrix, pool="10")


@pytest.mark.parametrize(
    ("true_up", "exact"),
    # 80 on the 1st are 50 + 30 x 1.5, 30 on the 2nd are 50; 28 days without use owe 50 each.
    [("true", 95 + 50 + 28 * 50), ("false", 95 + 30)],
)
def test_every_bucket_keeps_its_promise(true_up: str, exact: int) -> None:
    """Price models, section 4.2, in each bucket and added."""
    terms = {
        "meter": "calls", "type": "unit", "unit_price": "1", "price_per": "day",
        "bucket_commitment": {"amount": "50", "overage_factor": "1.5", "true_up": true_up},
    }  # fmt: skip
    assert amounts(terms, use("calls", "80", 1), use("calls", "30", 2)) == [exact]
    assert "write price_per" in refusal(meter="calls", type="unit", unit_price="1", bucket_commitment={"amount": "50"})


def test_a_bucket_that_is_not_over_owes_nothing_yet() -> None:
    price = {
        "id": "p", "meter": "calls", "type": "unit", "unit_price": "1", "price_per": "day",
        "bucket_commitment": {"amount": "10"},
    }  # fmt: skip
    catalog = {
        "meters": [{"name": "calls"}],
        "plans": [{"name": "plan", "version": 1, "currency": "USD", "prices": [price]}],
        "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
        "subscriptions": [{"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-01"}],
    }
    at_noon = APRIL.start + timedelta(days=2, hours=12)
    (line,) = engine_lines(catalog, [], "2026-04", at_noon).values()
    assert line.amount == 20


def test_a_quantity_alone_is_rated_as_it_stands() -> None:
    """A price page asks for a quantity: the other meter, and the largest of several groups, are no question then."""
    price = PRICE.validate_python(
        {"id": "p", "meter": "calls", "type": "unit", "unit_price": "2", "combine": {"by": "add", "meter": "errors"}}
    )
    assert rate_quantity(price, Decimal(3)).amount == 6
    with pytest.raises(ValueError, match="several meters"):
        rate_quantity(
            PRICE.validate_python({"id": "p", "type": "capacity", "meters": ["gb"], "tiers": SIZES[2:]}), Decimal(1)
        )


def test_a_plan_reads_them_from_its_file() -> None:
    plan = Plan.model_validate(
        {
            "name": "plan", "version": 1, "currency": "USD",
            "prices": [{"id": "size", "type": "capacity", "meters": ["seats", "gb"], "tiers": SIZES}],
        }
    )  # fmt: skip
    assert plan.prices[0].meters_read == ("seats", "gb")


def test_tiers_go_on_since_the_plan_began() -> None:
    """100@1, open@0.5: 80 in April and 80 in May are 80, and 20 + 30; tiers that began again would be 80 and 80."""
    price = {"id": "p", "meter": "calls", "type": "graduated", "tiers_since": "plan_start"}
    steps = [{"up_to": "100", "unit_price": "1", "flat_amount": "5"}, {"unit_price": "0.5", "flat_amount": "7"}]
    plan = {"name": "plan", "version": 1, "currency": "USD", "prices": [{**price, "tiers": steps}]}
    held = {"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-01"}
    catalog = {
        "meters": [{"name": "calls", "aggregation": "sum"}], "plans": [plan], "subscriptions": [held],
        "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
    }  # fmt: skip
    # What was used before the plan began is not the plan's.
    used = [use("calls", "1000", day=-3), use("calls", "80"), use("calls", "80", day=31)]
    exact = [
        next(iter(engine_lines(catalog, used, month).values())).exact for month in ("2026-04", "2026-05", "2026-06")
    ]
    assert exact == [85, 57, 0]
    # 30 that are found later were used in April: they fill the first tier there, and leave less of it to May.
    late = [*used, use("calls", "30", day=2)]
    assert [next(iter(engine_lines(catalog, late, month).values())).exact for month in ("2026-04", "2026-05")] == [
        117,
        40,
    ]
    for month in ("2026-04", "2026-05", "2026-06"):
        assert engine_lines(catalog, late, month) == oracle.lines(catalog, late, month)
    with pytest.raises(ValidationError, match="as they are; remove included"):
        PRICE.validate_python({**price, "tiers": steps, "included": "1"})
    with pytest.raises(ValidationError, match="costs money per unit; remove it"):
        PRICE.validate_python({**price, "tiers": [{"unit_price": "1", "maximum": "3"}]})
    level = Meter.model_validate({"name": "calls", "aggregation": "sum", "negative_allowed": True})
    [(place, sentence)] = find_misfits(PRICE.validate_python({**price, "tiers": steps}), level)
    assert place == ("tiers_since",)
    assert "never falls" in sentence


def test_tiers_go_on_beside_a_price_with_weights() -> None:
    """What a weighted price makes of its own use leaves alone what others used before."""
    weights = {"attribute": "model", "values": {"m": "2"}, "default": "1"}
    prices = [
        {"id": "p", "meter": "calls", "type": "graduated", "tiers_since": "plan_start", "tiers": [
            {"up_to": "100", "unit_price": "1"}, {"unit_price": "0.5"},
        ]},
        {"id": "w", "meter": "calls", "type": "unit", "unit_price": "1", "weights": weights},
    ]  # fmt: skip
    catalog = {
        "meters": [{"name": "calls", "aggregation": "sum"}],
        "plans": [{"name": "plan", "version": 1, "currency": "USD", "prices": prices}],
        "subscriptions": [{"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-01"}],
        "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
    }
    used = [use("calls", "80", model="m"), use("calls", "80", day=31, model="m")]
    for month, exact in (("2026-04", {80, 160}), ("2026-05", {50, 160})):
        assert {line.exact for line in engine_lines(catalog, used, month).values()} == exact
        assert engine_lines(catalog, used, month) == oracle.lines(catalog, used, month)


@pytest.mark.parametrize("by", [[], ["model"]])
def test_tiers_that_go_on_since_the_plan_began_may_end(by: list[str]) -> None:
    """100@1 and nothing beyond: 80 in April and 80 in May are 80 and the 20 that are left; 60 are lost, and shown."""
    price = {"id": "p", "meter": "calls", "type": "graduated", "tiers_since": "plan_start", "by": by}
    steps = [{"up_to": "60", "unit_price": "1"}, {"up_to": "100", "unit_price": "1", "flat_amount": "5"}]
    plan = {
        "name": "plan", "version": 1, "currency": "USD", "prices": [{**price, "tiers": steps}],
        "switches": {"tiers_past_end": "lose"},
    }  # fmt: skip
    held = {"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-01"}
    catalog = {
        "meters": [{"name": "calls", "aggregation": "sum"}], "plans": [plan],
        "subscriptions": [held], "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
    }  # fmt: skip
    used = [use("calls", "80", model="m"), use("calls", "80", day=31, model="m"), use("calls", "5", day=62, model="m")]
    months = ("2026-04", "2026-05", "2026-06")
    exact = [sum(line.exact for line in engine_lines(catalog, used, month).values()) for month in months]
    assert exact == [85, 20, 0]
    for month in months:
        assert engine_lines(catalog, used, month) == oracle.lines(catalog, used, month)
