"""Percentages off parts of what a line costs: worked numbers, cuts, late and voided events, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rating.lint import lint_catalog
from rating.prices import Price
from tests import oracle
from tests.rated import Booked, engine_lines, terms_of

PRICE: TypeAdapter[Any] = TypeAdapter(Price)
ROWS = count()
START = datetime(2026, 4, 1, tzinfo=UTC)
MONTH = "2026-04"
# Nothing off the first 1,000, 10 % off what is above.
TIERS = [{"up_to": "1000", "percent_off": "0"}, {"percent_off": "10"}]
MATRIX: dict[str, Any] = {
    "id": "p", "meter": "calls", "type": "matrix", "attributes": ["region"],
    "cells": [{"values": ["a"], "unit_price": "2"}, {"values": ["b"], "unit_price": "1"}],
}  # fmt: skip


def use(quantity: str, day: int = 1, region: str | None = "a", **more: Any) -> dict[str, Any]:
    at = START + timedelta(days=day - 1, hours=1)
    return {
        "tenant_id": "t", "meter": "calls", "quantity": quantity, "attributes": {"region": region} if region else {},
        "idempotency_key": None, "event_time": at, "recorded_at": at, "producer_id": "p", "segment": 0,
        "row": next(ROWS), **more,
    }  # fmt: skip


def catalog_of(*prices: dict[str, Any], currency: str = "USD", **plan: Any) -> dict[str, Any]:
    return {
        "meters": [{"name": "calls"}],
        "plans": [{"name": "plan", "version": 1, "currency": currency, "prices": list(prices), **plan}],
        "accounts": [{"id": "a", "name": "A", "tenants": ["t"]}],
        "subscriptions": [{"id": "s", "tenant": "t", "plan": "plan", "version": 1, "from": "2026-04-01"}],
    }


def amounts(catalog: dict[str, Any], events: list[dict[str, Any]]) -> list[Decimal]:
    """Return the rounded amounts of the lines, which the engine and the oracle agree on."""
    lines = engine_lines(catalog, events, MONTH)
    assert lines == oracle.lines(catalog, events, MONTH)
    return [lines[key].amount for key in sorted(lines)]


def test_a_matrix_has_a_percentage_off_above_a_threshold() -> None:
    """400 at 2 and 500 at 1 are 1,300: 10 % of 300 off are 1,270.00."""
    catalog = catalog_of({**MATRIX, "amount_tiers": TIERS})
    assert amounts(catalog, [use("400"), use("500", region="b")]) == [Decimal("1270.00")]
    assert lint_catalog(terms_of(catalog)) == []


@pytest.mark.parametrize(
    ("quantity", "amount"),
    # At the threshold all of it is below; a minor unit above it only that has 10 % off; nothing used is nothing.
    [("1000", "1000.00"), ("1000.1", "1000.09"), ("999.99", "999.99"), ("0", "0")],
)
def test_at_the_threshold(quantity: str, amount: str) -> None:
    catalog = catalog_of({**MATRIX, "amount_tiers": TIERS})
    assert amounts(catalog, [use(quantity, region="b")]) == [Decimal(amount)]


def test_every_part_has_its_own_percentage() -> None:
    """5 % off 100, 10 % off the next 100, all of what is above: 250 are 95 + 90 + 0."""
    steps = [{"up_to": "100", "percent_off": "5"}, {"up_to": "200", "percent_off": "10"}, {"percent_off": "100"}]
    assert amounts(catalog_of({**MATRIX, "amount_tiers": steps}), [use("125")]) == [185]


def test_any_price_of_usage_may_have_them_line_by_line() -> None:
    """1,300 of a and 900 of b are two lines; only the first is above the threshold. One tier is a percentage off all."""
    unit = {"id": "p", "meter": "calls", "type": "unit", "unit_price": "1", "by": ["region"]}
    used = [use("1300"), use("900", region="b")]
    assert amounts(catalog_of({**unit, "amount_tiers": TIERS}), used) == [1270, 900]
    assert amounts(catalog_of({**unit, "amount_tiers": [{"percent_off": "10"}]}), used) == [1170, 810]


def test_limits_and_discounts_come_after_them() -> None:
    """1,300 are 1,270, cut to 1,200, and half off is 600. Half off first would leave 650, below every threshold."""
    price = {**MATRIX, "amount_tiers": TIERS, "line_limits": {"maximum": "1200"}}
    catalog = catalog_of(price, discounts=[{"id": "half", "percent": "50"}])
    assert amounts(catalog, [use("650")]) == [600]


def test_a_currency_with_three_decimals() -> None:
    """10 % off the last 0.005 of 1,000.005 leave 1,000.0045, rounded once: 1,000.005 dinars, 1,000.00 dollars."""
    used = [use("1000.005", region="b")]
    assert amounts(catalog_of({**MATRIX, "amount_tiers": TIERS}, currency="KWD"), used) == [Decimal("1000.005")]
    assert amounts(catalog_of({**MATRIX, "amount_tiers": TIERS}), used) == [1000]


def test_cuts_add_up_and_late_and_voided_events_move_the_threshold() -> None:
    """800, then 500 more, then 100 that come late, then a void of the 500: each books what is missing to the whole."""
    catalog, booked = catalog_of({**MATRIX, "amount_tiers": TIERS}), Booked()
    first, second, late = use("400"), use("250", day=10), use("100", day=5, region="b")
    origin = {name: second[name] for name in ("producer_id", "segment", "row")}
    void = use("0", day=10, correction={"verb": "void", **origin}, recorded_at=START + timedelta(days=20))
    pieces = []
    for known in ([first], [first, second], [first, second, late], [first, second, late, void]):
        pieces.append([line.amount for line, _ in booked.book(catalog, known, MONTH).values()])
        assert engine_lines(catalog, known, MONTH) == oracle.lines(catalog, known, MONTH)
    assert pieces == [[800], [470], [90], [-460]]
    assert booked.book(catalog, [first, second, late, void], MONTH) == {}


def test_what_is_below_zero_is_not_lowered() -> None:
    """A unit price below zero pays back; 10 % off what is paid back would be a charge."""
    cells = [{"values": ["a"], "unit_price": "-2"}]
    assert amounts(catalog_of({**MATRIX, "cells": cells, "amount_tiers": [{"percent_off": "10"}]}), [use("5")]) == [-10]


def test_what_no_cell_names_is_still_without_a_price() -> None:
    from tests.rated import engine

    for region in ("c", None):
        engine_lines(catalog_of({**MATRIX, "amount_tiers": TIERS}), [use("2000"), use("7", region=region)], MONTH)
        assert engine().execute("SELECT quantity FROM unpriced_usage").fetchall() == [(7,)]


@pytest.mark.parametrize(
    ("tiers", "sentence"),
    [
        ([], "there is no tier"),
        ([{"up_to": "9", "percent_off": "0"}, {"up_to": "5", "percent_off": "1"}, {"percent_off": "2"}], "sort the tiers"),
        ([{"up_to": "1000", "percent_off": "0"}], "add a last tier without it"),
        ([{"percent_off": "0"}, {"percent_off": "10"}], "takes all the rest"),
        ([{"up_to": "0", "percent_off": "0"}, {"percent_off": "10"}], "write a number greater than 0"),
        ([{"percent_off": "100.0001"}], "more than the whole; write at most 100"),
        ([{"percent_off": "-1"}], "-1 is below 0; write 0 or more"),
        ([{"percent_off": "0.00001"}], "write at most 4"),
        ([{}], "Field required"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tiers: list[dict[str, str]], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PRICE.validate_python({**MATRIX, "amount_tiers": tiers})
    [mistake] = refused.value.errors()
    assert mistake["loc"][1] == "amount_tiers"
    assert sentence in mistake["msg"]


def test_a_price_that_looks_at_no_usage_has_none() -> None:
    with pytest.raises(ValidationError, match="amount_tiers"):
        PRICE.validate_python({"id": "p", "type": "flat", "amount": "1", "amount_tiers": TIERS})
