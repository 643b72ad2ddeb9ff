"""Every type of price with the worked numbers of the price rules: quantities to amounts, as the SQL of invoices rates them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from metering.catalog import Meter
from metering.periods import Period
from rating.errors import UsageUnpriced
from rating.preview import rate_events
from rating.price_meters import find_misfits
from rating.prices import Price
from rating.rate import RatedQuantity, rate_quantity
from tests import oracle_prices
from tests.rated import events_table

PRICE: TypeAdapter[Any] = TypeAdapter(Price)


def rated(terms: dict[str, Any], quantity: str) -> RatedQuantity:
    return rate_quantity(PRICE.validate_python({"id": "p", "meter": "m", **terms}), Decimal(quantity))


def events(*used: str | tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return events, one a day from 1 April on: quantities, or quantities with attributes."""
    listed = [(use, {}) if isinstance(use, str) else use for use in used]
    return [
        {
            "tenant_id": "t", "meter": "m", "quantity": quantity, "attributes": attributes, "idempotency_key": None,
            "event_time": datetime(2026, 4, 1, 12, tzinfo=UTC) + timedelta(days=number),
            "recorded_at": datetime(2026, 5, 1, tzinfo=UTC), "producer_id": "p", "segment": 0, "row": number,
        }
        for number, (quantity, attributes) in enumerate(listed)
    ]  # fmt: skip


def worth(terms: dict[str, Any], *used: str | tuple[str, dict[str, Any]]) -> RatedQuantity:
    """Return what events are worth under one price without groups."""
    price = PRICE.validate_python({"id": "p", "meter": "m", **terms})
    (found,) = rate_events(price, Meter(name="m"), events_table(events(*used))).values()
    return found


