"""The oracle itself, checked against worked numbers of the price rules (types, periods, proration, corrections)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from . import oracle
from .oracle import Line, add_months, billing_periods, boundary, instant, round_half_away
from .oracle_prices import metered_amount

TIERS = [
    {"up_to": "100", "unit_price": "0.50", "flat_amount": "5"},
    {"up_to": "1000", "unit_price": "0.20", "flat_amount": "10"},
    {"unit_price": "0.05"},
]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("price", "worked"),
    [
        ({"type": "unit", "unit_price": "0.0000125"}, {"1234567": "15.4320875", "0": "0"}),
        ({"type": "graduated", "tiers": TIERS}, {"0": "5", "100": "55", "100.5": "65.10", "250": "95", "1500": "270"}),
        ({"type": "volume", "tiers": TIERS}, {"0": "5", "100": "55", "101": "30.20", "1000": "210", "1500": "75"}),
        (
            {"type": "package", "package_size": "100", "package_price": "8"},
            {"0": "0", "1": "8", "100": "8", "100.001": "16", "250": "24"},
        ),
        ({"type": "package", "package_size": "0.1", "package_price": "1"}, {"0.3": "3", "0.300000001": "4"}),
    ],
    ids=["unit", "graduated", "volume", "package", "package of a fraction"],
)
def test_worked_amounts(price: dict[str, Any], worked: dict[str, str]) -> None:
    assert {q: metered_amount(price, Decimal(q)) for q in worked} == {q: Decimal(a) for q, a in worked.items()}


def test_half_goes_away_from_zero() -> None:
    worked = [("1.225", "1.23"), ("-1.225", "-1.23"), ("15.4320875", "15.43"), ("-0.004", "0.00")]
    assert [str(round_half_away(Decimal(exact), 2)) for exact, _ in worked] == [amount for _, amount in worked]
    assert oracle.round_fraction(oracle.Fraction(2, 3), 4) == Decimal("0.6667")


def test_months_are_counted_from_the_original_anchor() -> None:
    anchor = datetime(2026, 1, 31)  # noqa: DTZ001
    assert [add_months(anchor, n).strftime("%d %b") for n in (1, 2, 3)] == ["28 Feb", "31 Mar", "30 Apr"]
    leap = datetime(2024, 2, 29)  # noqa: DTZ001
    assert [boundary(leap, "year", n, "UTC").date().isoformat() for n in (1, 4)] == ["2025-02-28", "2028-02-29"]


@pytest.mark.parametrize(
    ("wall", "zone", "expected"),
    [
        ("2026-03-29T02:30:00", "Europe/Paris", "2026-03-29T01:00:00"),
        ("2026-10-25T02:30:00", "Europe/Paris", "2026-10-25T00:30:00"),
        ("2017-10-15T00:00:00", "America/Sao_Paulo", "2017-10-15T03:00:00"),
        ("2011-12-30T00:00:00", "Pacific/Apia", "2011-12-30T10:00:00"),
        ("2026-03-01T00:00:00", "America/New_York", "2026-03-01T05:00:00"),
    ],
    ids=["skipped", "repeated", "skipped midnight", "skipped day", "plain"],
)
def test_wall_times_become_instants(wall: str, zone: str, expected: str) -> None:
    assert instant(datetime.fromisoformat(wall), zone) == utc(expected)


def test_a_month_may_have_743_or_745_hours() -> None:
    hours = {}
    for period in billing_periods("month", "calendar", "Europe/Paris", utc("2026-02-28T23:00"), utc("2026-12-01")):
        hours[oracle.local(period.start, "Europe/Paris").month] = (period.end - period.start) // timedelta(hours=1)
    assert (hours[3], hours[4], hours[10]) == (743, 720, 745)


def test_calendar_periods_begin_with_a_part() -> None:
    first, second = list(billing_periods("week", "calendar", "UTC", utc("2026-04-01"), utc("2026-04-13")))
    assert (first.start, first.service_start, first.end) == (utc("2026-03-30"), utc("2026-04-01"), utc("2026-04-06"))
    assert (second.start, second.service_end, second.end) == (utc("2026-04-06"), utc("2026-04-13"), utc("2026-04-13"))


@pytest.mark.parametrize(
    ("amount", "zone", "start", "expected"),
    [("60.00", "UTC", "2026-06-11T00:00:00+00:00", "40.00"), ("100.00", "Europe/Paris", "2026-03-15", "54.78")],
)
def test_flat_amounts_take_their_share_of_instants(amount: str, zone: str, start: str, expected: str) -> None:
    (period, *_) = billing_periods("month", "calendar", zone, oracle.moment(start, zone), utc("2026-07-01"))
    assert round_half_away(oracle.flat_amount({"amount": amount}, period), 2) == Decimal(expected)


def event(quantity: str, at: str, key: str | None = None, *, row: int = 0, **attributes: str) -> dict[str, Any]:
    return {
        "tenant_id": "acme",
        "meter": "calls",
        "quantity": quantity,
        "event_time": utc(at),
        "recorded_at": utc("2026-02-01") + timedelta(seconds=row),
        "producer_id": "p",
        "segment": 1,
        "row": row,
        "idempotency_key": key,
        "attributes": attributes,
    }


def test_aggregations_of_the_same_events() -> None:
    events = [
        event("15", "2026-01-02", row=0, user="a"),
        event("-3", "2026-01-03", row=1, user="b"),
        event("10", "2026-01-03", row=2, user="a"),
        event("0.1", "2026-01-01", row=3),
    ]
    meters = {kind: {"aggregation": kind, "attributes": ["user"]} for kind in ("count", "sum", "max", "min", "last")}
    meters["unique_count"] = {"aggregation": "unique_count", "unique_attribute": "user"}
    found = {kind: oracle.aggregate(events, meter) for kind, meter in meters.items()}
    assert found == {kind: Decimal(v) for kind, v in zip(meters, ["4", "22.1", "15", "-3", "10", "2"], strict=True)}
    assert oracle.aggregate([], meters["last"]) is None
    assert oracle.rated_quantity(events[1:2], meters["max"]) == 0


CATALOG = {
    "meters": [{"name": "calls", "aggregation": "sum"}],
    "plans": [
        {
            "name": "pro",
            "version": 1,
            "currency": "USD",
            "prices": [
                {"id": "calls", "type": "graduated", "meter": "calls", "tiers": [{"up_to": "100", "unit_price": "1"}]},
            ],
        }
    ],
    "accounts": [{"id": "acme-inc", "name": "Acme", "tenants": ["acme"]}],
    "subscriptions": [{"id": "s", "tenant": "acme", "plan": "pro", "version": 1, "from": "2026-01-01"}],
}
CATALOG["plans"][0]["prices"][0]["tiers"].append({"unit_price": "0.5"})  # type: ignore[index]


def test_pieces_book_the_difference_and_late_usage_comes_again() -> None:
    """Cumulative 60, 130, 120 at 100@1, open@0.5: +60.00, +55.00, -5.00; 90, then 20 late and 30 new: +30.00."""
    for quantities, expected in [(["60", "70", "-10"], ["60", "55", "-5"]), (["90", "50"], ["90", "30"])]:
        booked: dict[oracle.LineKey, Line] = {}
        amounts = []
        for known in range(1, len(quantities) + 1):
            events = [event(q, "2026-01-05", row=row) for row, q in enumerate(quantities[:known])]
            difference = oracle.book(oracle.lines(CATALOG, events, "2026-01"), booked)
            booked = oracle.total(booked, difference)
            amounts.append(sum(line.amount for line in difference.values()))
        assert amounts == [Decimal(amount) for amount in expected]


def test_the_first_recorded_of_a_key_wins_and_the_end_is_open() -> None:
    events = [
        event("7", "2026-01-05", "k", row=1),
        event("5", "2026-01-06", "k", row=0),
        event("1", "2026-01-31T23:59:59.999999", row=2),
        event("2", "2026-02-01", row=3),
    ]
    assert [line.quantity for line in oracle.lines(CATALOG, events, "2026-01").values()] == [Decimal(6)]
    assert [line.quantity for line in oracle.lines(CATALOG, events, "2026-02").values()] == [Decimal(2)]
    assert oracle.lines(CATALOG, events, "2026-01", account="other") == {}


def test_a_period_belongs_to_the_month_of_its_last_instant() -> None:
    weekly = {**CATALOG, "plans": [{**CATALOG["plans"][0], "billing_period": {"every": "week"}}]}  # type: ignore[index]
    starts = {key[1].date().isoformat() for key in oracle.lines(weekly, [], "2026-03")}
    assert starts == {"2026-02-23", "2026-03-02", "2026-03-09", "2026-03-16", "2026-03-23"}
