"""An amount that does not fit stops rating, and the error names whose it is: the tenant and the price."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rating.errors import AmountOverflow
from tests.rated import engine_lines

HUGE, NINES = "9" * 25, "9" * 12
CALLS: dict[str, Any] = {"id": "calls", "meter": "calls", "type": "unit", "unit_price": "1"}
METERS = [
    {"name": "calls"},
    {"name": "errors"},
    {"name": "level", "aggregation": "time_weighted_sum", "per": "second"},
]


def event(row: int, tenant: str, meter: str, quantity: str, **attributes: str) -> dict[str, Any]:
    when = datetime(2026, 1, 5, tzinfo=UTC)
    return {
        "tenant_id": tenant, "meter": meter, "quantity": quantity, "event_time": when, "recorded_at": when,
        "attributes": attributes, "producer_id": "p", "segment": 1, "row": row, "idempotency_key": None,
    }  # fmt: skip


def overflow(
    prices: list[dict[str, Any]],
    *used: tuple[str, str, str],
    tenants: str = "abcde",
    subscription: dict[str, Any] | None = None,
    **plan: Any,
) -> AmountOverflow:
    """Return the overflow of some tenants under a plan; each use is tenant, meter and quantity."""
    catalog = {
        "meters": METERS,
        "plans": [{"name": "pro", "version": 1, "currency": "USD", "prices": prices, **plan}],
        "accounts": [{"id": "payer", "name": "Payer", "tenants": list(tenants)}],
        "subscriptions": [
            {"id": f"sub-{tenant}", "tenant": tenant, "plan": "pro", "version": 1, "from": "2026-01-01",
             **(subscription or {} if tenant == "d" else {})}
            for tenant in tenants
        ],
    }  # fmt: skip
    with pytest.raises(AmountOverflow) as refused:
        engine_lines(catalog, [event(row, *one, kind="x") for row, one in enumerate(used)], "2026-01")
    return refused.value


def test_who_overflows_is_named_and_not_who_used_most() -> None:
    cheap, dear = (
        {**CALLS, "unit_price": "0.000000000001"},
        {**CALLS, "id": "dear", "meter": "errors", "unit_price": NINES},
    )
    found = overflow([cheap, dear], ("b", "calls", "9" * 20), ("d", "errors", "99999999"))
    assert (found.tenant_id, found.price_id, found.subscription_id) == ("d", "dear", "sub-d")
    assert "tenant d" in found.message
    assert "price dear of pro version 1" in found.message
    assert "nothing was booked" in found.message


@pytest.mark.parametrize(
    ("price", "used"),
    [
        ({"included": "5"}, ("d", "calls", "9" * 29)),
        ({"convert": {"multiply": "999999999"}}, ("d", "calls", HUGE)),
        ({"combine": {"by": "multiply", "meter": "errors"}}, ("d", "errors", HUGE)),
        ({"weights": {"attribute": "kind", "values": {"x": "999999999"}}}, ("d", "calls", HUGE)),
        ({"meter": "level"}, ("d", "level", HUGE)),
    ],
    ids=["a sum", "a conversion", "a combination", "weights", "a level over time"],
)
def test_whatever_overflows_on_the_way_has_the_price(price: dict[str, Any], used: tuple[str, str, str]) -> None:
    other = {"id": "other", "meter": "errors", "type": "unit", "unit_price": "0"}
    found = overflow([other, {**CALLS, **price}], used, ("d", "calls", HUGE), ("b", "calls", "1"))
    assert (found.tenant_id, found.price_id) == ("d", "calls")


def test_a_meter_that_no_price_reads_is_named() -> None:
    found = overflow(
        [{**CALLS, "meter": "errors"}], ("d", "calls", "9" * 29), ("d", "calls", HUGE), ("d", "errors", "1")
    )
    assert (found.tenant_id, found.price_id) == ("d", "")
    assert "meter calls, which no price reads" in found.message


def test_what_stands_around_a_price_overflows_under_it() -> None:
    dearer = [{"id": "promised", "amount": "1", "overage_factor": "999", "true_up": False}]
    found = overflow([CALLS], ("d", "calls", "9" * 14), commitments=dearer)
    assert (found.tenant_id, found.price_id) == ("d", "calls")


def test_an_override_overflows_as_it_is_for_its_subscription() -> None:
    terms = {"overrides": {"calls": {"unit_price": NINES}}}
    found = overflow([CALLS], ("c", "calls", "99999999"), ("d", "calls", "99999999"), subscription=terms)
    assert (found.tenant_id, found.price_id) == ("d", "calls")


def test_units_of_a_flat_price_are_no_exception() -> None:
    seats = {"id": "seats", "type": "flat", "amount": NINES, "per_unit_of": "seats"}
    found = overflow([seats], tenants="d", subscription={"quantities": {"seats": NINES}})
    assert (found.tenant_id, found.price_id) == ("d", "seats")
    assert "correct the number of units or the amount" in found.message
