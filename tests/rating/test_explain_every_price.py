"""Every type of price and every step around it has an explanation, as text, as JSON and as Arrow, that adds up."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
import rich.console
import yaml

from metering.clock import FixedClock
from metering.numbers import exact_sum
from rating.explain import Explanation
from rating.explanation import ADJUSTMENTS, explanation_schema
from rating.prices import Price
from tallybook import Workspace, show
from tests.tallybook.shop import import_text

MAY = datetime(2026, 5, 1, 3, tzinfo=UTC)
TIERS = [{"up_to": "5", "unit_price": "1", "flat_amount": "2"}, {"unit_price": "0.5"}]
STEPS = [{"up_to": "5", "flat_amount": "3"}, {"flat_amount": "7"}]
CALLS: dict[str, Any] = {"meter": "calls"}
PRICES: dict[str, dict[str, Any]] = {
    "fee": {"type": "flat", "amount": "49.00", "trial_days": "110"},
    "seat": {"type": "flat", "amount": "9.99", "per_unit_of": "seats"},
    "unit": {**CALLS, "type": "unit", "unit_price": "0.333"},
    "graduated": {**CALLS, "type": "graduated", "by": ["model"], "tiers": TIERS},
    "packaged": {**CALLS, "type": "graduated", "tiers": [{"up_to": "5", "unit_price": "1", "package_size": "2"}, {}]},
    "climbing": {**CALLS, "type": "graduated", "by": ["model"], "tiers_over": "all_groups", "tiers": TIERS},
    "volume": {**CALLS, "type": "volume", "tiers": TIERS},
    "together": {**CALLS, "type": "volume", "by": ["model"], "tiers_over": "all_groups", "tiers": TIERS},
    "package": {**CALLS, "type": "package", "package_size": "4", "package_price": "1.25"},
    "stairstep": {**CALLS, "type": "stairstep", "tiers": STEPS},
    "graduated_percentage": {**CALLS, "type": "graduated_percentage", "tiers": [{"percent": "2.5"}]},
    "percentage": {**CALLS, "type": "percentage", "percent": "2.9", "fixed_amount": "0.30"},
    "percentage_by_event": {**CALLS, "type": "percentage", "percent": "10", "free_events": "1", "event_minimum": "0.5"},
    "matrix": {
        **CALLS, "type": "matrix", "attributes": ["model"], "cells": [{"values": ["small"], "unit_price": "2"}],
        "default_unit_price": "1", "pool": "2", "pool_order": "cheapest",
    },
    "dynamic": {**CALLS, "type": "dynamic", "price_attribute": "price", "default": "0.25"},
    "capacity": {"type": "capacity", "meters": ["calls", "errors"],
                 "tiers": [{"limits": {"calls": "5"}, "flat_amount": "1"}, {"flat_amount": "8"}]},
    "percent_of": {"type": "percent_of", "percent": "10", "prices": ["unit", "volume"]},
    "held": {"meter": "level", "type": "graduated", "tiers_by": "held", "tiers": TIERS},
    "held_volume": {"meter": "level", "type": "volume", "tiers_by": "held", "tiers": TIERS},
    "lifelong": {**CALLS, "type": "graduated", "tiers_since": "plan_start", "tiers": TIERS},
    "weighted": {**CALLS, "type": "unit", "unit_price": "1", "included": "0.5",
                 "weights": {"attribute": "model", "values": {"small": "1", "large": "2.5"}}},
    "combined": {**CALLS, "type": "unit", "unit_price": "2", "combine": {"by": "subtract", "meter": "errors"},
                 "convert": {"divide": "4", "round": "ceil"}},
    "summed": {**CALLS, "type": "unit", "unit_price": "1", "by": ["model"], "combine": {"by": "add", "meter": "errors"}},
    "largest": {**CALLS, "type": "unit", "unit_price": "1", "by": ["model"], "groups_priced": "largest"},
    "daily": {**CALLS, "type": "unit", "unit_price": "1", "price_per": "day", "included": "1",
              "bucket_commitment": {"amount": "0.5", "overage_factor": "1.5"}},
    "limited": {**CALLS, "type": "unit", "unit_price": "1", "by": ["model"], "line_limits": {"minimum": "5"}},
    "lowered": {**CALLS, "type": "matrix", "attributes": ["model"], "cells": [], "default_unit_price": "1",
                "amount_tiers": [{"up_to": "10", "percent_off": "0"}, {"percent_off": "12.50"}]},
    "granted": {**CALLS, "type": "unit", "unit_price": "1", "included_from": "calls"},
    "negative": {"meter": "level", "type": "stairstep", "tiers": STEPS, "where": {"model": "large"}},
}  # fmt: skip
CATALOG: dict[str, Any] = {
    "meters": [
        {"name": "calls"}, {"name": "errors"},
        {"name": "level", "aggregation": "sum", "carry": "recurring", "prorate": "day", "negative_allowed": True},
    ],
    "plans": [
        {
            "name": "all", "version": 1, "currency": "USD",
            "prices": [{"id": name, **terms} for name, terms in PRICES.items()],
            "discounts": [{"id": "off", "percent": "10", "prices": ["unit"]}],
            "commitments": [{"id": "promised", "amount": "1", "overage_factor": "2", "prices": ["package"]}],
            "maximums": [{"id": "most", "amount": "3", "prices": ["volume"]}],
            "minimums": [{"id": "least", "amount": "100", "prices": ["unit", "volume"]}],
            "entitlements": [{"feature": "calls", "type": "metered", "meter": "calls", "quota": "3"}],
        }
    ],
    "accounts": [{"id": "payer", "name": "Payer", "tenants": ["acme"]}],
    "subscriptions": [
        {"id": "sub", "tenant": "acme", "plan": "all", "version": 1, "from": "2026-01-01", "quantities": {"seats": "3"}}
    ],
}  # fmt: skip
USAGE = """tenant_id,meter,quantity,event_time,model,price
acme,calls,4,2026-03-05T10:00:00Z,small,
acme,calls,3,2026-04-05T10:00:00Z,small,0.031
acme,calls,8.5,2026-04-06T10:00:00Z,large,
acme,errors,2,2026-04-06T11:00:00Z,large,
acme,errors,1,2026-04-06T11:00:00Z,tiny,
acme,level,8,2026-03-20T10:00:00Z,small,
acme,level,-3,2026-04-16T10:00:00Z,large,
"""
Lines = dict[tuple[str, str], Explanation]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    """April's lines, explained, by price and group."""
    root: Path = tmp_path_factory.mktemp("every")
    with Workspace.init(root, clock=FixedClock(MAY)) as workspace:
        (workspace.layout.catalog / "all.yaml").write_text(yaml.safe_dump(CATALOG), encoding="utf-8")
        workspace.apply()
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-04", final=True)
        [invoice] = workspace.invoices("2026-04")
        yield {(line.price_id, line.group_key): workspace.explain(line.line_id) for line in invoice.lines}