def refusal(**terms: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        PRICE.validate_python({"id": "p", "meter": "m", **terms})
    return str(refused.value)


def tiers(*steps: tuple[Any, ...], name: str = "unit_price") -> list[dict[str, str]]:
    """Return tiers from (up_to, unit price, flat amount); the last up_to is None."""
    keys = ("up_to", name, "flat_amount")
    return [{key: str(value) for key, value in zip(keys, step, strict=False) if value is not None} for step in steps]


THOUSANDS_UP = {"divide": "1000", "round": "ceil"}
PLAIN = tiers((100, 10), (None, 5))
WORKED: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "convert, then included": (
        {"type": "unit", "unit_price": "1", "convert": THOUSANDS_UP, "included": "0.5"},
        {"2300": "2.5", "0": "0", "1": "0.5"},
    ),
    "included, then volume tiers": ({"type": "volume", "included": "20", "tiers": PLAIN}, {"110": "900"}),
    "included, then graduated tiers": (
        {"type": "graduated", "included": "50", "tiers": tiers((100, 1), (None, "0.5"))},
        {"120": "70", "0": "0"},
    ),
    "a minimum of units is included": (
        {"type": "unit", "unit_price": "0.08", "included": "150"},
        {"400": "20", "150": "0", "150.000000001": "0.00000000008"},
    ),
    "a package after what is included": (
        {"type": "package", "package_size": "100", "package_price": "8", "included": "150"},
        {"260": "16", "150": "0"},
    ),
    "only full packages": (
        {"type": "package", "package_size": "10", "package_price": "2", "part": "down"},
        {"15": "2", "9.999999999": "0", "20": "4"},
    ),
    "stairstep": (
        {"type": "stairstep", "tiers": tiers((100, None, 20), (500, None, 60), (None, None, 150))},
        {"0": "20", "100": "20", "101": "60", "500": "60", "501": "150"},
    ),
    "threshold amounts are a stairstep": (
        {"type": "stairstep", "tiers": tiers((100, None, 0), (500, None, 40), (None, None, 90))},
        {"100": "0", "101": "40", "600": "90"},
    ),
    "graduated percentage": (
        {"type": "graduated_percentage", "tiers": tiers((1000, 2, 1), (None, 1), name="percent")},
        {"2500": "36", "0": "1"},
    ),
    "tiers of packages": (
        {"type": "graduated", "convert": {"divide": "10", "round": "ceil"}, "tiers": tiers((5, 4), (None, 3))},
        {"67": "26", "50": "20"},
    ),
    "packages inside a tier": (
        {"type": "graduated", "tiers": [
            {"up_to": "100", "unit_price": "5", "package_size": "30"}, {"unit_price": "6", "package_size": "50"},
        ]},
        {"130": "26", "100": "20", "0": "0"},
    ),
    "a quantity of volume in packages": (
        {"type": "volume", "tiers": [
            {"up_to": "50", "unit_price": "2", "package_size": "10"}, {"unit_price": "3", "package_size": "20"},
        ]},
        {"75": "12"},
    ),
    "a cap on a tier": ({"type": "graduated", "tiers": [{"unit_price": "1", "maximum": "30"}]}, {"50": "30", "20": "20"}),
    "a minimum on each tier": (
        {"type": "graduated", "tiers": [
            {"up_to": "100", "unit_price": "0.10", "minimum": "15"}, {"unit_price": "0.05", "minimum": "20"},
        ]},
        {"150": "35", "0": "0", "100": "15"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("terms", "worked"), WORKED.values(), ids=WORKED)
def test_worked_numbers(terms: dict[str, Any], worked: dict[str, str]) -> None:
    for quantity, amount in worked.items():
        found = rated(terms, quantity)
        assert (quantity, found.exact_amount) == (quantity, Decimal(amount))
        assert sum((charge.exact_amount for charge in found.charges), Decimal(0)) == found.exact_amount
        assert oracle_prices.metered_amount(terms, Decimal(quantity)) == Decimal(amount)


def test_the_line_shows_the_converted_quantity_and_what_of_it_is_included() -> None:
    found = rated({"type": "unit", "unit_price": "1", "convert": THOUSANDS_UP, "included": "0.5"}, "2300")
    assert found.quantity == 3
    assert [(charge.part, charge.quantity) for charge in found.charges] == [
        ("included", Decimal("0.5")),
        ("unit", Decimal("2.5")),
    ]


@pytest.mark.parametrize(
    ("convert", "quantity", "converted"),
    [
        ({"divide": "3"}, "1", "0.333333333"),
        ({"divide": "3"}, "2", "0.666666667"),
        ({"divide": "1000", "round": "ceil"}, "2000.000000001", "3"),
        ({"divide": "1000", "round": "floor", "places": "2"}, "2359", "2.35"),
        ({"divide": "1000", "round": "half_up", "places": "1"}, "2350", "2.4"),
        ({"multiply": "1024"}, "0.5", "512"),
        ({"multiply": "0.000000001", "round": "ceil"}, "0.000000001", "1"),
        ({"divide": "0.000000001"}, "7.000000001", "7000000001"),
        ({"divide": "1099511627776"}, "99999999999999999999", "90949470.177292824"),
    ],
)
def test_conversion_is_exact(convert: dict[str, str], quantity: str, converted: str) -> None:
    assert rated({"type": "unit", "unit_price": "1", "convert": convert}, quantity).quantity == Decimal(converted)


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"convert": {}}, "a conversion divides or multiplies by one factor"),
        ({"convert": {"divide": "10", "multiply": "10"}}, "a conversion divides or multiplies by one factor"),
        ({"convert": {"divide": "0"}}, "0 is not above 0"),
        ({"convert": {"divide": "10", "places": "2"}}, "places are for a rounding"),
        ({"convert": {"divide": "10", "round": "ceil", "places": "10"}}, "is not a number of decimals"),
        ({"included_per": "group"}, "there is nothing to give to each group"),
        ({"included": "-1"}, "-1 is below 0"),
    ],
)
def test_terms_before_the_price_make_sense(terms: dict[str, Any], why: str) -> None:
    assert why in refusal(type="unit", unit_price="1", **terms)


def test_terms_of_tiers_make_sense() -> None:
    one = [{"unit_price": "1"}]
    assert "without by there is one group only" in refusal(type="volume", tiers=one, tiers_over="all_groups")
    own = {"unit_price": "1", "unit_prices": {"a": "2"}}
    assert "all of them reach one tier" in refusal(type="volume", by=["model"], tiers=[own])
    all_groups = {"type": "volume", "by": ["model"], "tiers_over": "all_groups"}
    assert "all of them reach one tier" in refusal(**{**all_groups, "type": "graduated"}, tiers=[own])
    assert "nothing is free by oversight" in refusal(**all_groups, tiers=[{"unit_prices": {"a": "2"}}])
    swapped = [{"unit_price": "1", "minimum": "2", "maximum": "1"}]
    assert "the maximum is below the minimum of 2" in refusal(type="graduated", tiers=swapped)
    assert "would fall into a gap" in refusal(type="stairstep", tiers=[{"up_to": "10", "flat_amount": "1"}])
    assert "unit_price" in refusal(type="stairstep", tiers=[{"unit_price": "1", "flat_amount": "1"}])


