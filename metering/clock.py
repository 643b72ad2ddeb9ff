"""Time, passed in.

Enters: nothing. Leaves: the current instant in microseconds since 1970 (UTC), and a monotonic reading for intervals.
Refuses: to be called from rating or reconciliation; what a period is worth never depends on when it is computed.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """The two readings that Tallybook takes of time."""

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC, by the wall clock. It may step; order never rests on it."""

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary start that never goes back. For intervals only."""


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


class FixedClock:
    """A clock that stands still until told otherwise; for tests, demos and replays."""

    def __init__(self, now: datetime) -> None:
        self._now_us = to_us(now)

    def now_us(self) -> int:
        return self._now_us

    def monotonic_s(self) -> float:
        return self._now_us / 1_000_000

    def advance(self, by: timedelta) -> None:
        self._now_us += by // timedelta(microseconds=1)


def to_us(instant: datetime) -> int:
    """Return an aware datetime as whole microseconds since 1970-01-01 UTC, exactly (no float on the way)."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def from_us(microseconds: int) -> datetime:
    """Return microseconds since 1970-01-01 as an aware datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def iso_utc(instant: datetime) -> str:
    """Return `2026-10-01T00:00:00Z`, with microseconds only where there are any."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
