"""Commitments over several billing periods: one pot, in the numbers of the price rules; late use, ends, and one period alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from metering.engine import fetch, open_engine
from metering.events import usage_event_schema
from metering.periods import parse_period
from metering.usage import load_events
from rating.plans import Plan
from rating.rate import rate, rate_usage
from rating.terms import billing_spans
from tests.rating.sales import Company, amounts, at

ONE = {"type": "unit", "unit_price": "1"}
CALLS: dict[str, Any] = {"id": "calls", "meter": "calls", **ONE}
DISK: dict[str, Any] = {"id": "disk", "meter": "disk", **ONE}
POT: dict[str, Any] = {"id": "c", "amount": "1000", "overage_factor": "1.2", "periods": 12}
LIFE = {**POT, "periods": "plan_life", "prorate": False}


def company(*prices: dict[str, Any], pot: dict[str, Any] = POT, **settings: Any) -> Company:
    around = {"commitments": [pot], **settings.pop("around", {})}
    return Company(list(prices or (CALLS,)), meters=[{"name": "calls"}, {"name": "disk"}], around=around, **settings)


@pytest.mark.parametrize("pot", [POT, LIFE], ids=["periods", "plan_life"])
def test_a_period_has_what_those_before_it_left(pot: dict[str, Any]) -> None:
    """Section 4.2: 1,000 promised, 900 used before, factor 1.2: 250 are 100 + 1.2 x 150."""
    ours = company(pot=pot)
    ours.use("2026-01-10", "900")
    assert amounts(ours.invoice("2026-01")) == {"calls": "900.00"}
    ours.use("2026-02-10", "250")
    assert amounts(ours.invoice("2026-02")) == {"calls": "280.00"}
    ours.use("2026-03-10", "10")
    assert amounts(ours.invoice("2026-03")) == {"calls": "12.00"}


@pytest.mark.parametrize(
    ("share", "lines"),
    [("in_order", {"calls": "100.00", "disk": "180.00"}), ("pro_rata", {"calls": "112.00", "disk": "168.00"})],
)
def test_lines_share_what_is_left(share: str, lines: dict[str, str]) -> None:
    """Section 4.2: 100 left, lines of 100 and 150: 100 and 0 are within, or 40 and 60."""
    ours = company(CALLS, DISK, pot={**POT, "share": share})
    ours.use("2026-01-10", "900", meter="disk")
    ours.invoice("2026-01")
    ours.use("2026-02-10", "100")
    ours.use("2026-02-10", "150", meter="disk")
    assert amounts(ours.invoice("2026-02")) == lines


def test_late_use_moves_the_periods_after_it() -> None:
    """50 more in January leave 50 of the pot for February, and so 50 of its 250 are at 1.2 that were within."""
    ours = company()
    ours.use("2026-01-10", "900")
    ours.invoice("2026-01")
    ours.use("2026-02-10", "250")
    ours.invoice("2026-02")
    ours.use("2026-01-11", "50")
    [late] = ours.invoice("2026-03")
    found = {(line.kind, str(line.period_start)[:7]): str(line.amount) for line in late.lines}
    assert found == {("correction", "2026-01"): "50.00", ("correction", "2026-02"): "10.00"}
    assert ours.invoice("2026-04") == []


def test_what_is_paid_back_makes_room_again() -> None:
    """1,100 are 20 dearer; 200 back are 100 within again, and take these 20 back."""
    ours = company(CALLS, {"id": "back", "meter": "disk", "type": "unit", "unit_price": "-1"})
    ours.use("2026-01-10", "1100")
    assert amounts(ours.invoice("2026-01")) == {"calls": "1120.00"}
    ours.use("2026-02-10", "200", meter="disk")
    assert amounts(ours.invoice("2026-02")) == {"back": "-220.00"}
    shared = company(
        CALLS, {"id": "back", "meter": "disk", "type": "unit", "unit_price": "-1"}, pot={**POT, "share": "pro_rata"}
    )
    shared.events, shared.segments = ours.events, ours.segments
    shared.invoice("2026-01")
    assert amounts(shared.invoice("2026-02")) == {"back": "-220.00"}


def test_a_true_up_is_owed_once_with_the_last_period() -> None:
    """Three months of one pot: 1,000 - 10 - 20 are owed with the third; then the next pot begins."""
    ours = company(pot={**POT, "periods": 3})
    ours.use("2026-01-10", "10")
    assert amounts(ours.invoice("2026-01")) == {"calls": "10.00"}
    ours.use("2026-03-10", "20")
    assert amounts(ours.invoice("2026-02")) == {}
    assert amounts(ours.invoice("2026-03", now="2026-03-31T23:59")) == {"calls": "20.00"}
    assert amounts(ours.invoice("2026-03")) == {"c": "970.00"}
    ours.use("2026-01-11", "5")
    assert amounts(ours.invoice("2026-04")) == {"calls": "5.00", "c": "-5.00"}
    ours.use("2026-06-10", "1010")
    ours.invoice("2026-05")
    assert amounts(ours.invoice("2026-06")) == {"calls": "1012.00"}


def test_a_pot_that_ends_early_owes_the_share_of_its_periods() -> None:
    """From 16 January to 1 April of twelve months: 16/31 of one, and two, are 209.68 of 1,000."""
    ours = company(subscription={"from": "2026-01-16", "to": "2026-04-01"})
    ours.use("2026-02-10", "200")
    for month in ("2026-01", "2026-02"):
        ours.invoice(month)
    assert amounts(ours.invoice("2026-03")) == {"c": "9.68"}
    whole = company(subscription={"from": "2026-01-16", "to": "2026-04-01"}, pot={**POT, "prorate": False})
    assert amounts(whole.invoice("2026-03")) == {"c": "1000.00"}


def test_a_pot_over_the_life_of_a_plan_is_owed_with_its_end() -> None:
    ours = company(pot=LIFE)
    ours.use("2026-01-10", "300")
    for month in ("2026-01", "2026-02"):
        assert "c" not in amounts(ours.invoice(month))
    ours.subscription["to"] = "2026-03-15"
    assert amounts(ours.invoice("2026-03")) == {"c": "700.00"}


def test_another_plan_version_begins_a_pot_of_its_own() -> None:
    """Version 1 to 15 February, with 900 used and 100 missing; version 2 has 1,000 again."""
    second = {
        "name": "pro",
        "version": 2,
        "prices": [CALLS],
        "commitments": [{**POT, "true_up": False, "prorate": False}],
    }
    ours = company(
        pot=LIFE,
        more_plans=[second],
        subscription={"changes": [{"from": "2026-02-15", "version": 2}]},
    )
    ours.use("2026-01-10", "900")
    ours.use("2026-02-20", "950")
    ours.invoice("2026-01")
    assert amounts(ours.invoice("2026-02")) == {"c": "100.00", "calls": "950.00"}
    ours.use("2026-03-10", "60")
    assert amounts(ours.invoice("2026-03")) == {"calls": "62.00"}


def test_inner_true_ups_count_as_used_of_a_wider_pot() -> None:
    """Calls owe 100 a month, which the pot of two months over all counts: 250 - 100 - 100 are missing."""
    around = {"minimums": [{"id": "least", "amount": "100", "prices": ["calls"]}]}
    ours = company(CALLS, DISK, pot={**POT, "amount": "250", "periods": 2}, around=around)
    ours.use("2026-01-10", "30")
    assert amounts(ours.invoice("2026-01")) == {"calls": "30.00", "least": "70.00"}
    assert amounts(ours.invoice("2026-02")) == {"least": "100.00", "c": "50.00"}


def test_a_pot_holds_on_the_net_of_discounts_and_of_narrower_commitments() -> None:
    """Half off, then calls beyond 50 a month cost twice: 200 are 150. A pot of 200 has 50 left for the 150 of February."""
    around = {
        "discounts": [{"id": "half", "percent": "50"}],
        "commitments": [
            {"id": "narrow", "amount": "50", "overage_factor": "2", "prices": ["calls"], "true_up": False},
            {"id": "wide", "amount": "200", "overage_factor": "1.5", "periods": 3, "true_up": False},
        ],
    }
    ours = Company([CALLS, DISK], meters=[{"name": "calls"}, {"name": "disk"}], around=around)
    ours.use("2026-01-10", "200")
    assert amounts(ours.invoice("2026-01")) == {"calls": "150.00"}
    ours.use("2026-02-10", "200")
    # 150 of which 50 are within: 50 + 1.5 x 100.
    assert amounts(ours.invoice("2026-02")) == {"calls": "200.00"}


def test_a_period_alone_is_worth_what_it_is_beside_many_and_rated_again() -> None:
    """Preview, explain and whatif rate one period; a reconciliation rates the same spans again with other use."""
    ours = company(pot={**POT, "periods": 3})
    for month in ("01", "02", "03"):
        ours.use(f"2026-{month}-10", "450")
    engine = open_engine(threads=1)
    try:
        load_events(engine, pa.Table.from_pylist(ours.events, schema=usage_event_schema()))
        march, rest = parse_period("2026-03"), [parse_period("2026-01"), parse_period("2026-02")]

        def worth() -> list[Any]:
            asked = "SELECT price_id, exact_amount FROM worth WHERE is_current ORDER BY ALL"
            return [tuple(row.values()) for row in fetch(engine, asked).to_pylist()]

        rate(engine, ours.terms, billing_spans(ours.terms, march), at("2026-04-01"))
        # 100 within, 350 at 1.2; nothing of January and February is left in the engine.
        assert worth() == [("calls", Decimal(520))]
        assert engine.execute("SELECT count(*) FROM charge JOIN billing_span USING (span_id)").fetchall() == [(2,)]
        assert engine.execute("SELECT count(DISTINCT span_id) FROM usage").fetchall() == [(1,)]
        rate_usage(engine, at("2026-04-01"))
        assert worth() == [("calls", Decimal(520))]
        rate(engine, ours.terms, billing_spans(ours.terms, march, rest), at("2026-04-01"))
        assert worth() == [("calls", Decimal(520))]
    finally:
        engine.close()


def plan(**around: Any) -> Plan:
    return Plan.model_validate({"name": "p", "version": 1, "currency": "USD", "prices": [CALLS], **around})


@pytest.mark.parametrize(
    ("around", "why"),
    [
        ({"commitments": [{**POT, "periods": "0"}]}, "write 2, 3, 12 ..., or plan_life for all of them together"),
        ({"commitments": [{**POT, "periods": "year"}]}, "'year' is not a number of billing periods"),
        ({"commitments": [{**POT, "periods": True}]}, "is not a number of billing periods"),
        ({"commitments": [{**POT, "periods": "plan_life"}]}, "write prorate: false, or a number of periods"),
        ({"commitments": [POT], "maximums": [{"id": "x", "amount": "83"}]}, "the maximum 83 12 times is below 1000"),
    ],
)
def test_what_a_plan_says_wrongly_is_refused_with_what_to_do(around: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        plan(**around)
    assert why in str(refused.value)


def test_a_maximum_holds_in_each_period_and_so_often_leaves_room_for_a_pot() -> None:
    assert plan(commitments=[POT], maximums=[{"id": "x", "amount": "84"}]).pots
    assert plan(commitments=[LIFE], maximums=[{"id": "x", "amount": "1"}]).pots
    assert not plan(commitments=[{**POT, "periods": 1}]).pots
