"""Prices: what the models keep exactly, and what they refuse with a sentence."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rating.iso4217 import MINOR_UNITS, minor_units
from rating.plans import Plan, Subscription, instant_of
from rating.prices import FlatPrice, GraduatedPrice, PackagePrice, Price, Tier, UnitPrice, VolumePrice

PRICE: TypeAdapter[Price] = TypeAdapter(Price)


def price(**keys: Any) -> Price:
    return PRICE.validate_python({"id": "p", **({} if keys["type"] == "flat" else {"meter": "m"}), **keys})


def refusal(**keys: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        price(**keys)
    return str(refused.value)


def test_each_type_of_price_has_its_model() -> None:
    tiers = [{"unit_price": "1"}]
    assert isinstance(price(type="flat", amount="49.00"), FlatPrice)
    assert isinstance(price(type="unit", unit_price="0.1"), UnitPrice)
    assert isinstance(price(type="graduated", tiers=tiers), GraduatedPrice)
    assert isinstance(price(type="volume", tiers=tiers), VolumePrice)
    assert isinstance(price(type="package", package_size="100", package_price="8"), PackagePrice)


@pytest.mark.parametrize("text", ["0", "0.000000000001", "999999999999.999999999999", "-0.5", "49.00"])
def test_a_number_stays_as_it_was_written(text: str) -> None:
    kept = price(type="unit", unit_price=text)
    assert isinstance(kept, UnitPrice)
    assert str(f"{kept.unit_price:f}") == text
    assert kept.model_dump(mode="json")["unit_price"] == text


def test_minus_zero_is_zero() -> None:
    kept = price(type="unit", unit_price="-0.00")
    assert isinstance(kept, UnitPrice)
    assert f"{kept.unit_price:f}" == "0.00"


@pytest.mark.parametrize(
    "value",
    [0.1, 1e-6, True, None, Decimal("NaN"), Decimal("Infinity"), "1e-6", "1_000", ".5", "5.", "+5", "NaN", " 1", ""],
)
def test_what_is_no_plain_decimal_is_refused(value: object) -> None:
    assert (
        "plain de" in (message := refusal(type="unit", unit_price=value)) or "cannot" in message or "digits" in message
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0.0000000000001", "more than 12 decimals"),
        ("1000000000000", "more than 12 digits before the point"),
        ("-1000000000000", "more than 12 digits before the point"),
        (Decimal("1E+12"), "more than 12 digits before the point"),
    ],
)
def test_unit_prices_and_amounts_have_limits(value: object, why: str) -> None:
    assert why in refusal(type="unit", unit_price=value)
    assert why in refusal(type="flat", amount=value)
    assert why in refusal(type="package", package_size="1", package_price=value)


def test_a_number_may_have_all_its_digits() -> None:
    # Twenty-nine nines are more digits than Python's own context compares; they must not become one more.
    largest = f"{'9' * 29}.{'9' * 9}"
    price = UnitPrice.model_validate({"id": "p", "type": "unit", "meter": "m", "unit_price": "1", "included": largest})
    assert price.included == Decimal(largest)


@pytest.mark.parametrize("size", ["0", "-1", "0.0000000001"])
def test_a_package_holds_something(size: str) -> None:
    refusal(type="package", package_size=size, package_price="1")


@pytest.mark.parametrize(
    ("edges", "why"),
    [
        ([], "there is no tier; write at least one, the last without up_to"),
        (["10"], "the last tier ends at 10, and what is above it would fall into a gap"),
        (["10", "20"], "the last tier ends at 20, and what is above it would fall into a gap"),
        (["10", "10", None], "10 does not rise above 10 of the tier before, so tiers[0] and tiers[1] overlap"),
        (["10", "9.999999999", None], "9.999999999 does not rise above 10 of the tier before"),
        (["5", "20", "10", None], "10 does not rise above 20 of the tier before, so tiers[1] and tiers[2] overlap"),
        ([None, None], "tiers[0] has no up_to and so takes all the rest, and tiers[1] overlaps it"),
        (["10", None, "20"], "tiers[1] has no up_to and so takes all the rest, and tiers[2] overlaps it"),
        (["-1", None], "-1 is below 0"),
        (["0.0000000001", None], "more than 9 decimals"),
    ],
)
def test_tiers_price_every_quantity_once(edges: list[str | None], why: str) -> None:
    tiers = [{"unit_price": "1"} | ({} if edge is None else {"up_to": edge}) for edge in edges]
    assert why in refusal(type="graduated", tiers=tiers)
    assert why in refusal(type="volume", tiers=tiers)


def test_a_first_tier_up_to_zero_and_fractional_edges_are_fine() -> None:
    kept = price(type="graduated", tiers=[{"up_to": "0"}, {"up_to": "0.5", "unit_price": "1"}, {"flat_amount": "3"}])
    assert isinstance(kept, GraduatedPrice)
    assert kept.tiers == (
        Tier(up_to=Decimal(0)),
        Tier(up_to=Decimal("0.5"), unit_price=Decimal(1)),
        Tier(flat_amount=Decimal(3)),
    )


def test_filters_are_text_and_their_order_means_nothing() -> None:
    one = price(type="unit", unit_price="1", where={"model": ["b", "a"], "direction": "output"})
    assert one.where == {"direction": ("output",), "model": ("a", "b")}
    assert "is not an attribute value" in refusal(type="unit", unit_price="1", where={"n": 5})
    assert "write at least one value" in refusal(type="unit", unit_price="1", where={"n": []})
    # Composed and decomposed accents are one value, as they are in usage events.
    assert price(type="unit", unit_price="1", where={"city": "Zu\u0308rich"}).where == {"city": ("Z\u00fcrich",)}


def test_a_flat_price_looks_at_no_usage() -> None:
    flat = price(type="flat", amount="1")
    assert (flat.meter, flat.where, flat.by) == (None, {}, ())
    assert "Extra inputs" in refusal(type="flat", amount="1", meter="m")


def test_price_ids_are_unique_in_a_plan() -> None:
    twice = {"id": "fee", "type": "flat", "amount": "1"}
    with pytest.raises(ValidationError, match="'fee' is the id of two prices; rename one"):
        Plan.model_validate({"name": "p", "version": 1, "currency": "USD", "prices": [twice, twice]})


@pytest.mark.parametrize(
    ("when", "zone", "instant"),
    [
        ("2026-03-01", "America/New_York", "2026-03-01T05:00:00+00:00"),
        ("2026-10-25", "Europe/Paris", "2026-10-24T22:00:00+00:00"),
        ("2022-03-27", "Asia/Beirut", "2022-03-26T22:00:00+00:00"),  # this midnight was skipped: 01:00 is first
        ("2026-11-01", "America/Havana", "2026-11-01T04:00:00+00:00"),  # this midnight comes twice: the first
        ("2026-03-01T00:00:00+01:00", "America/New_York", "2026-02-28T23:00:00+00:00"),
    ],
)
def test_a_date_is_its_midnight_in_the_zone_of_the_plan(when: str, zone: str, instant: str) -> None:
    subscription = Subscription(id="s", tenant="t", plan="p", version=1, starts_at=when)
    assert instant_of(subscription.starts_at, zone).isoformat() == instant


def test_minor_units_follow_iso_4217() -> None:
    asked = ("USD", "EUR", "JPY", "ISK", "UGX", "MGA", "HUF", "TWD", "IRR", "BHD", "KWD", "CLF", "UYW")
    assert [minor_units(code) for code in asked] == [2, 2, 0, 0, 0, 2, 2, 2, 2, 3, 3, 4, 4]
    assert all(len(code) == 3 and code.isupper() for code in MINOR_UNITS)
    assert not {"XAU", "XXX", "XTS", "HRK", "DEM"} & set(MINOR_UNITS)