def steps(lines: Lines, price: str, group: str = "") -> list[tuple[str, Decimal | None]]:
    """Return the steps before the price, each with its quantity."""
    found = lines[price, group].steps
    at = [one.step for one in found].index("price")
    return [(one.step, one.quantity) for one in found[:at]]


def test_every_type_of_price_is_here() -> None:
    models = [one for union in get_args(get_args(Price)[0]) for one in (get_args(union) or (union,))]
    assert {model.model_fields["type"].annotation.__args__[0] for model in models} == {
        terms["type"] for terms in PRICES.values()
    }


def test_every_line_has_an_explanation_in_every_form_that_adds_up(lines: Lines) -> None:
    assert {price for price, _ in lines} == {*PRICES, "least"}
    for key, found in lines.items():
        top = {one.step: one for one in found.steps}
        parts = [one.exact_amount for one in found.steps if one.step in {"price", *ADJUSTMENTS}]
        assert (key, exact_sum(one for one in parts if one is not None)) == (key, top["worth"].exact_amount)
        assert (key, exact_sum(one.exact_amount or Decimal(0) for one in top["price"].children)) == (
            key, top["price"].exact_amount,
        )  # fmt: skip
        assert top["amount"].amount == found.line.amount
        table = found.to_arrow()
        assert table.schema == explanation_schema()
        assert [one["step"] for one in found.to_json()["steps"]] == [one.step for one in found.steps]
        page = io.StringIO()
        rich.console.Console(file=page, width=200).print(show.explanation(found))
        for text in (one["text"] for one in table.to_pylist()):
            assert (key, text.split(",")[0] in page.getvalue()) == (key, True)


