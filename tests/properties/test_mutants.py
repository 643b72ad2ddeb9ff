"""Every rule of the SQL, broken on purpose, is caught by the properties.

A mutant is one textual replacement in one .sql file. The worlds and the oracle's answers are made once; each mutant is
rated over them until a property fails. A mutant that survives says that the properties look away from a rule; one whose
text is not found any more says that the SQL was rewritten and the mutant has to be rewritten with it.
"""

from __future__ import annotations

from functools import cache
from itertools import count, islice
from typing import NamedTuple

import pytest

from rating.errors import RatingError
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.adjust_mutants import ADJUST_MUTANTS
from tests.properties.checks import check_pieces, check_same_lines
from tests.properties.many_worlds import lines_of, together
from tests.properties.mutated import RATING, USAGE, fails, mutate
from tests.properties.strategies import MONTHS, World, world_of

# The worlds of a file are made by the first test that needs them; on a crowded machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

BATCHES = 6
BUSY_WORLDS = 24
SMALL_WORLDS = 40
# The statements that rating at once does not run, or not visibly.
BOOKING = frozenset({"booked_charge", "booked_line", "charge_to_book", "line_to_book"})


class Mutant(NamedTuple):
    package: str
    file: str
    find: str
    replace: str


# The end of the state of the last event; that of the first one before it reads the same.
_REST_OF_THE_LAST = (
    "        {},\n        segment: event.segment,\n        row: event.row,\n        quantity: event.quantity\n"
    "    }}) FILTER (asked.by_order) AS last_event"
)
MUTANTS = {
    "a volume edge belongs to the next tier": Mutant(
        "rating", "holds_quantity", "OR quantity <= upper_bound)", "OR quantity < upper_bound)"
    ),
    "zero usage is in no volume tier": Mutant(
        "rating",
        "holds_quantity",
        "(quantity > lower_bound OR tier_number = 1)",
        "quantity > lower_bound",
    ),
    "the first graduated flat amount waits for usage": Mutant(
        "rating", "charge_graduated", "(tier = 1 AND is_first_group)", "(tier = 1 AND is_first_group AND tiers_to > 0)"
    ),
    "a later graduated flat amount is due at the edge": Mutant(
        "rating", "charge_graduated", "tiers_to > lower_bound AND", "tiers_to >= lower_bound AND"
    ),
    "graduated units are counted from zero": Mutant(
        "rating", "charge_graduated", "- greatest(lower_bound, tiers_from)", "- tiers_from"
    ),
    "a full package starts the next one": Mutant("rating", "packages_of", "::HUGEINT - 1 END", "::HUGEINT END"),
    "a started package is free": Mutant(
        "rating", "packages_of", "ELSE (package_size * 1000000000)::HUGEINT - 1 END", "ELSE 0 END"
    ),
    "rounding is half even": Mutant(
        "rating",
        "rounding",
        "floor(abs(exact_amount) * minor_per_major + 0.5)",
        "round_even(abs(exact_amount) * minor_per_major, 0)",
    ),
    "rounding is down": Mutant("rating", "rounding", "minor_per_major + 0.5)", "minor_per_major)"),
    "rounding is half up": Mutant(
        "rating",
        "rounding",
        "(sign(exact_amount)::DECIMAL(1, 0)\n        * (floor(abs(exact_amount)",
        "(1\n        * (floor((exact_amount)",
    ),
    "negative usage is worth negative money": Mutant(
        "rating", "rated_usage", "greatest(usage.quantity, 0)", "(usage.quantity)"
    ),
    "flat amounts are never prorated": Mutant(
        "rating", "charge_flat", "    flat_amount.exact_amount\n", "    flat_amount.amount\n"
    ),
    "flat amounts in arrears are due at once": Mutant(
        "rating",
        "charge_flat",
        "price.due = 'end' AND billing_span.period_end <= $as_of)",
        "price.due = 'end' AND $as_of IS NOT NULL)",
    ),
    "flat parts in arrears are due at once": Mutant(
        "rating",
        "charge_flat_part",
        "flat_part.starts_at <= $as_of)\n    OR (price.due = 'end' AND billing_span.period_end <= $as_of)",
        "flat_part.starts_at <= $as_of)\n    OR (price.due = 'end' AND $as_of IS NOT NULL)",
    ),
    "volume is booked at any cut": Mutant(
        "rating",
        "rated_usage",
        "price.due = 'end' AND billing_span.period_end <= $as_of",
        "price.due = 'end' AND $as_of IS NOT NULL",
    ),
    "bookings are not subtracted from lines": Mutant(
        "rating", "line_to_book", "cumulative_amount - coalesce(booked_line.amount, 0)", "cumulative_amount"
    ),
    "a component without an amount makes no line": Mutant(
        "rating", "line_to_book", "SEMI JOIN charge_to_book", "ANTI JOIN charge_to_book"
    ),
    "only the largest booking of a line counts": Mutant("rating", "booked_line", "sum(amount)", "max(amount)"),
    "only the largest booking of a component counts": Mutant(
        "rating", "booked_charge", "sum(quantity)", "max(quantity)"
    ),
    "vanished components are not reversed": Mutant("rating", "charge_to_book", "FULL OUTER JOIN", "LEFT JOIN"),
    "periods are closed at their end": Mutant(
        "metering", "added_state", "event.event_time < span.service_end", "event.event_time <= span.service_end"
    ),
    "periods are open at their start": Mutant(
        "metering", "added_state", "event.event_time >= span.service_start", "event.event_time > span.service_start"
    ),
    "usage of other tenants counts": Mutant("metering", "added_state", "span.tenant_id = event.tenant_id", "true"),
    "duplicates count": Mutant("metering", "duplicate", "WHERE place > 1", "WHERE false"),
    "duplicates are found and kept": Mutant("metering", "stored_once", "ANTI JOIN duplicate", "LEFT JOIN duplicate"),
    "the last of a key wins": Mutant(
        "metering", "duplicate", "ORDER BY recorded_at, producer_id", "ORDER BY recorded_at DESC, producer_id"
    ),
    "a key is one over all meters": Mutant(
        "metering",
        "duplicate",
        "PARTITION BY tenant_id, meter, idempotency_key",
        "PARTITION BY tenant_id, idempotency_key",
    ),
    "a key is one over all tenants": Mutant(
        "metering", "duplicate", "PARTITION BY tenant_id, meter, idempotency_key", "PARTITION BY meter, idempotency_key"
    ),
    "the first event is the last": Mutant(
        "metering", "answer_ordered", "max(last_event).quantity", "min(last_event).quantity"
    ),
    "last follows the producer, not the time it was recorded": Mutant(
        "metering",
        "ordered_state",
        "recorded_at: event.recorded_at,\n" + _REST_OF_THE_LAST.format("producer_id: event.producer_id"),
        "producer_id: event.producer_id,\n" + _REST_OF_THE_LAST.format("recorded_at: event.recorded_at"),
    ),
    "maximum and minimum are one": Mutant("metering", "answer", "max(quantity_max)", "min(quantity_min)"),
    "unique values are counted as often as they come": Mutant(
        "metering", "answer_distinct", "count(DISTINCT present.value)", "count(present.value)"
    ),
    "a group without events has a row": Mutant(
        "metering", "usage", "(len(selector.group_attributes) = 0 AND", "(true OR"
    ),
    "a price without groups needs an event": Mutant(
        "metering", "usage", "(len(selector.group_attributes) = 0 AND", "(false AND"
    ),
    "a missing group value is empty text": Mutant("metering", "selection", "'null')", "'\"\"')"),
    "one matching filter is enough": Mutant(
        "metering",
        "selection",
        "coalesce(met.attributes_met, 0) = coalesce(required.attributes_required, 0)",
        "(required.attributes_required IS NULL OR met.attributes_met > 0)",
    ),
    "filters do not filter": Mutant(
        "metering", "selection", "coalesce(met.attributes_met, 0) = coalesce(required.attributes_required, 0)", "true"
    ),
    "included units are taken off before the conversion": Mutant(
        "rating",
        "rated_usage",
        "greatest(usage.quantity, 0)::",
        "greatest(usage.quantity - coalesce(price.included, 0), 0)::",
    ),
    "included units are charged": Mutant(
        "rating",
        "rated_usage",
        "coalesce(tiers_end, converted_quantity))::DECIMAL(38, 9) AS quantity",
        "converted_quantity)::DECIMAL(38, 9) + included_quantity AS quantity",
    ),
    "tiers are reached by the included units too": Mutant(
        "rating",
        "rated_usage",
        "coalesce(tiers_end, converted_quantity))::DECIMAL(38, 9)\n        AS tiers_reached",
        "converted_quantity)::DECIMAL(38, 9) + included_quantity AS tiers_reached",
    ),
    "each group has the whole pool": Mutant(
        "rating", "rated_usage_pooled", "greatest(included - converted_before, 0)", "included"
    ),
    "groups climb the tiers alone": Mutant(
        "rating", "rated_usage_pooled", "THEN quantity_before ELSE 0", "THEN 0 ELSE 0"
    ),
    "the group alone reaches its volume tier": Mutant(
        "rating", "rated_usage_pooled", "THEN quantity_of_all WHEN", "THEN quantity WHEN"
    ),
    "every group has the first flat amount": Mutant(
        "rating", "rated_usage_pooled", "NOT tiers_are_pooled OR place = 1", "true"
    ),
    "a conversion up begins a step too many": Mutant(
        "rating", "convert_quantity", "* numerator + denominator - 1)", "* numerator + denominator)"
    ),
    "a conversion rounds half down": Mutant(
        "rating", "convert_quantity", "* numerator + denominator)", "* numerator + denominator - 1)"
    ),
    "a conversion forgets its steps": Mutant("rating", "convert_quantity", ") * step", ")"),
    "a full package counts as a started one": Mutant(
        "rating", "packages_of", "WHEN 'down' THEN 0 ", "WHEN 'down' THEN 1 "
    ),
    "minimum and maximum are swapped": Mutant("rating", "limited_amount", "coalesce(maximum::", "coalesce(minimum::"),
    "what a limit changes is lost": Mutant(
        "rating",
        "charge_graduated",
        "WHERE limit_amount <> 0",
        "WHERE false",
    ),
    "a graduated flat amount is due to each group beyond the edge": Mutant(
        "rating", "charge_graduated", "tiers_to > lower_bound AND tiers_from <= lower_bound", "tiers_to > lower_bound"
    ),
    "packages of a tier are counted over all tiers": Mutant(
        "rating", "charge_graduated", "packages_of(quantity_in_tier,", "packages_of(tiers_to - tiers_from,"
    ),
    "a fixed amount is due once, not per event": Mutant(
        "rating", "charge_percentage", "event_count::DECIMAL(38, 9) AS events", "1::DECIMAL(38, 9) AS events"
    ),
    "an event that ends exactly on the free units is charged": Mutant(
        "rating",
        "charge_percentage_by_event",
        "quantity_so_far <= coalesce(free_units",
        "quantity_so_far < coalesce(free_units",
    ),
    "free events are one too many": Mutant(
        "rating",
        "charge_percentage_by_event",
        "place <= coalesce(free_events, place)",
        "place <= coalesce(free_events + 1, place)",
    ),
    "the rest of the free units is lost": Mutant(
        "rating", "charge_percentage_by_event", "THEN greatest(free_units - (quantity_so_far - quantity), 0)", "THEN 0"
    ),
    "free units outlive the free events": Mutant(
        "rating",
        "charge_percentage_by_event",
        "WHEN is_open THEN greatest",
        "WHEN free_units IS NOT NULL THEN greatest",
    ),
    "events are walked through as they were recorded": Mutant(
        "rating",
        "charge_percentage_by_event",
        "ORDER BY event.event_time, event.recorded_at",
        "ORDER BY event.recorded_at, event.event_time",
    ),
    "a limit comes before the fixed amount": Mutant(
        "rating",
        "charge_percentage_by_event",
        "limited_amount(plain_amount, event_minimum, event_maximum) - plain_amount",
        "limited_amount(plain_amount - fixed_amount, event_minimum, event_maximum) + fixed_amount - plain_amount",
    ),
    "a cell that no one names is free": Mutant(
        "rating",
        "charge_matrix",
        "usage.quantity * coalesce(cell.unit_price, price.default_unit_price) AS exact_amount",
        "usage.quantity * coalesce(cell.unit_price, 0) AS exact_amount",
    ),
    "a price is read as far as it goes": Mutant(
        "rating",
        "charge_dynamic",
        "regexp_full_match(carried_text, price.carried_pattern)",
        "try_cast(carried_text AS DECIMAL(24, 12)) IS NOT NULL",
    ),
    "the multiplier is forgotten": Mutant(
        "rating", "charge_dynamic", "(carried_price * price.multiplier)", "(carried_price)"
    ),
    "a carried amount is one per cell": Mutant(
        "rating", "charge_dynamic", "event_count::DECIMAL(38, 9) AS events", "1::DECIMAL(38, 9) AS events"
    ),
    "every unit weighs the same": Mutant(
        "rating",
        "usage_weighted",
        "coalesce(cell.weight, price.default_weight, 0)",
        "coalesce(price.default_weight, 0)",
    ),
    "a weighted price needs an event": Mutant(
        "rating", "usage_weighted", "usage.span_id IS NOT NULL OR NOT price.has_groups", "usage.span_id IS NOT NULL"
    ),
}


