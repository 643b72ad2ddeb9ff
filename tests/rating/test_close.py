"""Worth minus booked, told as small stories. The numbers are those of price models, sections 5 and 6."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

import rating.rate
from rating.invoice import document
from tests.rating.sales import Company, amounts

GRADUATED: dict[str, Any] = {
    "id": "calls",
    "type": "graduated",
    "meter": "calls",
    "tiers": [{"up_to": "100", "unit_price": "1"}, {"unit_price": "0.5"}],
}
VOLUME: dict[str, Any] = {
    **GRADUATED,
    "type": "volume",
    "tiers": [{"up_to": "20", "unit_price": "6"}, {"unit_price": "4"}],
}
PACKAGE: dict[str, Any] = {
    "id": "calls", "type": "package", "meter": "calls", "package_size": "10", "package_price": "15",
}  # fmt: skip
FEE: dict[str, Any] = {"id": "fee", "type": "flat", "amount": "60.00"}


def unit(price: str, **more: Any) -> dict[str, Any]:
    return {"id": "calls", "type": "unit", "meter": "calls", "unit_price": price, **more}


def test_a_late_event_becomes_a_correction_on_the_next_invoice() -> None:
    company = Company([GRADUATED])
    company.use("2026-09-10", "90")
    assert amounts(company.invoice("2026-09")) == {"calls": "90.00"}
    company.use("2026-09-20", "20")  # late: 10 more at 1, then 10 at 0.5
    company.use("2026-10-05", "30")
    (october,) = company.invoice("2026-10")
    assert [(line.kind, str(line.amount), line.period_start.month) for line in october.lines] == [
        ("usage", "30.00", 10),
        ("correction", "15.00", 9),
    ]
    assert amounts(company.invoice("2026-11")) == {}  # found once, booked once


def test_progressive_cuts_add_up_to_the_whole() -> None:
    company = Company([GRADUATED])
    company.use("2026-10-03", "60")
    assert amounts(company.invoice("2026-10", now="2026-10-10")) == {"calls": "60.00"}
    company.use("2026-10-12", "70")
    (second,) = company.invoice("2026-10", now="2026-10-20")
    assert [(charge.tier, str(charge.exact_amount.normalize())) for charge in second.lines[0].charges] == [
        (1, "4E+1"),
        (2, "15"),
    ]
    assert amounts(company.invoice("2026-10")) == {}


def test_a_volume_price_that_changes_tier_reverses_the_old_and_books_the_new() -> None:
    company = Company([VOLUME])
    company.use("2026-10-03", "20")
    assert amounts(company.invoice("2026-10")) == {"calls": "120.00"}
    company.use("2026-10-04", "1")
    (november,) = company.invoice("2026-11")
    (line,) = november.lines
    assert (line.kind, str(line.amount), str(line.quantity.normalize())) == ("correction", "-36.00", "1")
    assert [(str(charge.quantity.normalize()), str(charge.unit_price.normalize())) for charge in line.charges] == [
        ("-2E+1", "6"),
        ("21", "4"),
    ]


def test_a_volume_price_waits_for_the_end_of_the_period() -> None:
    company = Company([VOLUME])
    company.use("2026-10-03", "20")
    assert amounts(company.invoice("2026-10", now="2026-10-10")) == {}
    assert amounts(company.invoice("2026-10")) == {"calls": "120.00"}


@pytest.mark.parametrize(("cumulative", "booked"), [("2", "15.00"), ("10", "15.00"), ("12", "30.00"), ("8", "15.00")])
def test_a_package_is_whole_once_started(cumulative: str, booked: str) -> None:
    company = Company([PACKAGE])
    company.use("2026-10-03", cumulative)
    assert amounts(company.invoice("2026-10")) == {"calls": booked}


def test_rounding_errors_are_repaid_by_the_next_cut() -> None:
    company = Company([unit("0.001")])
    company.use("2026-10-03", "444")
    assert amounts(company.invoice("2026-10", now="2026-10-10")) == {"calls": "0.44"}
    company.use("2026-10-12", "444")
    assert amounts(company.invoice("2026-10")) == {"calls": "0.45"}


def test_a_draft_books_nothing() -> None:
    company = Company([unit("1")])
    company.use("2026-10-03", "40")
    assert amounts(company.invoice("2026-10", is_draft=True)) == {"calls": "40.00"}
    assert amounts(company.invoice("2026-10", is_draft=True)) == {"calls": "40.00"}
    assert amounts(company.invoice("2026-10")) == {"calls": "40.00"}


def test_fees_in_advance_are_booked_first_and_in_arrears_last() -> None:
    company = Company([FEE, {**FEE, "id": "support", "when": "in_arrears"}])
    assert amounts(company.invoice("2026-10", now="2026-10-01")) == {"fee": "60.00"}
    assert amounts(company.invoice("2026-10")) == {"support": "60.00"}


def test_a_fee_is_prorated_by_instants() -> None:
    company = Company([FEE, {**FEE, "id": "whole", "prorate": "false"}], subscription={"from": "2026-06-11"})
    assert amounts(company.invoice("2026-06")) == {"fee": "40.00", "whole": "60.00"}


def test_a_fee_is_prorated_by_instants_over_a_clock_change() -> None:
    paris = {"timezone": "Europe/Paris"}
    company = Company([{**FEE, "amount": "100.00"}], billing_period=paris, subscription={"from": "2026-03-15"})
    assert amounts(company.invoice("2026-03", now="2026-04-02")) == {"fee": "54.78"}


def test_an_end_that_moved_into_the_past_gives_the_fee_back() -> None:
    company = Company([FEE])
    assert amounts(company.invoice("2026-06")) == {"fee": "60.00"}
    company.subscription = {"to": "2026-06-11"}
    (july,) = company.invoice("2026-07")
    assert [(line.kind, str(line.amount)) for line in july.lines] == [("correction", "-40.00")]


def test_a_subscription_that_never_was_is_reversed_in_full() -> None:
    company = Company([FEE, unit("2")])
    company.use("2026-06-03", "5")
    company.invoice("2026-06")
    company.subscription = {"from": "2026-08-01"}
    (july,) = company.invoice("2026-07")
    assert amounts([july]) == {"fee": "-60.00", "calls": "-10.00"}
    assert {line.kind for line in july.lines} == {"correction"}


GONE_MUTANTS = {
    "lines that are worth nothing any more are forgotten": ("line_to_book", "FULL OUTER JOIN", "LEFT JOIN"),
    "the words of what is gone are lost": (
        "invoice_line", "coalesce(span.service_start, booked.service_start)", "span.service_start",
    ),
    "lines that are gone are not on paper": ("line_in_order", "WHERE NOT line.is_worth", "WHERE NOT line.is_worth AND false"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", GONE_MUTANTS.values(), ids=GONE_MUTANTS)
def test_a_rule_about_what_is_gone_that_is_broken_is_seen(
    mutant: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, find, put = mutant
    read = rating.rate.read_sql
    assert read("rating", file).count(find) >= 1
    monkeypatch.setattr(
        rating.rate,
        "read_sql",
        lambda package, name: read(package, name).replace(find, put) if name == file else read(package, name),
    )
    with pytest.raises((AssertionError, ValueError, SQLAlchemyError)):
        test_a_subscription_that_never_was_is_reversed_in_full()


def test_duplicates_count_once_over_the_whole_retention() -> None:
    company = Company([unit("1")])
    company.use("2026-09-03", "5", key="a")
    company.invoice("2026-09")
    company.use("2026-09-03", "5", key="a")
    company.use("2026-10-03", "7", key="a")  # another payload under the same key is a finding, and counts nothing
    company.use("2026-10-04", "1", key="b")
    assert amounts(company.invoice("2026-10")) == {"calls": "1.00"}


def test_groups_have_their_own_tiers_and_lines() -> None:
    meters = [{"name": "calls", "attributes": ["model"]}]
    company = Company([{**GRADUATED, "by": ["model"]}], meters=meters)
    company.use("2026-10-03", "110", model="a")
    company.use("2026-10-03", "10", model="b")
    company.use("2026-10-03", "1")
    assert amounts(company.invoice("2026-10")) == {
        'calls {"model":"a"}': "105.00",
        'calls {"model":"b"}': "10.00",
        'calls {"model":null}': "1.00",
    }


def test_an_event_at_the_end_of_a_period_belongs_to_the_next() -> None:
    company = Company([unit("1")])
    company.use("2026-11-01T00:00", "5")
    company.use("2026-10-31T23:59", "3")
    assert amounts(company.invoice("2026-10")) == {"calls": "3.00"}
    assert amounts(company.invoice("2026-11")) == {"calls": "5.00"}


def test_an_anniversary_period_belongs_to_the_month_it_ends_in() -> None:
    company = Company([unit("1")], billing_period={"anchor": "subscription"}, subscription={"from": "2026-01-31"})
    company.use("2026-02-27T23:00", "1")
    company.use("2026-02-28T00:00", "2")  # the second period: 28 February to 31 March, clamped from the 31st
    assert amounts(company.invoice("2026-02")) == {"calls": "1.00"}
    (march,) = company.invoice("2026-03")
    assert (str(march.lines[0].amount), march.lines[0].period_end.isoformat()) == ("2.00", "2026-03-31T00:00:00+00:00")


def test_yen_has_no_minor_digits_and_dinars_have_three() -> None:
    for currency, expected in (("JPY", "1"), ("KWD", "0.500"), ("USD", "0.50")):
        company = Company([unit("0.5")], currency=currency)
        company.use("2026-10-03", "1")
        assert amounts(company.invoice("2026-10")) == {"calls": expected}


def test_numbers_have_no_gaps_and_a_close_is_booked_once() -> None:
    company = Company([FEE])
    numbers = [company.invoice(f"2026-0{month}")[0].number for month in (4, 5, 6)]
    assert numbers == ["INV-00000001", "INV-00000002", "INV-00000003"]


def test_the_same_close_gives_the_same_bytes_whatever_came_later() -> None:
    from rating.close import read_closes

    company = Company([GRADUATED, FEE])
    company.use("2026-09-10", "90")
    (before,) = company.invoice("2026-09")
    company.use("2026-09-20", "20")
    company.invoice("2026-10")
    with company.books.connect() as connection:
        close = read_closes(connection)[0]
    (again,) = company.compute(close)
    assert document(again) == document(before)


def test_a_share_of_no_period_at_all_is_refused() -> None:
    from decimal import Decimal

    from rating.proration import share_of

    with pytest.raises(ValueError, match="does not lie in"):
        share_of(Decimal(1), 0, 0)


def test_a_day_that_a_zone_skipped_is_no_period() -> None:
    from metering.periods import CALENDAR_ANCHOR, BillingCycle, parse_period

    cycle = BillingCycle("day", CALENDAR_ANCHOR, "Pacific/Apia")  # 30 December 2011 did not happen in Samoa
    days = cycle.periods_ending_in(parse_period("2011-12").in_zone("Pacific/Apia"))
    assert len(days) == 30
    assert all(one.end == two.start for one, two in pairwise(days))