@pytest.mark.parametrize(
    ("terms", "values", "amounts"),
    [
        ({"percent": "2.5", "fixed_amount": "0.10"}, ("40", "60", "3"), ("1.10", "2.70", "2.875")),
        ({"percent": "2", "fixed_amount": "0.30", "free_units": "100"}, ("60", "40", "50"), ("0", "0", "1.30")),
        (
            {"percent": "2", "fixed_amount": "0.30", "free_units": "100", "free_events": "1"},
            ("60", "40", "50"),
            ("0", "1.10", "2.40"),
        ),
        ({"percent": "2", "free_units": "100", "free_events": "1"}, ("10", "10"), ("0", "0.20")),
        (
            {"percent": "2", "fixed_amount": "0.30", "event_minimum": "0.50", "event_maximum": "4.00"},
            ("5", "90", "900"),
            ("0.50", "2.60", "6.60"),
        ),
        ({"percent": "0.3", "event_maximum": "20"}, ("5000", "10000"), ("15", "35")),
        ({"percent": "10", "free_units": "15"}, ("10", "10"), ("0", "0.5")),
    ],
    ids=["plain", "free units", "both allowances", "the first to end", "limits", "basis points", "partly free"],
)
def test_percentages(terms: dict[str, Any], values: tuple[str, ...], amounts: tuple[str, ...]) -> None:
    """After each event, all of them so far."""
    found = [worth({"type": "percentage", **terms}, *values[: at + 1]) for at in range(len(values))]
    assert [one.exact_amount for one in found] == [Decimal(amount) for amount in amounts]
    for number, one in enumerate(found, start=1):
        assert one.quantity == sum(map(Decimal, values[:number]))
        assert sum(part.quantity for part in one.charges if part.part in ("unit", "included")) == one.quantity
        assert sum(part.exact_amount for part in one.charges) == one.exact_amount


def test_terms_of_percentages_make_sense() -> None:
    assert "below event_minimum" in refusal(type="percentage", percent="1", event_minimum="2", event_maximum="1")
    assert "more than 10 decimals" in refusal(type="percentage", percent="0.00000000001")


def test_each_day_is_priced_on_its_own() -> None:
    daily = {"type": "unit", "unit_price": "1", "included": "10", "price_per": "day"}
    assert worth(daily, "12", "30", "5").exact_amount == 22
    tiered = {"type": "graduated", "tiers": tiers((10, 1), (None, "0.4")), "price_per": "day"}
    assert worth(tiered, "8", "14").exact_amount == Decimal("19.60")


def by_model(terms: dict[str, Any], **used: str) -> dict[str, Decimal]:
    price = PRICE.validate_python({"id": "p", "meter": "m", "by": ["model"], **terms})
    found = rate_events(price, Meter(name="m"), events_table(events(*((q, {"model": m}) for m, q in used.items()))))
    return {key: rated.exact_amount for key, rated in found.items()}


def test_groups_share_what_the_price_says() -> None:
    each, rest = {"type": "graduated", "tiers": tiers((100, 1), (None, "0.5"))}, {"a": "80", "b": "150"}
    assert list(by_model(each, **rest).values()) == [80, 125]
    assert list(by_model({**each, "tiers_over": "all_groups"}, **rest).values()) == [80, 85]
    # The fee of the second tier belongs to the group that enters it.
    volume = {"type": "volume", "tiers": tiers((100, 1, 3), (None, "0.5", 7)), "tiers_over": "all_groups"}
    assert list(by_model(volume, **rest).values()) == [47, 75]
    own = {"a": "0.80", "b": "0.50"}
    steps = [{"up_to": "100", "unit_price": "1"}, {"unit_price": "0.9", "unit_prices": own}]
    by_tier_and_group = {"type": "volume", "tiers": steps, "tiers_over": "all_groups"}
    # Together they reach the second tier: 60 at 0.80 and 70 at 0.50, and 10 of any other group at 0.90.
    assert list(by_model(by_tier_and_group, a="60", b="70", c="10").values()) == [48, 35, 9]
    assert list(by_model(by_tier_and_group, a="60", b="40").values()) == [60, 40]
    included = {"type": "unit", "unit_price": "0.20", "included": "100"}
    used = {"a": "40", "b": "130", "c": "260"}
    assert list(by_model({**included, "included_per": "group"}, **used).values()) == [0, 6, 32]
    assert list(by_model(included, **used).values()) == [0, 14, 52]


MATRIX: dict[str, Any] = {
    "type": "matrix",
    "attributes": ["region", "kind"],
    "cells": [
        {"values": ["eu", "gpu"], "unit_price": "2"},
        {"values": ["us", "gpu"], "unit_price": "1.50"},
    ],
    "default_unit_price": "0.10",
}


def at(quantity: str, region: str | None, kind: str) -> tuple[str, dict[str, Any]]:
    return quantity, {"kind": kind} if region is None else {"kind": kind, "region": region}


