"""Explanations: a line taken apart into steps that add up, as a tree, as JSON and as Arrow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import rich.console

from metering import Recorder
from metering.clock import FixedClock
from metering.corrections import Origin
from rating.explain import Explanation
from rating.explanation import Step, explanation_schema, origin_event_schema
from tallybook import Workspace, show
from tests.tallybook.shop import CATALOG, DECEMBER, LATE, NOVEMBER, USAGE, import_text, open_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """October is final; then late usage came in, and November is final too."""
    root = tmp_path_factory.mktemp("shop")
    with open_shop(root, now=NOVEMBER) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
    with Workspace(root, clock=FixedClock(DECEMBER)) as workspace:
        import_text(workspace, "late.csv", LATE)
        workspace.invoice("2026-11", final=True)
        yield workspace


def explained(shop: Workspace, period: str, tenant: str, price: str, kind: str) -> Explanation:
    (line,) = [
        line
        for invoice in shop.invoices(period)
        for line in invoice.lines
        if (line.tenant_id, line.price_id, line.kind) == (tenant, price, kind)
    ]
    return shop.explain(line.line_id)


def step(found: Explanation, name: str) -> Step:
    (one,) = [step for step in found.steps if step.step == name]
    return one


def test_steps_go_from_usage_to_the_amount(shop: Workspace) -> None:
    found = explained(shop, "2026-10", "acme", "tokens_out", "usage")
    names = [step.step for step in found.steps]
    assert names == ["aggregate", "price", "worth", "rounded", "booked_before", "amount"]
    assert step(found, "aggregate").text == "sum of tokens, direction output"
    assert step(found, "aggregate").quantity == 1500
    components = step(found, "price").children
    assert [one.text for one in components] == ["tier 1, up to 1,000", "tier 2, above 1,000"]
    assert sum(one.exact_amount or 0 for one in components) == step(found, "price").exact_amount == Decimal("6.25")
    assert step(found, "amount").amount == Decimal("6.25")


def test_a_fee_has_no_usage_behind_it(shop: Workspace) -> None:
    found = explained(shop, "2026-10", "globex", "fee", "flat")
    assert [step.step for step in found.steps] == ["price", "worth", "rounded", "booked_before", "amount"]
    (fee,) = step(found, "price").children
    # 16 of 31 days: the exact share is kept, and rounded once.
    assert (fee.part, fee.unit_price) == ("flat", 49)
    assert fee.exact_amount == Decimal("25.290322580645161290323")
    assert step(found, "rounded").amount == Decimal("25.29")
    assert found.events == ()


def test_a_correction_says_what_was_booked_before_and_which_event_is_new(shop: Workspace) -> None:
    found = explained(shop, "2026-11", "acme", "tokens_out", "correction")
    assert step(found, "aggregate").quantity == 1580
    assert step(found, "worth").exact_amount == Decimal("7.25")
    assert step(found, "booked_before").amount == Decimal("-6.25")
    assert step(found, "amount").amount == Decimal("1.00")
    assert [(event.idempotency_key, event.is_new) for event in found.events] == [("late1", True), ("a1", False)]
    assert (found.event_count, found.new_event_count) == (2, 1)


def test_the_tree_as_arrow_has_one_row_per_step_and_children_add_up(shop: Workspace) -> None:
    found = explained(shop, "2026-10", "acme", "tokens_out", "usage")
    table = found.to_arrow()
    assert table.schema == explanation_schema()
    rows = table.to_pylist()
    assert [row["position"] for row in rows] == list(range(len(rows)))
    price = next(row for row in rows if row["step"] == "price")
    children = [row for row in rows if row["parent"] == price["position"]]
    assert sum(row["exact_amount"] for row in children) == price["exact_amount"]
    assert [(row["tier"], row["quantity"], row["unit_price"]) for row in children] == [
        (1, 1000, 0),
        (2, 500, Decimal("0.0125")),
    ]
    events = found.events_to_arrow()
    assert events.schema == origin_event_schema()
    assert events.num_rows == len(found.events) == 1


def test_json_keeps_every_digit_as_text(shop: Workspace) -> None:
    steps = explained(shop, "2026-10", "globex", "fee", "flat").to_json()["steps"]
    assert steps[0]["children"] == [
        {
            "step": "component",
            "text": "flat amount",
            "quantity": "1",
            "unit_price": "49",
            "exact_amount": "25.290322580645161290323",
            "tier": 1,
            "part": "flat",
            "cell_key": "",
        }
    ]
    assert steps[-1] == {"step": "amount", "text": "this line", "amount": "25.29"}


def explained_under(folder: Path, prices: str, line: tuple[str, str] = ("tokens_out", "usage")) -> Explanation:
    """Return October's line of acme's tokens_out, or another, under other prices."""
    end = "accounts:" if "id: calls" in prices else "      - {id: calls"
    old = CATALOG[CATALOG.index("      - {id: tokens_out") : CATALOG.index(end)]
    with Workspace.init(folder, clock=FixedClock(NOVEMBER)) as workspace:
        (workspace.layout.catalog / "shop.yaml").write_text(CATALOG.replace(old, prices), encoding="utf-8")
        workspace.apply()
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        return explained(workspace, "2026-10", "acme", *line)


def test_conversion_and_included_units_are_steps_of_their_own(tmp_path: Path) -> None:
    price = """
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: unit, unit_price: "2",
         convert: {divide: "1000", round: ceil}, included: "0.5"}
