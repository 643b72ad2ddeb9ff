"""Quantities that are worked out from attributes: the language by hand, and all the way into a segment."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metering.catalog import Meter
from metering.clock import FixedClock
from metering.errors import BadEvent
from metering.expressions import ExpressionInvalid, read_expression
from metering.lake import Lake
from metering.layout import Layout
from metering.meters import MeterRule, publish_rules
from metering.recorder import Recorder
from metering.ship import Shipped, ship
from metering.usage import Snapshot, open_evidence

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def worked_out(text: str, **attributes: Any) -> str:
    quantity = read_expression(text).quantity_of(attributes)
    return f"{quantity.normalize():f}"


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("round(12.5)", "13"), ("round(-12.5)", "-13"), ("round(12.345, 2)", "12.35"), ("round(1250, -2)", "1300"),
        ("ceil(12.351, 1)", "12.4"), ("ceil(-1.5)", "-1"), ("floor(12.3)", "12"), ("floor(12.351, 1)", "12.3"),
        ("1 + 2 * 3 - 4 / 8", "6.5"), ("(1 + 2) * -3", "-9"), ("8 / 4 / 2", "1"), ("7 - 4 - 2", "1"), ("2 / 3", "0.666666667"),
        ("- 2 / 3", "-0.666666667"), ("least(3, 1, 2)", "1"), ("greatest(3, ceil(3.2))", "4"), ("concat(1, 2.5) * 2", "25"),
        ("0.1 + 0.2", "0.3"),
    ],
)  # fmt: skip
def test_worked_numbers(text: str, quantity: str) -> None:
    assert worked_out(text) == quantity


def test_all_digits_of_a_quantity_stay() -> None:
    """A quantity has up to 38 digits; decimals by themselves keep 28."""
    wide = "12345678901234567890123456789"
    assert read_expression("a + 0.123456789").quantity_of({"a": wide}) == Decimal(f"{wide}.123456789")
    assert read_expression("-(a + 0.000000001)").quantity_of({"a": wide}) == Decimal(f"-{wide}.000000001")
    assert read_expression("concat(a + 0.000000001) - a").quantity_of({"a": wide}) == Decimal("0.000000001")


def test_attributes_are_numbers_in_text_or_as_they_are() -> None:
    text = "ceil(duration_ms / 1000) * memory_gb"
    assert worked_out(text, duration_ms=1200, memory_gb="0.5") == "1"
    assert worked_out(text, duration_ms="1000", memory_gb=Decimal("0.25")) == "0.25"
    assert read_expression(text).names == ("duration_ms", "memory_gb")


@pytest.mark.parametrize("attributes", [{}, {"a": None}, {"a": True}, {"a": "1e3"}, {"a": " 1"}, {"a": 0}, {"a": []}])
def test_what_has_no_answer_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(BadEvent):
        read_expression("1 / a").quantity_of(attributes)


@pytest.mark.parametrize(
    "text",
    ["", "1 +", "(1", "1 2", "abs(1)", "a.b", "1e3", "round()", "round(1, 2, 3)", "a ** 2", "__import__('os')", "-" * 99 + "1",
     "(" * 99 + "1" + ")" * 99, "1" * 1001],
)  # fmt: skip
def test_what_is_no_expression_says_so(text: str) -> None:
    with pytest.raises(ExpressionInvalid):
        read_expression(text)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.integers(0, 9))
def test_rounding_is_that_of_whole_numbers(value: int, divisor: int, places: int) -> None:
    """ceil and floor meet the value from both sides, one step apart, and round is the nearer one."""
    a, b = (Decimal(worked_out(f"{name}(x / y, {places})", x=value, y=divisor)) for name in ("floor", "ceil"))
    nearest = Decimal(worked_out(f"round(x / y, {places})", x=value, y=divisor))
    assert b - a in {0, Decimal(1).scaleb(-places)}
    assert nearest in {a, b}
    assert a * divisor <= value <= b * divisor


def test_a_meter_reads_its_expression_from_its_file() -> None:
    assert Meter.model_validate({"name": "m", "expression": "a * b", "attributes": ["a", "b"]}).expression == "a * b"
    with pytest.raises(ValidationError, match="'c' is not one of the declared attributes"):
        Meter.model_validate({"name": "m", "expression": "a * c", "attributes": ["a", "b"]})
    with pytest.raises(ValidationError, match="nobody knows the function 'sqrt'"):
        Meter.model_validate({"name": "m", "expression": "sqrt(a)"})


def test_a_segment_holds_what_was_worked_out(tmp_path: Path) -> None:
    """Rows keep their order; without an answer, or below zero, a row is a dead letter; totals are of what is stored."""
    layout = Layout.of(tmp_path)
    publish_rules(layout.meters_file, [MeterRule("gb_s", expression="seconds * gb"), MeterRule("calls")])
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0, clock=FixedClock(NOON)) as usage:
        usage.record("calls", tenant="acme", quantity=7)
        usage.record("gb_s", tenant="acme", seconds="2", gb="0.5")
        usage.record("gb_s", tenant="acme", seconds="2")
        usage.record("calls", tenant="acme", quantity=8)
        usage.record("gb_s", tenant="acme", seconds="3", gb="-1")
        usage.record("gb_s", tenant="acme", seconds="3", gb="4")
    lake = Lake(layout.lake)
    assert ship(layout, lake, FixedClock(NOON)) == Shipped(1, 4, 2)
    (segment,) = lake.segments().to_pylist()
    totals = {(total["meter"]): (total["rows"], total["quantity"]) for total in segment["totals"]}
    # A dead letter keeps the quantity that it came with, or that was worked out for it.
    assert totals["calls"] == (2, 15)
    stored = stored_events(tmp_path)
    assert [(row["row"], row["meter"], row["quantity"]) for row in stored] == [
        (0, "calls", 7), (1, "gb_s", 1), (3, "calls", 8), (5, "gb_s", 12)
    ]  # fmt: skip
    letters = sorted(lake.dead_letters().to_pylist(), key=lambda row: row["row"])
    assert [(row["row"], row["reason"]) for row in letters] == [(2, "bad_expression"), (4, "negative_quantity")]


def stored_events(root: Path) -> list[dict[str, Any]]:
    engine = open_evidence(*evidence_of(root))
    try:
        found = engine.execute("SELECT row, meter, quantity FROM stored_event ORDER BY row").fetchall()
        return [dict(zip(("row", "meter", "quantity"), row, strict=True)) for row in found]
    finally:
        engine.close()


def evidence_of(root: Path) -> tuple[list[str], Snapshot]:
    lake = Lake(Layout.of(root).lake)
    return [str(file.path) for file in lake.data_files()], Snapshot.of(lake.cut())
