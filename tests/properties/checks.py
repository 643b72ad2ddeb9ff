"""What must hold of the engine, whatever the catalog and the events. Each check raises AssertionError with the two sides."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rating.errors import AmountOverflow, RatingError
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.mutated import fails
from tests.properties.strategies import World
from tests.rated import AFTER_ALL, Booked, Component, engine_lines

Row = dict[str, Any]


def check_same_lines(world: World, theirs: dict[LineKey, Line] | None = None) -> None:
    """The engine and the oracle give the same lines: quantity, exact amount and rounded amount of each."""
    try:
        ours = engine_lines(*world)
    except AmountOverflow:
        if any(_has_tiny_units(price) for plan in world.catalog["plans"] for price in plan["prices"]):
            return
        raise
    theirs = oracle.lines(*world) if theirs is None else theirs
    assert ours.keys() == theirs.keys()
    for key, line in theirs.items():
        assert (key, ours[key]) == (key, line)


def lines_differ(worlds: Iterable[tuple[World, dict[LineKey, Line]]], *errors: type[Exception]) -> bool:
    """Return whether the lines of some worlds are not the oracle's: by what they say, or by an error that they end with."""

    def check() -> None:
        for world, lines in worlds:
            check_same_lines(world, lines)

    return fails(check, ValueError, RatingError, *errors)


def _has_tiny_units(price: Row) -> bool:
    """Return whether a price is for a millionth of a unit or less: a component of it may leave the digits that are kept."""
    convert = price.get("convert") or {}
    return Decimal(convert.get("multiply", "1")) >= 10**6 or Decimal(convert.get("divide", "1")) <= Decimal("0.000001")


def _lines_or_overflow(world: World) -> dict[LineKey, Line] | None:
    """Return the engine's lines; None where an amount leaves 17 digits, which it says by an error."""
    try:
        return engine_lines(*world)
    except AmountOverflow:
        return None


def check_pieces(world: World, cuts: Sequence[tuple[float, float]]) -> None:
    """Cuts after any prefix of the events, each booked, add up to rating at once; a last look finds nothing to book.

    A cut is two fractions: of the events that are known by then, and of the times at which something becomes due.
    """
    booked, sums, parts = Booked(), {}, {}
    periods = {
        (row["id"], period.service_start): period for row, _, period in oracle.rated_periods(world.catalog, world.month)
    }
    edges = sorted({edge for period in periods.values() for edge in _times(period)})
    # Events arrive and time passes; neither ever goes back.
    known_at = sorted(int(known * len(world.events)) for known, _ in cuts)
    times = sorted(edges[int(time * len(edges))] if edges else AFTER_ALL for _, time in cuts)
    pieces = zip(known_at, times, strict=True)
    for known, as_of in [*pieces, (len(world.events), AFTER_ALL)]:
        for key, (line, components) in booked.book(world.catalog, world.events[:known], world.month, as_of).items():
            sums = oracle.total(sums, {key: line})
            _add(parts.setdefault(key, {}), components)
            assert oracle.add(*(part.exact_amount for part in components)) == line.exact
            _check_due(world.catalog, key[2], periods[key[:2]], as_of)
    at_once = oracle.lines(*world)
    nothing = [key for key, line in sums.items() if line == oracle.NOTHING]
    assert {key: line for key, line in sums.items() if key not in nothing} == {
        key: line for key, line in at_once.items() if line != oracle.NOTHING
    }
    whole = Booked().book(*world)
    for key, booked_parts in parts.items():
        left = {part: numbers for part, numbers in booked_parts.items() if any(numbers)}
        assert left == (_add({}, whole[key][1]) if key in whole else {})
    assert booked.book(*world) == {}


def _times(period: oracle.Period) -> list[datetime]:
    middle = period.service_start + (period.service_end - period.service_start) / 2
    return [period.service_start - timedelta(days=1), middle, period.end - timedelta(microseconds=1), period.end]


def _add(sums: dict[Any, list[Decimal]], components: Sequence[Component]) -> dict[Any, list[Decimal]]:
    for part in components:
        numbers = sums.setdefault((part.cell_key, part.tier, part.part, part.unit_price), [Decimal(0), Decimal(0)])
        numbers[0] = oracle.add(numbers[0], part.quantity)
        numbers[1] = oracle.add(numbers[1], part.exact_amount)
    return sums


def _check_due(catalog: Row, price_id: str, period: oracle.Period, as_of: datetime) -> None:
    """Before the end of its period nothing is booked in arrears or by volume; before it begins, no flat amount at all."""
    prices = {price["id"]: price for plan in catalog["plans"] for price in plan["prices"]}
    if price_id not in prices:
        # What is missing of a minimum is known when the period is over.
        assert as_of >= period.end
        return
    price = prices[price_id]
    if (price["type"] == "volume" and price.get("cut") != "any") or price.get("when") == "in_arrears":
        assert as_of >= period.end
    if price["type"] == "flat":
        assert as_of >= period.service_start


def check_order_and_duplicates(world: World, seed: int) -> None:
    """Neither the order in which events lie in the lake nor saying one again, with any payload, changes a line."""
    chance = random.Random(seed)
    latest = max((event["recorded_at"] for event in world.events), default=None)
    again = [
        {
            **event,
            "quantity": chance.choice((event["quantity"], "7")),
            "event_time": event["event_time"] + timedelta(hours=chance.choice((0, 1, 500))),
            "recorded_at": latest + timedelta(microseconds=1),
            "row": 10_000 + number,
        }
        for number, event in enumerate(world.events)
        if event["idempotency_key"] is not None
    ]
    shuffled = chance.sample([*world.events, *again], len(world.events) + len(again))
    assert _lines_or_overflow(World(world.catalog, shuffled, world.month)) == _lines_or_overflow(world)
