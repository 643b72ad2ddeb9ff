"""Subscriptions over time: changes of plan and of units, trials, overrides, bases of shares, clock changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from rating.plans import Subscription
from rating.prices import FlatPrice
from rating.terms import Terms
from tests.rating.sales import Company, amounts

CALLS = {
    "id": "calls",
    "meter": "calls",
    "type": "graduated",
    "tiers": [{"up_to": "100", "unit_price": "1"}, {"unit_price": "0.5"}],
}
SEATS = {"id": "seats", "type": "flat", "amount": "30", "per_unit_of": "seats"}


def fee(amount: str, **keys: Any) -> dict[str, Any]:
    return {"id": "fee", "type": "flat", "amount": amount, **keys}


def plan(version: int, *prices: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": "pro", "version": version, "prices": list(prices), **keys}


def lines(company: Company, period: str, **settings: Any) -> list[tuple[str, str, str, str]]:
    """Return price, first day and end of the service, and amount of each line."""
    return [
        (line.price_id, f"{line.service_start:%m-%d}", f"{line.service_end:%m-%d}", str(line.amount))
        for invoice in company.invoice(period, **settings)
        for line in invoice.lines
    ]


def test_a_change_of_version_gives_back_the_unused_part_and_charges_the_new_one() -> None:
    """Section 5.5: 29 to 49 with 11 of 30 days left: -10.63 and +17.97 make +7.34."""
    company = Company([fee("29")], more_plans=[plan(2, fee("49"))])
    assert amounts(company.invoice("2026-04", now="2026-04-01")) == {"fee": "29.00"}
    company.subscription = {"changes": [{"from": "2026-04-20", "version": 2}]}
    assert lines(company, "2026-04", now="2026-04-20") == [
        ("fee", "04-01", "04-20", "-10.63"),
        ("fee", "04-20", "05-01", "17.97"),
    ]
    assert company.invoice("2026-04") == []
    assert lines(company, "2026-05") == [("fee", "05-01", "06-01", "49.00")]


def test_each_plan_version_rates_its_own_usage_with_its_own_tiers() -> None:
    cheaper = {**CALLS, "tiers": [{"up_to": "50", "unit_price": "0.8"}, {"unit_price": "0.1"}]}
    changes = [{"from": "2026-04-16T12:00:00Z", "version": 2}]
    company = Company([CALLS], more_plans=[plan(2, cheaper)], subscription={"changes": changes})
    company.use("2026-04-16T11:59:59", "120")
    company.use("2026-04-16T12:00", "60")
    assert lines(company, "2026-04") == [("calls", "04-01", "04-16", "110.00"), ("calls", "04-16", "05-01", "41.00")]


def test_a_change_may_wait_for_the_end_of_the_period() -> None:
    change = {"from": "2026-04-10", "version": 2, "takes_effect": "period_end"}
    company = Company([fee("29")], more_plans=[plan(2, fee("49"))], subscription={"changes": [change]})
    assert lines(company, "2026-04") == [("fee", "04-01", "05-01", "29.00")]
    assert lines(company, "2026-05") == [("fee", "05-01", "06-01", "49.00")]


def test_what_is_said_later_takes_the_place_of_what_still_waits() -> None:
    """A smaller plan at the end of April, and then a larger one from the 16th on: the larger one holds from the 16th on."""
    smaller = {"from": "2026-04-10", "version": 2, "takes_effect": "period_end"}
    larger: dict[str, Any] = {"from": "2026-04-16", "version": 3}
    company = Company([fee("30")], more_plans=[plan(2, fee("12")), plan(3, fee("60"))])
    company.subscription = {"changes": [smaller, larger]}
    assert lines(company, "2026-04") == [("fee", "04-01", "04-16", "15.00"), ("fee", "04-16", "05-01", "30.00")]
    assert lines(company, "2026-05") == [("fee", "05-01", "06-01", "60.00")]


def test_a_second_change_that_waits_waits_for_the_period_that_is_running() -> None:
    """It had waited for the end of the year of the plan that never began."""
    yearly = plan(2, fee("300"), billing_period={"every": "year"})
    changes = [
        {"from": "2026-04-10", "version": 2, "takes_effect": "period_end"},
        {"from": "2026-04-16", "version": 3, "takes_effect": "period_end"},
    ]
    company = Company([fee("30")], more_plans=[yearly, plan(3, fee("60"))], subscription={"changes": changes})
    assert lines(company, "2026-04") == [("fee", "04-01", "05-01", "30.00")]
    assert lines(company, "2026-05") == [("fee", "05-01", "06-01", "60.00")]


def test_a_change_beyond_the_end_of_the_subscription_hides_none_before_it() -> None:
    changes = [
        {"from": "2026-04-10", "version": 2, "takes_effect": "period_end"},
        {"from": "2026-04-16", "version": 3},
    ]
    company = Company([fee("30")], more_plans=[plan(2, fee("12")), plan(3, fee("60"))])
    company.subscription = {"changes": changes, "to": "2026-04-26"}
    assert lines(company, "2026-04") == [("fee", "04-01", "04-16", "15.00"), ("fee", "04-16", "04-26", "20.00")]


def test_minimums_take_their_share_in_each_phase() -> None:
    least = {"minimums": [{"id": "least", "amount": "100"}]}
    twice = {"minimums": [{"id": "least", "amount": "200"}]}
    company = Company([CALLS], around=least, more_plans=[plan(2, CALLS, **twice)])
    company.subscription = {"changes": [{"from": "2026-04-16", "version": 2}]}
    company.use("2026-04-20", "30")
    assert lines(company, "2026-04") == [
        ("least", "04-01", "04-16", "50.00"),
        ("calls", "04-16", "05-01", "30.00"),
        ("least", "04-16", "05-01", "70.00"),
    ]


def test_another_plan_in_another_currency_is_another_invoice() -> None:
    euros = {"name": "eu", "version": 1, "currency": "EUR", "prices": [fee("60")]}
    changes = [{"from": "2026-04-16", "plan": "eu", "version": 1}]
    company = Company([fee("30")], more_plans=[euros], subscription={"changes": changes})
    assert {one.currency: str(one.total) for one in company.invoice("2026-04")} == {"USD": "15.00", "EUR": "30.00"}


def test_a_phase_over_a_clock_change_is_measured_in_instants() -> None:
    """Paris, March 2026: 31 days and an hour less; the pieces make the whole."""
    company = Company(
        [fee("100")],
        billing_period={"timezone": "Europe/Paris"},
        more_plans=[plan(2, fee("100"))],
        subscription={"changes": [{"from": "2026-03-15", "version": 2}]},
    )
    assert [line[3] for line in lines(company, "2026-03")] == ["45.22", "54.78"]


def test_a_change_of_units_is_prorated_and_restarts_no_tier() -> None:
    company = Company([SEATS, CALLS], subscription={"quantities": {"seats": "5"}})
    assert amounts(company.invoice("2026-04", now="2026-04-01")) == {"seats": "150.00"}
    company.subscription["changes"] = [{"from": "2026-04-20", "quantities": {"seats": "8"}}]
    company.use("2026-04-10", "90")
    company.use("2026-04-25", "30")
    # 11 of 30 days of three seats more; 120 calls are 100 + 10.
    [invoice] = company.invoice("2026-04")
    assert amounts([invoice]) == {"seats": "33.00", "calls": "110.00"}
    seats = next(line for line in invoice.lines if line.price_id == "seats")
    assert (seats.cumulative_quantity, seats.cumulative_amount) == (8, Decimal("183.00"))


def test_a_part_that_has_not_begun_is_not_due() -> None:
    company = Company(
        [SEATS],
        subscription={"quantities": {"seats": "5"}, "changes": [{"from": "2026-04-20", "quantities": {"seats": 8}}]},
    )
    assert amounts(company.invoice("2026-04", now="2026-04-01")) == {"seats": "95.00"}
    assert amounts(company.invoice("2026-04", now="2026-04-20")) == {"seats": "88.00"}


@pytest.mark.parametrize(
    ("keys", "april", "may"),
    [
        ({}, "90.00", "60.00"),
        ({"when_fewer": "period_end"}, "120.00", "60.00"),
        ({"when_more": "period_end", "when_fewer": "period_end"}, "120.00", "60.00"),
        ({"prorate": False}, "120.00", "60.00"),
    ],
)
def test_when_fewer_units_count_is_declared(keys: dict[str, Any], april: str, may: str) -> None:
    fewer = [{"from": "2026-04-16", "quantities": {"seats": "2"}}]
    company = Company([{**SEATS, **keys}], subscription={"quantities": {"seats": "4"}, "changes": fewer})
    assert amounts(company.invoice("2026-04")) == {"seats": april}
    assert amounts(company.invoice("2026-05")) == {"seats": may}


def test_units_that_nobody_holds_make_no_line() -> None:
    assert Company([SEATS]).invoice("2026-04") == []


def test_days_of_a_trial_are_free() -> None:
    """Section 5.6: 45.00, 10 of 30 days free: 30.00."""
    company = Company([fee("45", trial_days=10), CALLS], subscription={"from": "2026-04-01"})
    company.use("2026-04-02", "3")
    assert amounts(company.invoice("2026-04")) == {"fee": "30.00", "calls": "3.00"}
    assert amounts(company.invoice("2026-05")) == {"fee": "45.00"}


def test_a_trial_may_reach_into_the_next_period() -> None:
    company = Company([fee("31", trial_days=20)], subscription={"from": "2026-04-16"})
    assert amounts(company.invoice("2026-04")) == {"fee": "0.00"}
    assert amounts(company.invoice("2026-05")) == {"fee": "26.00"}


@pytest.mark.parametrize(
    ("basis", "amount"),
    [("instants", "54.78"), ("local_days", "54.84"), ("days_inclusive", "54.84"), ("thirty_day_month", "53.33")],
)
def test_the_basis_of_a_flat_amount(basis: str, amount: str) -> None:
    """Section 5.3: 100 from 15 March, Paris 2026."""
    company = Company(
        [fee("100")],
        billing_period={"timezone": "Europe/Paris", "proration": basis},
        subscription={"from": "2026-03-15"},
    )
    assert amounts(company.invoice("2026-03")) == {"fee": amount}


def test_a_coupon_is_given_once_over_two_phases() -> None:
    coupon = {"id": "off", "amount": "10"}
    company = Company([fee("30")], more_plans=[plan(2, fee("60"))])
    company.subscription = {"changes": [{"from": "2026-04-16", "version": 2}], "discounts": [coupon]}
    # 15 and 30 bear 3.33 and 6.67 of it.
    assert [line[3] for line in lines(company, "2026-04")] == ["11.67", "23.33"]


def test_overrides_are_other_terms_for_one_subscription() -> None:
    company = Company([CALLS, fee("30")], subscription={"overrides": {"fee": {"amount": "20"}}})
    company.use("2026-04-02", "3")
    assert amounts(company.invoice("2026-04")) == {"calls": "3.00", "fee": "20.00"}
    [line] = [line for invoice in company.invoice("2026-05") for line in invoice.lines]
    assert (line.plan, line.plan_version, str(line.amount)) == ("pro", 1, "20.00")


def test_overrides_hold_for_their_subscription_only() -> None:
    company = Company([fee("30")])
    other = Subscription.model_validate(
        {
            "id": "z",
            "tenant": "acme",
            "plan": "pro",
            "version": 1,
            "from": "2026-01-01",
            "overrides": {"fee": {"amount": "1"}},
        }
    )
    terms = company.terms
    both = Terms.of(terms.meters.values(), terms.plans.values(), terms.accounts.values(), [*terms.subscriptions, other])
    from metering.periods import parse_period
    from rating.terms import billing_spans

    found = {}
    for span in billing_spans(both, parse_period("2026-04")):
        [price] = both.plans[span.plan_key].prices
        assert isinstance(price, FlatPrice)
        found[span.subscription_id] = price.amount
    assert found == {"sub": 30, "z": 1}
    assert list(both.plans) == ["pro/1"]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"changes": [{"from": "2026-02-01"}]}, "nothing changes; write version, plan and version, or quantities"),
        ({"changes": [{"from": "2026-02-01", "plan": "pro"}]}, "write the version of plan 'pro' too"),
        ({"changes": [{"from": "2026-01-01", "version": 2}]}, "write changes in the order of time, after from"),
        (
            {"changes": [{"from": "2026-03-01", "version": 2}, {"from": "2026-02-01", "version": 3}]},
            "2026-02-01 is not after 2026-03-01, which stands before it",
        ),
        (
            {"changes": [{"from": "2026-03-01", "quantities": {"seats": 2}, "takes_effect": "period_end"}]},
            "units wait where their price says when_fewer: period_end",
        ),
        ({"quantities": {"seats": "-1"}}, "is below 0"),
        ({"overrides": {"fee": {"id": "other"}}}, "its id stays"),
    ],
)
def test_what_a_subscription_says_wrongly_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Subscription.model_validate({"id": "s", "tenant": "t", "plan": "p", "version": 1, "from": "2026-01-01", **keys})
    assert why in str(refused.value)