def test_weights_come_before_what_is_included(lines: Lines) -> None:
    """3 that count 1 and 8.5 that count 2.5 are 24.25."""
    assert steps(lines, "weighted") == [
        ("aggregate", Decimal("11.5")), ("weights", Decimal("24.25")), ("included", Decimal("-0.5"))
    ]  # fmt: skip


def test_two_meters_are_put_together_before_they_are_converted(lines: Lines) -> None:
    """11.5 calls minus 3 errors are 8.5, in fours and rounded up 3."""
    assert steps(lines, "combined") == [
        ("aggregate", Decimal("11.5")), ("aggregate_other", 3), ("combination", Decimal("8.5")), ("conversion", 3)
    ]  # fmt: skip
    assert lines["combined", ""].steps[2].text == "calls minus errors, never below zero"
    assert steps(lines, "summed", '{"model":"tiny"}') == [("aggregate", 0), ("aggregate_other", 1), ("combination", 1)]


def test_what_is_below_zero_says_so(lines: Lines) -> None:
    assert steps(lines, "negative") == [("aggregate", Decimal("-1.5")), ("floor", 0)]


def test_tiers_say_where_they_are_climbed_from(lines: Lines) -> None:
    assert steps(lines, "lifelong") == [("aggregate", Decimal("11.5")), ("tiers_from", 4)]
    assert steps(lines, "climbing", '{"model":"small"}') == [("aggregate", 3), ("tiers_from", Decimal("8.5"))]
    assert steps(lines, "together", '{"model":"small"}') == [("aggregate", 3), ("tiers_reached", Decimal("11.5"))]
    # Eight from before, three fewer from the 16th on: half a month of three is 1.5 less.
    assert steps(lines, "held_volume") == [("aggregate", Decimal("6.5")), ("tiers_reached", 5)]


def test_what_is_not_the_largest_group_is_not_called_included(lines: Lines) -> None:
    [included] = [one for one in lines["largest", '{"model":"small"}'].steps if one.step == "included"]
    assert (included.text, included.quantity) == ("not priced, because another group is the largest", -3)


def test_a_part_of_the_amount_says_what_is_off_it(lines: Lines) -> None:
    """11.5 at 1, and 12.5 % off the 1.5 above 10; what is nothing is not shown."""
    [price] = [one for one in lines["lowered", ""].steps if one.step == "price"]
    [off] = [one for _, _, _, one in lines["lowered", ""].walk() if one.part == "amount_tier"]
    assert (off.text, off.exact_amount) == ("12.5 percent off the amount above 10", Decimal("-0.1875"))
    assert price.exact_amount == Decimal("11.3125")
    assert [cell.text for cell in price.children if not cell.cell_key] == ["of the whole line"]


def test_a_percentage_of_prices_says_of_what(lines: Lines) -> None:
    """10 % of 11.5 x 0.333, before 10 % off, and of 11.5 x 0.5, before the maximum."""
    found = lines["percent_of", ""]
    bases = [one.exact_amount for one in found.steps if one.step == "base"]
    assert bases == [Decimal("3.8295"), Decimal("5.75")]
    [price] = [one for one in found.steps if one.step == "price"]
    assert [(one.text, one.exact_amount) for one in price.children] == [("10 percent of that", Decimal("0.95795"))]


def test_a_minimum_says_what_it_is_compared_with(lines: Lines) -> None:
    """3.45 and 3.00 of 100.00."""
    found = lines["least", ""]
    assert [(one.step, one.amount) for one in found.steps[:2]] == [("owed", 100), ("covered", Decimal("6.45"))]
    assert found.line.amount == Decimal("93.55")
