"""Rules of capture that compare with what is usual: clocks that lag, duplicates and refusals that are new. Nothing is found
where the same figures are usual, on purpose, or too few."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from billing_adapters.reconciliation.controls import our_controls
from billing_adapters.reconciliation.inputs import schema_of
from tests.billing_adapters.world import World, event, letter, statement_of

if TYPE_CHECKING:
    from billing_adapters.reconciliation.statement import Finding

Row = dict[str, Any]
NOON = datetime(2026, 10, 5, 12, tzinfo=UTC)


def findings(world: World, control_id: str, **more: Any) -> list[Finding]:
    [control] = [one for one in our_controls() if one.control_id == control_id]
    return list(statement_of(world, controls=[control], **more).findings)


def lagging(lags_min: list[int], kind: str = "journal") -> list[Finding]:
    """Return what is found of usage events of one recorder that were recorded so many minutes after their time."""
    world = World()
    world.write(*[event() for _ in lags_min])
    rows = [
        {**row, "recorded_at": row["event_time"] + timedelta(minutes=lag)}
        for row, lag in zip(world.stored(), lags_min, strict=True)
    ]
    trailers = [{**row, "kind": kind} for row in world.trailers()]
    return findings(world, "CLOCK_SKEW", stored=rows, trailers=trailers)


def test_a_clock_that_is_behind_lags_by_the_same_time_always() -> None:
    [one] = lagging([42] * 15 + [43] * 15)
    assert (one.reason, one.subject, one.rows, one.finding_class) == ("behind", "producer", 30, "DATA_QUALITY")
    assert "recorded 42 minutes after its time, half of them within 1 minutes of that" in one.detail


@pytest.mark.parametrize(
    ("lags_min", "kind"),
    [
        pytest.param([5] * 30, "journal", id="within what is allowed"),
        pytest.param(list(range(30)), "journal", id="a queue that is emptied now and then"),
        pytest.param([42] * 19, "journal", id="too few"),
        pytest.param([42] * 30, "file", id="imported later on purpose"),
    ],
)
def test_what_lies_behind_otherwise_is_no_clock(lags_min: list[int], kind: str) -> None:
    assert lagging(lags_min, kind) == []


def test_what_a_wrong_clock_moves_over_the_end_of_the_period_is_counted() -> None:
    world = World()
    world.write(*[event(day=31) for _ in range(20)])
    late = datetime(2026, 10, 31, 23, 30, tzinfo=UTC)
    rows = [{**row, "event_time": late, "recorded_at": late + timedelta(minutes=45)} for row in world.stored()]
    trailers = [{**row, "kind": "journal"} for row in world.trailers()]
    [one] = findings(world, "CLOCK_SKEW", stored=rows, trailers=trailers)
    assert one.detail.endswith("by the recorder's clock 20 belong to a later period")


def duplicated(copies_by_day: list[int]) -> list[Finding]:
    """Return what is found where each day, the last of them 20 October, has 1,000 usage events and so many copies of one."""
    world = World()
    last = datetime(2026, 10, 20, 12, tzinfo=UTC)
    for back, copies in enumerate(reversed(copies_by_day)):
        day = last - timedelta(days=back)
        rows = [{**event(key=f"{back}-{n}"), "event_time": day} for n in range(1000 - copies)]
        world.write(*rows, *[{**event(key=f"{back}-0"), "event_time": day} for _ in range(copies)])
    return findings(world, "DEDUPE_EXCESS")


def test_a_day_with_more_duplicates_than_usual_is_told() -> None:
    [one] = duplicated([3, 4, 5, 3, 4, 5, 4, 4, 150])
    assert (one.reason, one.tenant_id, one.meter, one.rows) == ("more_than_usual", "acme", "calls", 150)
    assert one.finding_class == "INFO"
    # They may all be retries: nobody can say what they are worth.
    assert (one.estimate_basis, one.amount_likely) == ("E4", None)
    assert "first 2026-10-20: 150 of 1000 usage events were said before" in one.detail


@pytest.mark.parametrize(
    "copies_by_day",
    [
        pytest.param([150] * 9, id="as usual"),
        pytest.param([3, 4, 5, 3, 4, 5, 4, 4, 99], id="few"),
        pytest.param([3, 4, 5, 3, 4, 150], id="no days to compare with"),
        pytest.param([0, 120, 60, 160, 90, 30, 140, 70, 150], id="storms are usual"),
    ],
)
def test_duplicates_that_are_usual_or_few_are_not_told(copies_by_day: list[int]) -> None:
    assert duplicated(copies_by_day) == []


def refused(reasons_before: list[str], reasons: list[str]) -> list[Finding]:
    world = World()
    world.write(*[{**letter(one), "event_date": datetime(2026, 9, 3, tzinfo=UTC).date()} for one in reasons_before])
    world.write(*[letter(one) for one in reasons])
    trailers = world.trailers()
    trailers[0]["sealed_at"] = datetime(2026, 9, 3, tzinfo=UTC)
    return findings(world, "REJECT_RATE", trailers=trailers[0 if reasons_before else 1 :])


def test_a_reason_that_no_earlier_period_has_is_told_whatever_its_number() -> None:
    [one] = refused(["bad_quantity"], ["bad_quantity", "unknown_meter", "unknown_meter"])
    assert (one.reason, one.subject, one.rows) == ("unknown_meter", "never seen before", 2)
    assert refused(["bad_quantity"], ["bad_quantity"]) == []
    # In the first period of all, every reason is new.
    assert refused([], ["bad_quantity"]) == []


def ratio(seen: dict[int, int], metered: dict[int, int], *, hours: int = 24) -> list[tuple[str, str, Decimal | None]]:
    """Return what WITNESS_RATIO finds of so many calls a day of October, seen in so many of its hours, metered at its noon."""
    world = World()
    world.write(*[event(quantity=str(count), day=day) for day, count in metered.items()])
    rows = [
        {
            "tenant_id": "acme", "meter": "calls", "count": Decimal(count) / hours,
            "bucket_start": datetime(2026, 10, day, hour * (24 // hours), tzinfo=UTC),
        }
        for day, count in seen.items()
        for hour in range(hours)
    ]  # fmt: skip
    last = {**rows[-1], "bucket_start": datetime(2026, 10, 31, 0, tzinfo=UTC), "count": Decimal(0)}
    witness = pa.Table.from_pylist([*rows, last], schema=schema_of("witness"))
    found = findings(world, "WITNESS_RATIO", given={"witness": witness})
    return [(one.reason, one.finding_class, one.quantity_difference) for one in found]


def test_a_day_metered_twice_does_not_hide_a_day_that_was_not_metered() -> None:
    missing, twice = ("metered_less", "AT_RISK", Decimal(480)), ("metered_more", "DATA_QUALITY", Decimal(480))
    assert ratio({5: 480, 6: 480, 7: 480}, {5: 480, 6: 480, 7: 480}) == []
    assert ratio({5: 480, 6: 480, 7: 480}, {5: 480, 6: 960}) == [missing, twice]
    assert ratio({5: 480, 6: 480, 7: 480}, {5: 480, 6: 480}) == [missing]


def test_edges_of_days_and_days_of_other_zones_are_no_days_apart() -> None:
    # Requests of midnight, and a tenant with few of them.
    assert ratio({5: 480, 6: 480}, {5: 490, 6: 470}) == []
    assert ratio({5: 24, 6: 24}, {5: 36, 6: 12}) == []
    # One bucket a day: whose midnight it begins at, nobody knows.
    assert ratio({5: 480, 6: 480, 7: 480}, {5: 480, 6: 960}, hours=1) == []
