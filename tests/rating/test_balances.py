"""What prepaid balances pay, against a second, slower burning, and the numbers of the price models, section 4.6."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rating.balances import Balance, Burn, Burned, balance_states, burn, key_of, remaining
from rating.invoice import InvoiceLine

START = datetime(2026, 10, 1, tzinfo=UTC)
END = datetime(2026, 11, 1, tzinfo=UTC)


def line(number: int, amount: object, price_id: str = "calls", currency: str = "USD", **changes: Any) -> InvoiceLine:
    values: dict[str, Any] = {
        "line_id": f"line-{number}", "position": number, "kind": "usage", "tenant_id": "acme", "subscription_id": "sub",
        "plan": "pro", "plan_version": 1, "price_id": price_id, "price_type": "unit", "meter": "calls", "unit": "call",
        "group_key": "", "description": price_id, "currency": currency, "period_start": START, "period_end": END,
        "service_start": START, "service_end": END, "quantity": Decimal(1), "exact_amount": Decimal(str(amount)),
        "amount": Decimal(str(amount)), "cumulative_quantity": Decimal(1), "cumulative_exact_amount": Decimal(1),
        "cumulative_amount": Decimal(1), "charges": (),
    }  # fmt: skip
    return InvoiceLine(**values | changes)


def balance(name: str, amount: object, **terms: Any) -> Balance:
    said = {"id": name, "account": "acme", "currency": "USD", "amount": str(amount), "effective": "2026-01-01"}
    return Balance.model_validate(said | terms)


def taken(burns: list[Burn]) -> list[tuple[str, str, str]]:
    return [(one.line_id, one.balance_id, str(one.amount)) for one in burns]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"priority": "1", "expires": "2027-07-01"}, {"priority": "2", "expires": "2027-06-01"}),
        ({"expires": "2027-06-01"}, {"expires": "2027-07-01"}),
        ({"expires": "2027-06-01"}, {}),
        ({"effective": "2025-01-01"}, {"effective": "2025-06-01"}),
        ({}, {}),
    ],
    ids=["priority before expiry", "sooner expiry", "no expiry is last", "older", "id"],
)
def test_burn_order(first: dict[str, str], second: dict[str, str]) -> None:
    balances = [balance("b", 10, **second), balance("a", 10, **first)]
    assert taken(burn([line(1, 15)], balances, [])) == [("line-1", "a", "10"), ("line-1", "b", "5")]


def test_a_balance_pays_only_its_currency_its_prices_and_its_time() -> None:
    balances = [
        balance("euros", 10, currency="EUR"),
        balance("seats", 10, prices=["seats"]),
        balance("over", 10, expires="2026-10-01"),
        balance("later", 10, effective="2026-11-01"),
        balance("last instant", 10, effective="2026-10-31T23:59:59Z"),
    ]
    assert taken(burn([line(1, 99)], balances, [])) == [("line-1", "last instant", "10")]


def test_minimum_then_balance() -> None:
    """Usage 150, minimum 200, balance 175: 25 to pay; the true-up is paid like any line."""
    burns = burn([line(1, 150), line(2, 50, "commitment")], [balance("b", 175)], [])
    assert taken(burns) == [("line-1", "b", "150"), ("line-2", "b", "25")]


def test_a_credit_gives_back_to_what_paid_it_the_last_burned_first() -> None:
    paid = line(1, 15)
    before = [Burned(key_of(paid), "a", Decimal(10)), Burned(key_of(paid), "b", Decimal(5))]
    balances = [balance("a", 10), balance("b", 10)]
    assert taken(burn([line(2, -8)], balances, before)) == [("line-2", "b", "-5"), ("line-2", "a", "-3")]
    # What was given back pays the other lines of the same invoice; what no balance paid is not given to any.
    assert taken(burn([line(2, -2), line(3, 100, "seats")], balances, before)) == [
        ("line-2", "b", "-2"), ("line-3", "b", "7"),
    ]  # fmt: skip
    assert burn([line(2, -8, "seats")], balances, before) == []


def test_revenue_recognized_and_what_expires() -> None:
    key = key_of(line(1, 1))
    held = balance("b", 8000, paid="6000", expires="2027-01-01")
    [state] = balance_states([held], {"acme": [Burned(key, "b", Decimal(120))]}, datetime(2026, 12, 1, tzinfo=UTC))
    assert (str(state.burned), str(state.left), str(state.recognized)) == ("120.00", "7880.00", "90.00")
    [state] = balance_states([held], {"acme": [Burned(key, "b", Decimal(120))]}, datetime(2027, 1, 1, tzinfo=UTC))
    assert (str(state.expired), str(state.left)) == ("7880.00", "0.00")


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        ({"amount": "10.005"}, "more than 2 decimals"),
        ({"amount": "0"}, "amount"),
        ({"amount": "10", "currency": "JPY", "paid": "0.5"}, "more than 0 decimals"),
        ({"amount": "10", "expires": "2025-01-01"}, "expires before it is effective"),
        ({"amount": "10", "priority": "-1"}, "from 0 to 1000"),
    ],
)
def test_a_balance_that_could_not_be_spent_is_refused(terms: dict[str, str], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        balance("b", terms.pop("amount", "1"), **terms)


cents = st.integers(1, 500).map(lambda number: Decimal(number) / 100)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[InvoiceLine]], list[Balance]]:
    balances = [
        balance(
            f"b{number}",
            draw(cents),
            priority=str(draw(st.integers(0, 2))),
            prices=draw(st.sampled_from([[], ["calls"], ["seats"]])),
            **draw(st.sampled_from([{}, {"expires": "2026-10-15"}, {"expires": "2026-10-01"}])),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    number, invoices = 0, []
    for _ in range(draw(st.integers(1, 4))):
        lines = []
        for price_id in draw(st.lists(st.sampled_from(["calls", "seats"]), max_size=3, unique=True)):
            number += 1
            lines.append(line(number, draw(st.sampled_from([1, -1])) * draw(cents), price_id))
        invoices.append(lines)
    return invoices, balances


def slowly(lines: list[InvoiceLine], balances: list[Balance], before: list[Burned]) -> dict[tuple[str, str], Decimal]:
    """Move money one cent at a time."""
    cent, left, made = Decimal("0.01"), remaining(balances, before), {}
    stacks = {one.price_id: [(b.balance_id, b.amount) for b in before if b.line_key == key_of(one)] for one in lines}
    for one in lines:
        net: dict[str, Decimal] = {}
        order: list[str] = []
        for balance_id, amount in stacks[one.price_id]:
            net[balance_id] = net.get(balance_id, Decimal(0)) + amount
            if amount > 0:
                order = [*(name for name in order if name != balance_id), balance_id]
        owed = -one.amount
        while owed > 0 and (name := next((name for name in reversed(order) if net[name] > 0), None)):
            owed, net[name], left[name] = owed - cent, net[name] - cent, left[name] + cent
            made[one.line_id, name] = made.get((one.line_id, name), Decimal(0)) - cent
    for one in lines:
        owed = one.amount
        while owed > 0:
            able = [b for b in balances if left[b.id] > 0 and (not b.prices or one.price_id in b.prices)]
            able = [b for b in able if b.ends_at > START and b.starts_at < END]
            if not able:
                break
            name = min(able, key=lambda b: (b.priority, b.ends_at, b.starts_at, b.id)).id
            owed, left[name] = owed - cent, left[name] - cent
            made[one.line_id, name] = made.get((one.line_id, name), Decimal(0)) + cent
    return made


@given(histories())
def test_burning_is_as_slow_burning_says_and_nothing_is_lost(
    history: tuple[list[list[InvoiceLine]], list[Balance]],
) -> None:
    invoices, balances = history
    before: list[Burned] = []
    for lines in invoices:
        burns = burn(lines, balances, before)
        assert {(one.line_id, one.balance_id): one.amount for one in burns} == slowly(lines, balances, before)
        by_id = {one.line_id: one for one in lines}
        before += [Burned(key_of(by_id[one.line_id]), one.balance_id, one.amount) for one in burns]
        for one in balances:
            assert 0 <= remaining([one], before)[one.id] <= one.amount
    for state in balance_states(balances, {"acme": before}, START + timedelta(days=20)):
        assert state.granted == state.burned + state.expired + state.left
