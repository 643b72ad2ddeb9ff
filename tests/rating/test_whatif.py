"""What if: the same history under other plans, per tenant, plan and price; nothing booked, nothing mixed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metering.engine import open_engine
from metering.events import usage_event_schema
from metering.periods import parse_period
from metering.rollups import Rollups
from metering.usage import load_events, open_evidence
from rating.errors import NotFound
from rating.plans import Plan
from rating.whatif import Change, WhatIf, change_of, percent_of, what_if, whatif_over
from tests.rated import terms_of
from tests.rating.sales import at
from tests.tallybook.shop import USAGE, import_text, open_shop

OLD = {"name": "pro", "version": 1, "currency": "USD", "prices": [
    {"id": "fee", "type": "flat", "amount": "10.00"},
    {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "0.10"},
]}  # fmt: skip
NEW = {"name": "pro", "version": 2, "currency": "USD", "prices": [
    {"id": "fee", "type": "flat", "amount": "12.00"},
    {"id": "calls", "type": "graduated", "meter": "calls",
     "tiers": [{"up_to": "100", "unit_price": "0.10"}, {"unit_price": "0.05"}]},
]}  # fmt: skip
CATALOG = {
    "meters": [{"name": "calls"}],
    "plans": [OLD, {"name": "free", "version": 1, "currency": "USD"}],
    "accounts": [{"id": "all", "name": "All", "tenants": ["small", "big", "even", "none"]}],
    "subscriptions": [
        {"id": "s1", "tenant": "small", "plan": "pro", "version": 1, "from": "2026-01-01"},
        {"id": "s2", "tenant": "big", "plan": "pro", "version": 1, "from": "2026-01-01"},
        {"id": "s3", "tenant": "even", "plan": "pro", "version": 1, "from": "2026-01-01"},
        {"id": "s4", "tenant": "none", "plan": "free", "version": 1, "from": "2026-01-01"},
    ],
}
USED = [
    ("small", "2026-01-10", "30"),
    ("big", "2026-01-10", "700"),
    ("big", "2026-02-10", "300"),
    ("even", "2026-01-10", "140"),
    ("even", "2026-02-10", "140"),
    ("none", "2026-02-10", "5"),
]


def events(used: list[tuple[str, str, str]]) -> pa.Table:
    rows = [
        {
            "tenant_id": tenant, "meter": "calls", "quantity": Decimal(quantity), "event_time": at(when),
            "recorded_at": at(when), "producer_id": "p", "segment": number, "row": 0,
        }
        for number, (tenant, when, quantity) in enumerate(used)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=usage_event_schema())


def ask(change: Change, period: str = "2026-01-01..2026-03-01") -> WhatIf:
    engine = open_engine(threads=1)
    try:
        load_events(engine, events(USED))
        return what_if(engine, change, parse_period(period))
    finally:
        engine.close()


def change(*plans: dict[str, Any], **replaced: str) -> Change:
    return change_of(terms_of(CATALOG), [Plan.model_validate(plan) for plan in plans], replaced)


def money(table: pa.Table, key: str) -> dict[str, tuple[str, str, str]]:
    return {
        row[key]: tuple(f"{row[name]:.2f}" for name in ("old_amount", "new_amount", "difference"))  # type: ignore[misc]
        for row in table.to_pylist()
    }


def test_winners_losers_and_the_unchanged() -> None:
    answer = ask(change(NEW))
    # big: 700 and 300 calls; 2 x 10 + 100 before, 2 x 12 + (10 + 30) + (10 + 10) after. even: 2 x (10 + 14), 2 x (12 + 12).
    assert money(answer.tenants, "tenant_id") == {
        "big": ("120.00", "84.00", "-36.00"),
        "even": ("48.00", "48.00", "0.00"),
        "small": ("23.00", "27.00", "4.00"),
    }
    (plan,) = answer.plans.to_pylist()
    counts = [plan[f"tenants{which}"] for which in ("", "_paying_less", "_paying_more", "_unchanged")]
    assert counts == [3, 1, 1, 1]
    assert money(answer.plans, "plan") == {"pro": ("191.00", "159.00", "-32.00")}
    assert money(answer.prices, "price_id") == {
        "calls": ("131.00", "87.00", "-44.00"),
        "fee": ("60.00", "72.00", "12.00"),
    }
    assert [(one.plan, one.version, one.new_version, one.subscriptions) for one in answer.replacements] == [
        ("pro", 1, 2, 3)
    ]


def test_the_lines_add_up_to_every_sum() -> None:
    answer = ask(change(NEW))
    differences = [row["difference"] for row in answer.lines.to_pylist()]
    for table in (answer.tenants, answer.plans, answer.prices):
        assert sum(row["difference"] for row in table.to_pylist()) == sum(differences)
    grain = ("tenant_id", "plan", "new_plan", "price_id", "period_start", "currency")
    rows = answer.lines.to_pylist()
    assert len({tuple(row[name] for name in grain) for row in rows}) == len(rows) == 3 * 2 * 2


def test_the_same_question_has_the_same_answer_and_the_same_terms_no_difference() -> None:
    assert ask(change(NEW)).lines == ask(change(NEW)).lines
    same = ask(change(OLD))
    assert {row["difference"] for row in same.lines.to_pylist()} == {0}
    assert sum(row["old_amount"] for row in same.lines.to_pylist()) == 191


def test_a_version_edited_in_place_is_compared_with_what_the_catalog_holds() -> None:
    edited = {**OLD, "prices": [{"id": "fee", "type": "flat", "amount": "1.00"}]}
    answer = ask(change(edited))
    assert money(answer.prices, "price_id")["calls"] == ("131.00", "0.00", "-131.00")
    assert money(answer.prices, "price_id")["fee"] == ("60.00", "6.00", "-54.00")


def test_currencies_are_never_mixed() -> None:
    answer = ask(change({**NEW, "currency": "EUR"}))
    rows = [(row["currency"], row["old_amount"], row["new_amount"]) for row in answer.plans.to_pylist()]
    assert rows == [("EUR", 0, 159), ("USD", 191, 0)]


def test_discounts_and_minimums_of_the_new_plan_count() -> None:
    around = {
        "discounts": [{"id": "launch", "percent": 50, "prices": ["calls"]}],
        "minimums": [{"id": "least", "amount": "20"}],
    }
    answer = ask(change({**OLD, "version": 2, **around}))
    # small: 10 + 1.50 are below 20 in January, 10 + 0 in February. big: 10 + 35 and 10 + 15. even: 10 + 7, twice.
    assert money(answer.tenants, "tenant_id") == {
        "small": ("23.00", "40.00", "17.00"),
        "big": ("120.00", "70.00", "-50.00"),
        "even": ("48.00", "40.00", "-8.00"),
    }
    assert money(answer.prices, "price_id")["least"] == ("0.00", "24.50", "24.50")


@pytest.mark.parametrize("period", ["2026-02", "2026-01-01..2026-03-01"])
def test_a_pot_of_the_new_plan_has_what_was_used_before_the_range(period: str) -> None:
    """60 promised over two months, beyond it twice as much. In February big has used 10 + 70 before, even 10 + 14."""
    pot = {"id": "pot", "amount": "60", "overage_factor": "2", "periods": 2, "true_up": False}
    answer = ask(change({**OLD, "version": 2, "commitments": [pot]}), period)
    february: dict[str, Decimal] = {}
    for row in answer.lines.to_pylist():
        if row["period_end"] == at("2026-03-01"):
            february[row["tenant_id"]] = february.get(row["tenant_id"], Decimal(0)) + row["difference"]
    # All 40 of big are beyond; 24 + 24 of even are not, nor 13 + 10 of small.
    assert february == {"small": 0, "big": 40, "even": 0}


def test_subscriptions_move_to_another_plan_of_the_catalog() -> None:
    answer = ask(change(free="pro"))
    assert money(answer.tenants, "tenant_id") == {"none": ("0.00", "20.50", "20.50")}


def test_periods_follow_the_new_plan() -> None:
    yearly = {**NEW, "billing_period": {"every": "quarter"}}
    answer = ask(change(yearly), "2026-01-01..2026-04-01")
    ends = {(row["old_amount"] > 0, row["period_end"]) for row in answer.lines.to_pylist() if row["price_id"] == "fee"}
    assert len(ends) == 4
    # Three monthly fees before, one quarterly after.
    assert money(answer.prices, "price_id")["fee"] == ("90.00", "36.00", "-54.00")


@pytest.mark.parametrize(
    ("plans", "replaced", "said"),
    [
        ([{**NEW, "name": "prro"}], {}, "no subscription is on plan prro"),
        ([], {}, "no plan is given"),
        ([NEW], {"gold": "pro"}, "no subscription is on plan gold"),
        ([], {"pro": "gold"}, "there is no plan gold"),
        ([NEW, {**NEW, "version": 3}], {}, "pro may mean pro/2, pro/3"),
        ([{**NEW, "prices": [{"id": "x", "type": "unit", "meter": "cals", "unit_price": "1"}]}], {}, "meter cals"),
    ],
)
def test_what_cannot_be_answered_is_refused(plans: list[dict[str, Any]], replaced: dict[str, str], said: str) -> None:
    with pytest.raises(NotFound, match=said):
        change(*plans, **replaced)


def test_percent_is_exact_and_has_none_of_nothing() -> None:
    assert percent_of(Decimal("3"), Decimal("1")) == Decimal("33.3")
    assert percent_of(Decimal("0"), Decimal("1")) is None


def test_the_kept_states_of_usage_give_the_same_answer(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        for month in ("09", "10"):
            import_text(workspace, f"usage-{month}.csv", USAGE.replace("2026-10", f"2026-{month}"))
        files, snapshot = workspace.evidence()
        same = change_of(workspace.terms(), [], {"pro": "pro"})
        rollups = Rollups.of(files, scan_bytes_max=0)
        assert rollups is not None
        plain = whatif_over(files, snapshot, same, parse_period("2026"))
        engine = open_evidence(files, snapshot, folder=str(rollups.folder))
        try:
            kept = what_if(engine, same, parse_period("2026"), rollups=rollups)
        finally:
            engine.close()
    assert kept.lines == plain.lines
    assert sum(row["old_quantity"] for row in plain.lines.to_pylist() if row["price_id"] == "tokens_out") > 0


def test_a_subscription_that_changes_its_plan_is_compared_phase_by_phase() -> None:
    moving = {**CATALOG["subscriptions"][3], "changes": [{"from": "2026-02-01", "plan": "pro", "version": 1}]}
    catalog = {**CATALOG, "subscriptions": [moving]}
    asked = change_of(terms_of(catalog), [Plan.model_validate(NEW)])
    # January stays free on both sides; February is on pro, 10.50 before and 12.50 under the new plan.
    assert money(ask(asked).tenants, "tenant_id") == {"none": ("10.50", "12.50", "2.00")}
    assert asked.new.subscriptions[0].changes[0].version == 2
