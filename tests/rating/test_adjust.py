"""What stands around the prices: discounts, commitments, maximums and minimums, in the numbers of the price rules."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from rating.adjust import Discount
from rating.plans import Account, Plan
from tests.rating.sales import Company, amounts

TEN = {"id": "calls", "meter": "calls", "type": "unit", "unit_price": "10"}
HALF = {"id": "half", "percent": "50"}


def company(*prices: dict[str, Any], **settings: Any) -> Company:
    return Company(list(prices or (TEN,)), **settings)


def flat(price_id: str, amount: str, **keys: Any) -> dict[str, Any]:
    return {"id": price_id, "type": "flat", "amount": amount, "when": "in_arrears", **keys}


def billed(*prices: dict[str, Any], **settings: Any) -> dict[str, str]:
    """Return the amounts of January for flat prices."""
    return amounts(company(*prices, **settings).invoice("2026-01"))


@pytest.mark.parametrize(
    ("around", "net"),
    [
        # Percent before fixed, whatever their ids: 100, 10 % and 20 off are 70, not 72.
        ({"discounts": [{"id": "a", "amount": "20"}, {"id": "b", "percent": "10"}]}, "70.00"),
        # Several percent multiply: 10 % and 25 % on 100 leave 67.50.
        ({"discounts": [{"id": "a", "percent": "10"}, {"id": "b", "percent": "25"}]}, "67.50"),
        # The cap holds on the net: 100, half off, at most 60.
        ({"discounts": [HALF], "maximums": [{"id": "cap", "amount": "60"}]}, "50.00"),
        ({"discounts": [HALF], "maximums": [{"id": "cap", "amount": "30"}]}, "30.00"),
        ({"discounts": [{"id": "a", "amount": "120"}]}, "0.00"),
        ({"maximums": [{"id": "cap", "amount": "100"}]}, "100.00"),
        # 50 promised, beyond it half as much again: 50 + 1.5 x 50.
        ({"commitments": [{"id": "c", "amount": "50", "overage_factor": "1.5"}]}, "125.00"),
        # The cap comes after the factor.
        (
            {
                "commitments": [{"id": "c", "amount": "50", "overage_factor": "1.5"}],
                "maximums": [{"id": "cap", "amount": "110"}],
            },
            "110.00",
        ),
    ],
)
def test_the_order_of_the_steps(around: dict[str, Any], net: str) -> None:
    assert billed(flat("fee", "100"), around=around).get("fee", "0.00") == net


def test_a_percent_discount_comes_before_the_minimum() -> None:
    around = {"discounts": [{"id": "ten", "percent": "10"}], "minimums": [{"id": "least", "amount": "50"}]}
    assert billed(flat("fee", "20"), around=around) == {"fee": "18.00", "least": "32.00"}


def test_a_discounted_line_is_rounded_once() -> None:
    # 0.5025, not half of 1.01.
    assert billed(flat("fee", "1.005"), around={"discounts": [HALF]}) == {"fee": "0.50"}


def test_the_cap_holds_on_the_net_over_cuts() -> None:
    """Case 4: unit 10, 50 % off, cap 100; 15 and then 10 units are 75 and 25, never 75 and 0."""
    ours = company(around={"discounts": [HALF], "maximums": [{"id": "cap", "amount": "100"}]})
    ours.use("2026-01-02", "15")
    assert amounts(ours.invoice("2026-01", now="2026-01-10")) == {"calls": "75.00"}
    ours.use("2026-01-12", "10")
    assert amounts(ours.invoice("2026-01")) == {"calls": "25.00"}


def test_the_minimum_holds_on_the_net_and_only_at_the_end() -> None:
    """Case 5: unit 10, 50 % off, minimum 100; 15 units, then none: a true-up of 25."""
    ours = company(around={"discounts": [HALF], "minimums": [{"id": "least", "amount": "100"}]})
    ours.use("2026-01-02", "15")
    assert amounts(ours.invoice("2026-01", now="2026-01-31T23:59:59")) == {"calls": "75.00"}
    [invoice] = ours.invoice("2026-01")
    [line] = invoice.lines
    assert (line.price_id, line.kind, line.price_type, str(line.amount)) == ("least", "minimum", "minimum", "25.00")
    assert [(one.part, one.quantity, one.unit_price) for one in line.charges] == [("minimum", 1, Decimal(25))]


def test_zero_usage_owes_all_of_the_minimum() -> None:
    assert amounts(company(around={"minimums": [{"id": "least", "amount": "100"}]}).invoice("2026-01")) == {
        "least": "100.00"
    }


def test_a_minimum_over_groups_without_a_single_line_is_owed() -> None:
    grouped = {**TEN, "by": ["region"]}
    assert amounts(company(grouped, around={"minimums": [{"id": "least", "amount": "5"}]}).invoice("2026-01")) == {
        "least": "5.00"
    }


def test_late_usage_gives_the_true_up_back() -> None:
    ours = company(around={"minimums": [{"id": "least", "amount": "100"}]})
    ours.use("2026-01-02", "4")
    assert amounts(ours.invoice("2026-01")) == {"calls": "40.00", "least": "60.00"}
    ours.use("2026-01-03", "3")
    [late] = ours.invoice("2026-02")
    january = {line.price_id: str(line.amount) for line in late.lines if line.kind == "correction"}
    assert january == {"calls": "30.00", "least": "-30.00"}


def test_a_cap_over_a_volume_price_is_taken_back_with_its_line() -> None:
    """Case 9: volume 20@6, open@4, cap 90; 20 then 21 units: 90, then -6."""
    volume = {
        "id": "v",
        "meter": "calls",
        "type": "volume",
        "tiers": [{"up_to": "20", "unit_price": "6"}, {"unit_price": "4"}],
    }
    ours = company(volume, around={"maximums": [{"id": "cap", "amount": "90"}]})
    ours.use("2026-01-02", "20")
    assert amounts(ours.invoice("2026-01")) == {"v": "90.00"}
    ours.use("2026-01-03", "1")
    [late] = ours.invoice("2026-02")
    [line] = late.lines
    assert str(line.amount) == "-6.00"
    assert {(one.tier, one.part): one.exact_amount for one in line.charges} == {
        (1, "unit"): Decimal(-120),
        (0, "maximum:cap"): Decimal(30),
        (2, "unit"): Decimal(84),
    }


def test_a_late_unit_under_a_reached_cap_costs_nothing() -> None:
    """Case 10: unit 8, cap 40: 16, then 24; a late unit is worth nothing, and both sides of that are kept."""
    eight = {**TEN, "unit_price": "8"}
    ours = company(eight, around={"maximums": [{"id": "cap", "amount": "40"}]})
    ours.use("2026-01-02", "2")
    assert amounts(ours.invoice("2026-01", now="2026-01-10")) == {"calls": "16.00"}
    ours.use("2026-01-12", "4")
    assert amounts(ours.invoice("2026-01")) == {"calls": "24.00"}
    ours.use("2026-01-03", "1")
    [late] = ours.invoice("2026-02")
    [line] = late.lines
    assert str(line.amount) == "0.00"
    assert {one.part: one.exact_amount for one in line.charges} == {"unit": Decimal(8), "maximum:cap": Decimal(-8)}


def test_the_line_that_crosses_the_cap_bears_the_excess_and_later_ones_all_they_are() -> None:
    fees = [flat("a", "30"), flat("b", "30"), flat("c", "30")]
    assert billed(*fees, around={"maximums": [{"id": "cap", "amount": "50"}]}) == {
        "a": "30.00",
        "b": "20.00",
        "c": "0.00",
    }


def test_a_negative_line_makes_room_under_the_cap() -> None:
    """It stays what it is, and the lines above 0 are lowered by so much less."""
    fees = [flat("a", "150"), flat("b", "-20")]
    assert billed(*fees, around={"maximums": [{"id": "cap", "amount": "100"}]}) == {"a": "120.00", "b": "-20.00"}
    fees = [flat("a", "150"), flat("b", "-80")]
    assert billed(*fees, around={"maximums": [{"id": "cap", "amount": "100"}]}) == {"a": "150.00", "b": "-80.00"}


def test_rounding_alone_does_not_lift_the_paper_above_a_maximum() -> None:
    """50.005 and 49.995 are 100, and 50.01 + 50.00 on paper: the last line bears what is above."""
    ours = company(flat("a", "50.005"), flat("b", "49.995"), around={"maximums": [{"id": "cap", "amount": "100"}]})
    [invoice] = ours.invoice("2026-01")
    assert amounts([invoice]) == {"a": "50.01", "b": "49.99"}
    assert invoice.total == Decimal("100.00")
    assert [{one.part: one.exact_amount for one in line.charges} for line in invoice.lines] == [
        {"flat": Decimal("50.005")},
        {"flat": Decimal("49.995"), "maximum:cap": Decimal("-0.005")},
    ]
    assert invoice.lines[1].exact_amount == Decimal("49.99")


@pytest.mark.parametrize(
    ("currency", "each", "count", "cap", "total"),
    [
        # A thousand half cents, rounded up each: 10.00 on paper, 5.00 exactly.
        ("USD", "0.005", 1000, "5", "5.00"),
        ("JPY", "0.5", 40, "20", "20"),
        ("KWD", "0.0005", 40, "0.02", "0.020"),
        # Rounded down each, the lines come to 1.00: a maximum of 1 takes nothing more, though they are 1.40 exactly.
        ("USD", "0.014", 100, "1", "1.00"),
        # A maximum that is no whole number of cents is rounded as the lines are.
        ("USD", "0.335", 3, "1.004", "1.00"),
        ("USD", "0.335", 3, "1.005", "1.01"),
        ("USD", "0.005", 10, "0", "0.00"),
    ],
)
def test_the_paper_adds_up_to_no_more_than_the_maximum(
    currency: str, each: str, count: int, cap: str, total: str
) -> None:
    fees = [flat(f"f{number:04}", each) for number in range(count)]
    ours = company(*fees, currency=currency, around={"maximums": [{"id": "cap", "amount": cap}]})
    [invoice] = ours.invoice("2026-01")
    assert str(invoice.total) == total


def test_maximums_that_overlap_hold_together_whatever_is_negative() -> None:
    """A credit counts in both. `two` takes 60 off `a`; were the credit raised instead, `one` would be at 90, above its 10."""
    fees = [flat("d", "90"), flat("a", "150"), flat("b", "-80")]
    maximums = [{"id": "one", "amount": "10", "prices": ["d", "b"]}, {"id": "two", "amount": "100"}]
    assert billed(*fees, around={"maximums": maximums}) == {"d": "90.00", "a": "90.00", "b": "-80.00"}
    # Neither holds the other: a and b are 10.00 after the first, and the second sees b as it is then.
    fees = [flat("a", "5.005"), flat("b", "5.005"), flat("c", "5.005")]
    maximums = [{"id": "ab", "amount": "10", "prices": ["a", "b"]}, {"id": "bc", "amount": "9.5", "prices": ["b", "c"]}]
    assert billed(*fees, around={"maximums": maximums}) == {"a": "5.01", "b": "4.99", "c": "4.51"}


def test_a_prorated_maximum_holds_on_paper() -> None:
    """From 16 April 10.01 is 5.005, which is 5.01; of two lines of 2.504 and one of 0.008 none is above it, of three are."""
    fees = [flat(name, "2.504", prorate=False) for name in "ab"] + [flat("c", "0.008", prorate=False)]
    caps = {"maximums": [{"id": "cap", "amount": "10.01", "prorate": True}]}
    assert billed_from("2026-04-16", *fees, around=caps) == {"a": "2.50", "b": "2.50", "c": "0.01"}
    fees.append(flat("d", "0.005", prorate=False))
    assert billed_from("2026-04-16", *fees, around=caps) == {"a": "2.50", "b": "2.50", "c": "0.01", "d": "0.00"}


def billed_from(start: str, *prices: dict[str, Any], **settings: Any) -> dict[str, str]:
    return amounts(company(*prices, subscription={"from": start}, **settings).invoice(start[:7]))


def test_a_maximum_that_binds_by_rounding_is_booked_in_pieces() -> None:
    """Groups of half cents come one after the other; the pieces add up to the whole, and never to more than the maximum."""
    half = {**TEN, "unit_price": "0.005", "by": ["region"]}
    ours = company(half, around={"maximums": [{"id": "cap", "amount": "0.02"}]})
    booked = []
    for day, region in (("02", "d"), ("04", "c"), ("06", "b"), ("08", "a")):
        ours.use(f"2026-01-{day}", "1", region=region)
        booked += [invoice.total for invoice in ours.invoice("2026-01", now=f"2026-01-{int(day) + 1:02}")]
    booked += [invoice.total for invoice in ours.invoice("2026-01")]
    assert (booked[:2], sum(booked)) == ([Decimal("0.01")] * 2, Decimal("0.02"))


def test_a_true_up_counts_the_lines_as_a_maximum_leaves_them() -> None:
    """50.005 and 49.995 are capped to 100.00, which the minimum of 100 is met by; of 101 one is missing."""
    fees = [flat("a", "50.005"), flat("b", "49.995"), flat("c", "0")]
    cap = {"id": "cap", "amount": "100", "prices": ["a", "b"]}
    for least, owed in (("100", {}), ("101", {"least": "1.00"})):
        around = {"maximums": [cap], "minimums": [{"id": "least", "amount": least}]}
        found = billed(*fees, around=around)
        assert {name: found[name] for name in ("a", "b")} == {"a": "50.01", "b": "49.99"}
        assert {name: amount for name, amount in found.items() if name == "least"} == owed


def test_a_percentage_of_prices_is_of_them_before_a_maximum_and_below_it_with_them() -> None:
    fees = [flat("a", "50.005"), {"id": "fee", "type": "percent_of", "percent": "10", "prices": ["a"]}]
    assert billed(*fees, around={"maximums": [{"id": "cap", "amount": "50"}]}) == {"a": "50.00", "fee": "0.00"}
    caps = [{"id": "cap", "amount": "55.005"}]
    # 5.0005 is 5.00; 55.01 in all, and 55.005 is 55.01.
    assert billed(*fees, around={"maximums": caps}) == {"a": "50.01", "fee": "5.00"}


def test_where_every_component_is_rounded_a_maximum_is_a_component_too() -> None:
    """30 and 30 under 50.005: the excess of 9.995 is 10.00, as it always was under this switch."""
    around = {"switches": {"round_at": "component"}, "maximums": [{"id": "cap", "amount": "50.005"}]}
    assert billed(flat("a", "30"), flat("b", "30"), around=around) == {"a": "30.00", "b": "20.00"}
    around = {"switches": {"round_at": "unit_price"}, "maximums": [{"id": "cap", "amount": "50.005"}]}
    assert billed(flat("a", "30"), flat("b", "30"), around=around) == {"a": "30.00", "b": "20.01"}


def test_scopes_of_maximums_and_minimums() -> None:
    fees = [flat("a", "30"), flat("b", "30"), flat("c", "5")]
    around = {
        "maximums": [
            {"id": "two", "amount": "40", "prices": ["a", "b"]},
            {"id": "one", "amount": "25", "prices": ["a"]},
        ],
        "minimums": [{"id": "all", "amount": "60"}, {"id": "of_c", "amount": "10", "prices": ["c"]}],
    }
    # a is capped to 25, b to 15; c lacks 5 of 10; all of them are 50 then and lack 10.
    assert billed(*fees, around=around) == {"a": "25.00", "b": "15.00", "c": "5.00", "of_c": "5.00", "all": "10.00"}


def test_a_true_up_makes_the_paper_add_up() -> None:
    """Section 4.1: minimum 100 from 16 April is 50; rounded lines of 12.34 and 8.10 leave 29.56."""
    fees = [flat("a", "12.335", prorate=False), flat("b", "8.104", prorate=False)]
    ours = company(*fees, around={"minimums": [{"id": "least", "amount": "100"}]}, subscription={"from": "2026-04-16"})
    assert amounts(ours.invoice("2026-04")) == {"a": "12.34", "b": "8.10", "least": "29.56"}


@pytest.mark.parametrize(
    ("basis", "amount"),
    [("instants", "54.78"), ("local_days", "54.84"), ("days_inclusive", "54.84"), ("thirty_day_month", "53.33")],
)
def test_the_basis_of_a_share_is_declared(basis: str, amount: str) -> None:
    """Section 5.3: a minimum of 100 from 15 March, Paris 2026, whose month has an hour less."""
    ours = company(
        around={"minimums": [{"id": "least", "amount": "100"}]},
        billing_period={"timezone": "Europe/Paris", "proration": basis},
        subscription={"from": "2026-03-15"},
    )
    assert amounts(ours.invoice("2026-03")) == {"least": amount}


def test_a_commitment_with_a_factor() -> None:
    """Section 4.2: 50 promised, factor 1.5: 80 are 95; 30 are 50 with true-up, 30 without."""
    for fee, true_up, total in (("80", True, 95), ("30", True, 50), ("30", False, 30)):
        around = {"commitments": [{"id": "c", "amount": "50", "overage_factor": "1.5", "true_up": true_up}]}
        assert sum(map(Decimal, billed(flat("fee", fee), around=around).values())) == total


@pytest.mark.parametrize(
    ("share", "lines"),
    [("in_order", {"a": "100.00", "b": "180.00"}), ("pro_rata", {"a": "112.00", "b": "168.00"})],
)
def test_the_plan_says_which_lines_a_commitment_is_used_up_by(share: str, lines: dict[str, str]) -> None:
    """Section 4.2: 100 left of it, lines of 100 and 150, factor 1.2: 100 and 0 are within, or 40 and 60; both are 280."""
    promised = {"id": "c", "amount": "100", "overage_factor": "1.2", "share": share}
    assert billed(flat("a", "100"), flat("b", "150"), around={"commitments": [promised]}) == lines


def test_what_is_beyond_a_commitment_is_shared_out_to_the_last_cent() -> None:
    """50 beyond 100 at 1.2 add 10; 10.005 as well, of which one line has the part of a cent."""
    promised = {"id": "c", "amount": "100", "overage_factor": "1.2", "share": "pro_rata"}
    fees = [flat("a", "50"), flat("b", "50"), flat("c1", "50")]
    assert billed(*fees, around={"commitments": [promised]}) == {"a": "53.34", "b": "53.33", "c1": "53.33"}
    [invoice] = company(*fees, around={"commitments": [{**promised, "amount": "99.975"}]}).invoice("2026-01")
    parts = [one.exact_amount for line in invoice.lines for one in line.charges if one.part == "overage:c"]
    assert parts == [Decimal("3.34"), Decimal("3.335"), Decimal("3.33")]


def test_what_pays_back_bears_nothing_of_what_is_beyond_a_commitment() -> None:
    """150, 60 and -60 are 50 beyond 100, which add 50: in the ratio of 150 to 60, and 0.01 to the larger remainder."""
    promised = {"id": "c", "amount": "100", "overage_factor": "2", "share": "pro_rata"}
    fees = [flat("a", "150"), flat("b", "60"), flat("back", "-60")]
    assert billed(*fees, around={"commitments": [promised]}) == {"a": "185.71", "b": "74.29", "back": "-60.00"}


def test_a_fixed_discount_is_shared_out_to_the_last_cent() -> None:
    fees = [flat("a", "10"), flat("b", "10"), flat("c", "10")]
    around = {"discounts": [{"id": "off", "amount": "10"}]}
    assert billed(*fees, around=around) == {"a": "6.66", "b": "6.67", "c": "6.67"}


def test_discounts_limited_to_prices_come_first() -> None:
    fees = [flat("a", "60"), flat("b", "40")]
    account = {"discounts": [{"id": "z", "percent": "10"}], "currency": "USD"}
    around = {"discounts": [{"id": "a_only", "amount": "10", "prices": ["a"]}]}
    # 60 - 10, then 10 % off both: 45 and 36. The other way round it would be 44.
    assert billed(*fees, around=around, account=account) == {"a": "45.00", "b": "36.00"}


def test_a_coupon_lasts_as_long_as_it_says() -> None:
    def months(**keys: Any) -> list[str]:
        coupon = {"id": "c", "percent": "50", **keys}
        ours = company(flat("fee", "10"), subscription={"from": "2026-01-15", "discounts": [coupon]})
        found = [amounts(ours.invoice(f"2026-0{month}")) for month in (1, 2, 3, 4)]
        return [one["fee"] for one in found]

    whole = ["5.48", "10.00", "10.00", "10.00"]
    assert months() == ["2.74", "5.00", "5.00", "5.00"]
    assert months(periods="once") == ["2.74", *whole[1:]]
    assert months(periods="2") == ["2.74", "5.00", "10.00", "10.00"]
    # It holds for the billing periods that begin in [from, to).
    assert months(**{"from": "2026-02-01", "to": "2026-04-01"}) == ["5.48", "5.00", "5.00", "10.00"]
    assert months(**{"from": "2026-02-02", "periods": 1}) == ["5.48", "10.00", "5.00", "10.00"]


def test_a_discount_in_another_currency_lowers_nothing() -> None:
    account = {"discounts": [{"id": "off", "amount": "5", "currency": "EUR"}]}
    assert billed(flat("fee", "10"), account=account) == {"fee": "10.00"}


def plan(**around: Any) -> Plan:
    return Plan.model_validate({"name": "p", "version": 1, "currency": "USD", "prices": [flat("a", "1")], **around})


@pytest.mark.parametrize(
    ("around", "why"),
    [
        ({"discounts": [{"id": "d"}]}, "a discount is a percent or an amount; write one of the two"),
        ({"discounts": [{"id": "d", "percent": "5", "amount": "5"}]}, "write one of the two"),
        ({"discounts": [{"id": "d", "percent": "100.5"}]}, "write at most 100"),
        ({"discounts": [{"id": "d", "percent": "5", "prices": ["b"]}]}, "no price 'b' in this plan; write one of a"),
        ({"discounts": [{"id": "d", "percent": "5", "plans": ["p"]}]}, "leave out plans"),
        ({"discounts": [{"id": "d", "amount": "5", "currency": "EUR"}]}, "write USD or leave it out"),
        ({"discounts": [{"id": "d", "percent": "5", "periods": "0"}]}, "write once, or 1, 2, 3"),
        ({"discounts": [{"id": "d", "percent": "5", "from": "2026-02-01", "to": "2026-02-01"}]}, "is not after from"),
        ({"minimums": [{"id": "a", "amount": "5"}]}, "'a' is also the id of a price; rename one of them"),
        (
            {"minimums": [{"id": "m", "amount": "10"}], "maximums": [{"id": "x", "amount": "9"}]},
            "maximum 9 is below 10",
        ),
        ({"commitments": [{"id": "c", "amount": "5", "overage_factor": "0.9"}]}, "is below 1"),
        ({"commitments": [{"id": "c", "amount": "5", "share": "equal"}]}, "'in_order' or 'pro_rata'"),
        ({"billing_period": {"every": "week", "proration": "thirty_day_month"}}, "a week has no months of thirty days"),
    ],
)
def test_what_a_plan_says_wrongly_is_refused_with_what_to_do(around: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        plan(**around)
    assert why in str(refused.value)


def test_an_amount_off_an_account_names_its_currency() -> None:
    with pytest.raises(ValidationError, match="write the currency of this amount"):
        Account.model_validate({"id": "a", "name": "A", "discounts": [{"id": "d", "amount": "5"}]})


def test_a_discount_keeps_what_was_written() -> None:
    written = {"id": "d", "percent": "12.5000", "from": "2026-01-01", "to": "2026-02-01", "periods": 3}
    kept = Discount.model_validate(written).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert kept == written


def test_a_first_flat_amount_that_waits_is_due_with_the_first_use_of_a_plan() -> None:
    """Nothing used in January, and so nothing owed; its flat amount comes with the first unit, once."""
    steps = [{"up_to": "10", "unit_price": "1", "flat_amount": "5"}, {"unit_price": "0.5"}]
    price = {"id": "calls", "meter": "calls", "type": "graduated", "tiers_since": "plan_start", "tiers": steps}
    company = Company([price], around={"switches": {"flat_at_zero": "waived"}})
    assert company.invoice("2026-01") == []
    company.use("2026-02-10", "2")
    assert amounts(company.invoice("2026-02")) == {"calls": "7.00"}
    company.use("2026-03-10", "3")
    assert amounts(company.invoice("2026-03")) == {"calls": "3.00"}


def test_two_maximums_over_the_same_prices_leave_a_minimum_what_the_lower_one_leaves() -> None:
    """6, minimum 10, maximums 8 and 9: 8."""
    price = {"id": "calls", "meter": "calls", "type": "unit", "unit_price": "1"}
    around = {
        "switches": {"min_max_order": "minimum_first"},
        "minimums": [{"id": "least", "amount": "10"}],
        "maximums": [{"id": "most", "amount": "8"}, {"id": "more", "amount": "9"}],
    }
    company = Company([price], around=around)
    company.use("2026-01-10", "6")
    assert amounts(company.invoice("2026-01")) == {"calls": "6.00", "least": "2.00"}