def test_a_matrix_has_a_unit_price_per_cell() -> None:
    found = worth(MATRIX, at("10", "eu", "gpu"), at("4", "us", "gpu"), at("20", "us", "cpu"), at("10", None, "gpu"))
    assert (found.quantity, found.exact_amount) == (44, 29)
    assert sorted((part.cell_key, part.unit_price) for part in found.charges)[0] == (
        '{"kind":"cpu","region":"us"}',
        Decimal("0.10"),
    )


def test_what_no_cell_names_is_never_free() -> None:
    strict = {name: value for name, value in MATRIX.items() if name != "default_unit_price"}
    assert worth(strict, at("10", "eu", "gpu"), at("0", "moon", "gpu")).exact_amount == 20
    with pytest.raises(
        UsageUnpriced, match=r"used 50.000000000 in 1 events that price p .* takes and has no amount for"
    ) as error:
        worth(strict, at("10", "eu", "gpu"), at("50", "moon", "gpu"))
    assert error.value.cell_key == '{"kind":"gpu","region":"moon"}'
    assert error.value.code == "usage_unpriced"


def test_terms_of_a_matrix_make_sense() -> None:
    cell = MATRIX["cells"][0]
    assert "cells[0] has the same values" in refusal(**{**MATRIX, "cells": [cell, cell]})
    short = {"values": ["eu"], "unit_price": "1"}
    assert "the matrix has region, kind; write one value for each" in refusal(**{**MATRIX, "cells": [short]})
    assert "stands here twice" in refusal(**{**MATRIX, "attributes": ["kind", "kind"]})


@pytest.mark.parametrize(
    ("terms", "used", "amount"),
    [
        ({}, [("3", "0.25"), ("10", "0.031")], "1.06"),
        ({"multiplier": "1.15", "carries": "amount"}, [("1", "80.00")], "92"),
        ({"carries": "amount"}, [("7", "0.50"), ("0", "0.50"), ("1", "1.25")], "2.25"),
        ({"multiplier": "1.15"}, [("2", "0.25")], "0.575"),
        ({"default": "0.10"}, [("3", "1e3"), ("4", ""), ("5", "0.0000000000001"), ("1", "-0.5")], "0.70"),
        ({}, [("2", 4), ("0", "free")], "8"),
    ],
)
def test_events_carry_their_price(terms: dict[str, Any], used: list[tuple[str, Any]], amount: str) -> None:
    dynamic = {"type": "dynamic", "price_attribute": "price", **terms}
    found = worth(dynamic, *((quantity, {"price": carried}) for quantity, carried in used))
    assert found.exact_amount == Decimal(amount)


@pytest.mark.parametrize("carried", [None, "", "1e3", "0.1234567890123", "1.", "1,5", "NaN", "1234567890123"])
def test_a_price_that_cannot_be_read_is_never_free(carried: str | None) -> None:
    dynamic = {"type": "dynamic", "price_attribute": "price"}
    with pytest.raises(UsageUnpriced, match="price p"):
        worth(dynamic, ("1", {} if carried is None else {"price": carried}))


def test_a_default_has_room_for_the_multiplier() -> None:
    terms = {"type": "dynamic", "price_attribute": "price", "multiplier": "1.15"}
    assert "write at most 10" in refusal(**terms, default="0.00000000001")


def test_weights_make_one_quantity_of_many() -> None:
    weights = {"attribute": "model", "values": {"small": "1", "large": "2.5"}}
    used = [("10", {"model": "small"}), ("20", {"model": "large"})]
    found = worth({"type": "unit", "unit_price": "0.10", "weights": weights}, *used)
    assert (found.quantity, found.exact_amount) == (60, 6)
    tiered = {"type": "graduated", "tiers": tiers((50, 1), (None, "0.5", 3)), "weights": weights}
    assert worth(tiered, *used).exact_amount == 58
    with pytest.raises(UsageUnpriced, match="price p"):
        worth({"type": "unit", "unit_price": "0.10", "weights": weights}, *used, ("1", {"model": "new"}))
    assert (
        worth({"type": "unit", "unit_price": "1", "weights": {**weights, "default": "0"}}, ("1", {})).exact_amount == 0
    )
    assert "by weights or by time" in refusal(type="unit", unit_price="1", weights=weights, price_per="day")