"""
    found = explained_under(tmp_path, price)
    # 1,500 tokens are 2 started thousands, half of one is included, and the rest is 1.5 x 2.00.
    assert [(one.step, one.quantity) for one in found.steps[:3]] == [
        ("aggregate", 1500),
        ("conversion", 2),
        ("included", Decimal("-0.5")),
    ]
    assert found.steps[1].text == "divided by 1,000, rounded up once over the whole period"
    assert [(one.part, one.quantity) for one in step(found, "price").children] == [("unit", Decimal("1.5"))]
    assert step(found, "amount").amount == Decimal("3.00")


def test_buckets_of_time_are_cells_with_components_below(tmp_path: Path) -> None:
    price = """
      - {id: tokens_out, meter: tokens, type: graduated, price_per: day,
         tiers: [{up_to: "500", unit_price: "0.1"}, {unit_price: "0.5", package_size: "100"}]}
"""
    found = explained_under(tmp_path, price)
    cells = step(found, "price").children
    # 1,500 tokens on the 3rd: 500 x 0.1 and 10 packages at 0.5; 777 on the 4th: 500 x 0.1 and 3 started packages.
    assert [(one.step, one.text, one.exact_amount) for one in cells] == [
        ("cell", "2026-10-03T00:00:00Z", 55),
        ("cell", "2026-10-04T00:00:00Z", Decimal("51.5")),
    ]
    assert [(one.text, one.quantity, one.unit) for one in cells[1].children] == [
        ("tier 1, up to 500", 500, "token"),
        ("tier 2, above 500: packages of 100 token", 3, "package"),
    ]
    assert found.to_arrow().column("parent").to_pylist()[2:5] == [1, 2, 2]
    assert sum(one.exact_amount or 0 for one in cells) == step(found, "price").exact_amount


ADJUSTED = """
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: unit, unit_price: "0.1"}
      - {id: calls, meter: calls, type: package, package_size: "10", package_price: "0.50"}
    discounts: [{id: welcome, percent: 10, prices: [tokens_out]}]
    maximums: [{id: most, amount: "100", prices: [tokens_out]}]
    minimums: [{id: least, amount: "20", prices: [calls]}]
"""


def test_discounts_and_maximums_follow_the_price(tmp_path: Path) -> None:
    found = explained_under(tmp_path, ADJUSTED)
    # 1,500 x 0.1 = 150, less 10 % is 135, and 35 are above the maximum.
    assert [(one.step, one.text, one.exact_amount) for one in found.steps[1:5]] == [
        ("price", "unit price tokens_out of pro version 1", 150),
        ("discount", "discount welcome", -15),
        ("maximum", "above the maximum most", -35),
        ("worth", "what the period is worth, exact", 100),
    ]


CAPPED = """
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: unit, unit_price: "0.03337"}
      - {id: calls, meter: calls, type: unit, unit_price: "49.945"}
    maximums: [{id: most, amount: "100", prices: [tokens_out, calls]}]
"""


def test_a_maximum_that_rounding_alone_would_exceed_is_a_step_of_the_line_that_bears_it(tmp_path: Path) -> None:
    """1,500 x 0.03337 = 50.055 and 49.945 are 100, and 50.06 + 49.95 on paper."""
    found = explained_under(tmp_path, CAPPED, ("calls", "usage"))
    assert [(one.step, one.text, one.exact_amount) for one in found.steps[1:4]] == [
        ("price", "unit price calls of pro version 1", Decimal("49.945")),
        ("maximum", "above the maximum most", Decimal("-0.005")),
        ("worth", "what the period is worth, exact", Decimal("49.94")),
    ]
    assert step(found, "amount").amount == Decimal("49.94")
    assert sum(line.amount for line in found.invoice.lines if line.price_id != "fee") == Decimal("100.00")


def test_a_true_up_says_what_is_missing_of_the_minimum(tmp_path: Path) -> None:
    found = explained_under(tmp_path, ADJUSTED, ("least", "minimum"))
    # 10 calls are one package of 0.50, of 20.00 that are owed.
    assert [(one.step, one.amount) for one in found.steps[:2]] == [("owed", 20), ("covered", Decimal("0.50"))]
    assert step(found, "price").text == "minimum least of pro version 1"
    assert [(one.text, one.exact_amount) for one in step(found, "price").children] == [
        ("what is missing of the minimum", Decimal("19.5"))
    ]
    assert step(found, "amount").amount == Decimal("19.50")


POOLED = """
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: unit, unit_price: "0.1"}
      - {id: calls, meter: calls, type: package, package_size: "10", package_price: "0.50"}
    commitments:
      - {id: two_months, amount: "1000", overage_factor: "1.2", periods: 2, share: pro_rata, prices: [tokens_out]}
      - {id: of_calls, amount: "10", periods: 2, prices: [calls]}