@cache
def busy_worlds(batch: int) -> tuple[World, dict[LineKey, Line]]:
    """Return full worlds of one month, together, and the oracle's lines; made once for all mutants."""
    month = MONTHS[batch % len(MONTHS)]
    made = (world_of(seed, plans=2, prices=8, events=120) for seed in count(batch * 1000))
    worlds = list(islice((world for world in made if world.month == month), BUSY_WORLDS))
    return together(worlds), lines_of(worlds)


@cache
def small_worlds() -> World:
    """Return worlds of one plan with few billing periods in one month, together."""
    made = (world_of(seed, plans=1, prices=8, events=20) for seed in count())
    few = (
        world
        for world in made
        if world.month == "2026-03" and 0 < len(list(oracle.rated_periods(world.catalog, world.month))) < 6
    )
    return together(list(islice(few, SMALL_WORLDS)))


def is_caught(*, by_pieces: bool) -> bool:
    """Return whether a property fails: that of the lines, or, for what only matters to booking, that of the pieces."""

    def check() -> None:
        if by_pieces:
            check_pieces(small_worlds(), [(0.3, 0.4), (0.6, 0.95)])
        else:
            for batch in range(BATCHES):
                check_same_lines(*busy_worlds(batch))

    return fails(check, ValueError, RatingError)


@pytest.mark.parametrize("by_pieces", [False, True], ids=["lines", "pieces"])
def test_without_a_mutant_nothing_is_caught(by_pieces: bool) -> None:
    assert not is_caught(by_pieces=by_pieces)


ALL_MUTANTS = MUTANTS | {name: Mutant(*one) for name, one in ADJUST_MUTANTS.items()}


@pytest.mark.parametrize("mutant", ALL_MUTANTS.values(), ids=ALL_MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, *mutant, (*USAGE, *RATING))
    assert is_caught(by_pieces=mutant.file in BOOKING or "$as_of" in mutant.replace)