@pytest.mark.parametrize(
    ("terms", "meter", "place", "why"),
    [
        ({"fixed_amount": "0.30"}, {"negative_allowed": True}, "fixed_amount", "void a wrong event instead"),
        ({"event_minimum": "0"}, {"negative_allowed": True}, "event_minimum", "void a wrong event instead"),
        ({"free_units": "5"}, {"aggregation": "max"}, "free_units", "does not add them up as they are"),
        ({"free_events": "5"}, {"carry": "recurring"}, "free_events", "does not add them up as they are"),
        ({}, {"negative_allowed": True, "aggregation": "max"}, None, None),
    ],
)
def test_single_events_need_a_meter_of_them(
    terms: dict[str, str], meter: dict[str, Any], place: str | None, why: str | None
) -> None:
    price = PRICE.validate_python({"id": "p", "meter": "m", "type": "percentage", "percent": "2", **terms})
    found = list(find_misfits(price, Meter.model_validate({"name": "m", **meter})))
    assert [at for at, _ in found] == ([] if place is None else [(place,)])
    assert all(why in sentence for _, sentence in found if why)


def test_a_line_is_split_only_where_the_meter_has_an_answer() -> None:
    dynamic = PRICE.validate_python({"id": "p", "meter": "m", "type": "dynamic", "price_attribute": "price"})
    ((place, why),) = find_misfits(dynamic, Meter(name="m", aggregation="max"))
    assert place == ("meter",)
    assert "aggregation: sum" in why
    hourly = PRICE.validate_python({"id": "p", "meter": "m", "type": "unit", "unit_price": "1", "price_per": "hour"})
    ((place, why),) = find_misfits(hourly, Meter(name="m", carry="recurring"))
    assert place == ("price_per",)
    assert "do not split it by hour" in why


def test_a_quantity_alone_has_no_events() -> None:
    weights = {"attribute": "model", "values": {"large": "2.5"}}
    assert rated({"type": "unit", "unit_price": "0.10", "weights": weights}, "60").exact_amount == 6
    for terms in (
        {"type": "dynamic", "price_attribute": "price"},
        {"type": "percentage", "percent": "1", "free_events": 1},
    ):
        with pytest.raises(ValueError, match="price p looks at single events"):
            rated(terms, "60")


LEVEL = Meter.model_validate(
    {"name": "m", "aggregation": "sum", "carry": "recurring", "prorate": "day", "negative_allowed": "true"}
)
APRIL = Period(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))


def level_events(*changes: tuple[int, str]) -> list[dict[str, Any]]:
    """Return changes of a level, each as (day of April, change)."""
    made = events(*(change for _, change in changes))
    return [
        {**event, "event_time": APRIL.start + timedelta(days=day - 1, hours=5)}
        for event, (day, _) in zip(made, changes, strict=True)
    ]


HELD = {
    "tiers_by": "held",
    "tiers": [{"up_to": "10", "unit_price": "4", "flat_amount": "6"}, {"unit_price": "2", "flat_amount": "3"}],
}


@pytest.mark.parametrize(
    ("kind", "changes", "exact"),
    [
        # 8 from the 1st, 14 from the 16th, 10 from the 21st; the second tier is entered on five of thirty days.
        ("graduated", [(1, "8"), (16, "6"), (21, "-4")], "43.833333333333333333333"),
        ("graduated", [], "6"),
        ("graduated", [(1, "10")], "46"),
        ("graduated", [(1, "5"), (11, "-100")], "12.666666666666666666667"),
        # The tier of the ten units that are left; 29/3 of them by their days.
        ("volume", [(1, "8"), (16, "6"), (21, "-4")], "44.666666668"),
        ("volume", [(1, "1"), (30, "20")], "6.333333334"),
    ],
)  # fmt: skip
def test_units_that_are_held_day_by_day(kind: str, changes: list[tuple[int, str]], exact: str) -> None:
    """Price models, section 2.5, with flat amounts that follow the level; 46.333 there are 43.833 and 2.50 of the peak."""
    price = PRICE.validate_python({"id": "p", "meter": "m", "type": kind, **HELD})
    table = events_table(level_events(*changes))
    (found,) = rate_events(price, LEVEL, table, period=APRIL).values()
    assert found.exact_amount == Decimal(exact)
    assert sum(charge.exact_amount for charge in found.charges) == found.exact_amount


def test_units_are_held_of_a_level_only() -> None:
    price = PRICE.validate_python({"id": "p", "meter": "m", "type": "graduated", **HELD})
    assert not list(find_misfits(price, LEVEL))
    [(place, sentence)] = find_misfits(price, Meter(name="m"))
    assert place == ("tiers_by",)
    assert "prorate: day" in sentence
    assert "remove included" in refusal(type="graduated", **HELD, included="5")
    assert "share of its unit price" in refusal(
        type="volume", tiers_by="held", tiers=[{"unit_price": "1", "package_size": "10"}]
    )