"""
SEPTEMBER = """tenant_id,meter,quantity,event_time,idempotency_key,direction
acme,tokens,9000,2026-09-03T10:00:00Z,s1,output
acme,calls,1,2026-09-05T10:00:00Z,,
"""


def test_a_commitment_over_several_periods_says_what_was_used_before(tmp_path: Path) -> None:
    """Pots of two months from September on: in October 900 of 1,000 are used, so 50 of 150 are beyond."""
    old = CATALOG[CATALOG.index("      - {id: tokens_out") : CATALOG.index("accounts:")]
    with Workspace.init(tmp_path, clock=FixedClock(NOVEMBER)) as workspace:
        text = CATALOG.replace(old, POOLED).replace('from: "2026-01-01"', 'from: "2026-09-01"')
        (workspace.layout.catalog / "shop.yaml").write_text(text, encoding="utf-8")
        workspace.apply()
        import_text(workspace, "september.csv", SEPTEMBER)
        import_text(workspace, "usage.csv", USAGE)
        # September was never invoiced; it counts all the same.
        workspace.invoice("2026-10", final=True)
        found = explained(workspace, "2026-10", "acme", "tokens_out", "usage")
        owed = explained(workspace, "2026-10", "acme", "of_calls", "minimum")
        control = [one for one in workspace.reconcile("2026-10").findings if one.control_id == "TRUE_UP_MISSING"]
    assert [(one.step, one.text, one.exact_amount) for one in found.steps[1:5]] == [
        ("price", "unit price tokens_out of pro version 1", 150),
        ("used_before", "used before of the 1,000 of commitment two_months", 900),
        ("overage", "beyond the commitment two_months, in proportion", 10),
        ("worth", "what the period is worth, exact", 160),
    ]
    assert [(one.step, one.amount) for one in owed.steps[:3]] == [
        ("owed", 10),
        ("covered_before", Decimal("0.50")),
        ("covered", Decimal("0.50")),
    ]
    assert owed.steps[0].text == "the least that is owed over its billing periods"
    assert step(owed, "amount").amount == 9
    assert control == []


DIALECT = """
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: graduated, line_limits: {maximum: "13.335"},
         tiers: [{up_to: "500", unit_price: "0.01001"}, {up_to: "1000", unit_price: "0.0333"}]}
      - {id: calls, meter: calls, type: package, package_size: "10", package_price: "0.50"}
    discounts: [{id: welcome, percent: 10, prices: [tokens_out]}]
    switches: {round_at: component, tiers_past_end: lose}
"""


def test_a_line_under_switches_adds_up(tmp_path: Path) -> None:
    """500 x 0.01001 is 5.01 and 500 x 0.0333 is 16.65, rounded one by one; 8.32 above the limit of the line; 10 % of 13.34."""
    found = explained_under(tmp_path, DIALECT)
    assert [(one.part, one.exact_amount) for one in step(found, "price").children] == [
        ("line_limit", Decimal("-8.32")),
        ("unit", Decimal("5.01")),
        ("unit", Decimal("16.65")),
    ]
    assert step(found, "discount").exact_amount == Decimal("-1.33")
    assert step(found, "amount").amount == Decimal("12.01")


def test_a_credit_says_which_usage_was_taken_back(tmp_path: Path) -> None:
    """Of 1,500 tokens and 80 the 1,500 are voided after the invoice; nothing else has their attributes."""
    with open_shop(tmp_path, now=NOVEMBER) as workspace:
        import_text(workspace, "usage.csv", USAGE + LATE.split("\n", 1)[1])
        workspace.invoice("2026-10", final=True)
    with Workspace(tmp_path, clock=FixedClock(DECEMBER)) as workspace:
        with Recorder(tmp_path, ship="none", clock=workspace.clock) as usage:
            usage.void("tokens", tenant="acme", key="a1")
            usage.void("calls", tenant="acme", origin=Origin("nobody", 1, 1))
        workspace.ship()
        workspace.correct()
        found = explained(workspace, "2026-12", "acme", "tokens_out", "correction")
        page = io.StringIO()
        rich.console.Console(file=page, width=200).print(show.explanation(found))
        untouched = explained(workspace, "2026-10", "acme", "calls", "usage")
    assert (step(found, "aggregate").quantity, step(found, "amount").amount) == (80, Decimal("-7.25"))
    assert [one.idempotency_key for one in found.events] == ["late1"]
    assert [(one.idempotency_key, one.quantity, one.is_new) for one in found.taken_back] == [("a1", 1500, False)]
    assert found.to_json()["taken_back_count"] == 1
    assert found.to_json()["taken_back"][0]["quantity"] == "1500"
    assert "1 of 1 that were taken back and count no more" in page.getvalue()
    assert untouched.taken_back == ()
