"""An amount that does not fit stops rating, and the error names whose it is: the tenant and the price."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rating.errors import AmountOverflow
from rating.rate import overflow_named
from tests.rated import engine, engine_lines

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
    account: dict[str, Any] | None = None,
    **plan: Any,
) -> AmountOverflow:
    """Return the overflow of some tenants under a plan; each use is tenant, meter and quantity."""
    catalog = {
        "meters": METERS,
        "plans": [{"name": "pro", "version": 1, "currency": "USD", "prices": prices, **plan}],
        "accounts": [{"id": "payer", "name": "Payer", "tenants": list(tenants), **(account or {})}],
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


# A factor of 100 leaves 13 digits before the point, and what the account gets off has 12.
SHARED = {"discounts": [{"id": "off", "amount": NINES, "currency": "USD"}]}
DEARER = [{"id": "promised", "amount": "1", "overage_factor": "100", "true_up": False}]


def test_a_discount_that_is_shared_overflows_with_the_account_and_whose_part_is_largest() -> None:
    """Alone each gets the whole discount, and what is left fits; d and e share it, and what is left of each does not."""
    most, more = "10700000000000", "10650000000000"
    used = [("d", "calls", most), ("b", "calls", more), ("a", "calls", "1"), ("c", "errors", "5")]
    found = overflow([CALLS], *used, account=SHARED, commitments=DEARER)
    assert (found.account_id, found.tenant_id, found.price_id) == ("payer", "d", "calls")
    assert found.tenants == ("b", "d")
    assert "only together, and it is no one of them alone" in found.message
    assert "tenants b, d of account payer" in found.message
    assert "the largest part is that of tenant d under price calls of pro version 1" in found.message
    assert "nothing was booked" in found.message


def test_many_who_overflow_together_are_as_few_as_do() -> None:
    """Two of them get half of the discount each, and fit; three do not."""
    tenants = "abcdefgh"
    used = [(tenant, "calls", "10400000000000") for tenant in tenants]
    found = overflow([CALLS], *used, tenants=tenants, account=SHARED, commitments=DEARER)
    assert (found.account_id, found.tenant_id, found.price_id) == ("payer", found.tenants[0], "calls")
    assert len(found.tenants) == 3


def test_a_total_over_lines_that_fit_names_the_largest_of_them() -> None:
    """After rating: of the account whose lines come to the most, the tenant and the price with the largest part."""
    catalog = {
        "meters": METERS,
        "plans": [{"name": "pro", "version": 1, "currency": "USD", "prices": [CALLS, {**CALLS, "id": "again"}]}],
        "accounts": [
            {"id": "one", "name": "One", "tenants": ["a"]},
            {"id": "two", "name": "Two", "tenants": ["b", "c"]},
        ],
        "subscriptions": [
            {"id": f"sub-{tenant}", "tenant": tenant, "plan": "pro", "version": 1, "from": "2026-01-01"}
            for tenant in "abc"
        ],
    }
    used = [("a", "calls", "400000000000000"), ("b", "calls", "200000000000000"), ("c", "calls", "300000000000000")]
    engine_lines(catalog, [event(row, *one) for row, one in enumerate(used)], "2026-01")
    with pytest.raises(AmountOverflow) as refused, overflow_named(engine()):
        engine().execute("SELECT sum(exact_amount)::DECIMAL(36, 21) FROM worth_line")
    found = refused.value
    assert (found.account_id, found.tenant_id, found.price_id) == ("two", "c", "again")
    assert "the largest part is that of tenant c under price again, for account two" in found.message
