"""When steps are due: grids, local times that do not exist or come twice, months of every zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import BadPeriod
from tallybook.errors import BadSettings
from tallybook.triggers import Trigger, floor_hour, month_from, parse_trigger


def fired(trigger: Trigger, start: datetime, end: datetime) -> list[str]:
    """Return every instant at which a trigger fires in [start, end), as who wakes at each would see it."""
    found, at = [], start - timedelta(microseconds=1)
    while (at := trigger.next_after(at)) < end:
        assert trigger.last_at(at) == at, "what is due now is the last that was due"
        found.append(f"{at.astimezone(UTC):%m-%d %H:%M}")
    return found


def trigger(words: str, zone: str = "UTC") -> Trigger:
    made = parse_trigger(words, zone)
    assert made is not None
    return made


def day(month: int, number: int) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


def test_a_local_time_that_comes_twice_runs_once() -> None:
    # On 25 October 2026 Berlin's 02:30 comes at 00:30 and at 01:30 UTC.
    assert fired(trigger("daily at 02:30", "Europe/Berlin"), day(10, 24), day(10, 27)) == [
        "10-24 00:30",
        "10-25 00:30",
        "10-26 01:30",
    ]


def test_a_local_time_that_does_not_exist_runs_once_after_the_gap() -> None:
    # On 29 March 2026 Berlin's clocks go from 02:00 to 03:00, at 01:00 UTC.
    assert fired(trigger("daily at 02:30", "Europe/Berlin"), day(3, 28), day(3, 31)) == [
        "03-28 01:30",
        "03-29 01:00",
        "03-30 00:30",
    ]


def test_hours_are_counted_in_utc_whatever_clocks_do() -> None:
    assert len(fired(trigger("hourly at :20", "Europe/Berlin"), day(10, 24), day(10, 27))) == 72
    assert fired(trigger("hourly at :20"), day(10, 24), day(10, 24) + timedelta(hours=2)) == [
        "10-24 00:20",
        "10-24 01:20",
    ]
    assert len(fired(trigger("every 5 minutes"), day(10, 25), day(10, 26))) == 288
    assert len(fired(trigger("every minute"), day(10, 25), day(10, 25) + timedelta(hours=1))) == 60


@given(
    st.integers(0, 366 * 24 * 60),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Kiritimati", "Asia/Kolkata"]),
    st.integers(0, 23),
    st.integers(0, 59),
)
def test_every_local_date_has_exactly_one(minutes: int, zone: str, hour: int, minute: int) -> None:
    daily = trigger(f"daily at {hour:02}:{minute:02}", zone)
    now = day(1, 1) + timedelta(minutes=minutes)
    last, after = daily.last_at(now), daily.next_after(now)
    assert last <= now < after
    # Clocks change by an hour at the most: nothing is left out, and nothing comes twice.
    assert timedelta(hours=23) <= after - last <= timedelta(hours=25)
    assert daily.next_after(last) == after
    assert daily.last_at(after) == after


@pytest.mark.parametrize(
    "words", ["", "every", "every 0 minutes", "every 5 lightyears", "hourly at 20", "daily at 24:00", "* * * * *"]
)
def test_words_that_are_not_known_are_refused_with_those_that_are(words: str) -> None:
    with pytest.raises(BadSettings, match="every 5 minutes"):
        parse_trigger(words, "UTC")


def test_a_zone_that_is_not_known_is_refused() -> None:
    with pytest.raises(BadPeriod, match="Mars"):
        parse_trigger("daily at 04:00", "Mars/Olympus")


def test_off_is_no_trigger() -> None:
    assert parse_trigger("off", "UTC") is None


def test_hours_and_months_of_markers() -> None:
    assert floor_hour(day(10, 24) + timedelta(minutes=59)) == day(10, 24)
    name, wall = month_from(day(12, 1))
    assert name == "2026-12"
    assert wall.end.isoformat() == "2027-01-01T00:00:00"
