"""Every rule of aggregation, broken on purpose, is caught by the questions of usages.py. See test_mutants.py for the idea."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest

from metering.errors import MeteringError
from tests.oracle_usage import Rows
from tests.properties.mutated import USAGE, fails, mutate
from tests.properties.usages import Question, check_same_usage, oracle_rows, question_of

# The worlds of a file are made by the first test that needs them; on a crowded machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

QUESTIONS = 60


class Mutant(NamedTuple):
    file: str
    find: str
    replace: str


MUTANTS = {
    "an average rounds down": Mutant("divide_half_away", "2 * (abs(dividend) % divisor) >= divisor", "false"),
    "a half is rounded up, not away": Mutant("divide_half_away", "THEN -1 ELSE 1", "THEN 0 ELSE 1"),
    "the first event is the last": Mutant("answer_ordered", "min(first_event).quantity", "max(first_event).quantity"),
    "a level is the mean of the service period": Mutant(
        "answer_ordered",
        "epoch_us(span.period_end) - epoch_us(span.period_start)",
        "epoch_us(span.service_end) - epoch_us(span.service_start)",
    ),
    "the level at the start is forgotten": Mutant("part_state_carried", "WHEN asked.by_time THEN", "WHEN false THEN"),
    "an event at the start is carried": Mutant(
        "part_state_carried", "event.event_time < span.service_start", "event.event_time <= span.service_start"
    ),
    "carried events are counted": Mutant("part_state_carried", "0 AS event_count", "count(*) AS event_count"),
    "a level lasts beyond the service period": Mutant("answer_level", "1, span.service_end)", "1, span.period_end)"),
    "of levels of one instant any wins": Mutant(
        "answer_level",
        "changed.event_count, changed.recorded_at, changed.producer_id",
        "changed.event_count, changed.producer_id",
    ),
    "what was removed is in": Mutant("answer_operations", "last_operation <> 'remove'", "true"),
    "what is neither is removed": Mutant("answer_operations", "<> 'remove'", "= 'add'"),
    "an event without a key is a key": Mutant("answer_operations", "key IS NOT NULL AND ", ""),
    "the date of an event is not one of its days": Mutant(
        "answer_sum_by_day", "span_day.first_day) + 1)", "span_day.first_day))"
    ),
    "days are those of the service period": Mutant(
        "answer_sum_by_day", "span_day.full_days\n", "span_day.last_day - span_day.first_day + 1 AS full_days\n"
    ),
    "a key removed on a date is not in on it": Mutant("answer_unique_by_day", "(is_added OR was_in)", "is_added"),
    "a key added and removed on a date is not in on it": Mutant(
        "answer_unique_by_day", "(is_added OR was_in)", "(stays OR was_in)"
    ),
    "a key is in on the dates of its events only": Mutant("answer_unique_by_day", "next_day - day - 1", "0"),
    "rank is the floor": Mutant("answer_bucketed", " + 99999999999) //", ") //"),
    "empty buckets come first": Mutant(
        "answer_bucketed", "CASE WHEN counted.value >= 0 THEN buckets_empty ELSE 0 END", "buckets_empty"
    ),
    "a skipped bucket is zero": Mutant("answer_bucketed", "WHEN selector.empty_is_zero", "WHEN true"),
    "a bucket at the end is not counted": Mutant("span_bucket", "opened.first_number + 1", "opened.first_number"),
    "the last stretch must be whole": Mutant("span_bucket", "length_us + 1 AS", "length_us AS"),
    "a bucket is open at its start": Mutant(
        "part_state_calendar",
        "placed.event_time >= time_bucket.bucket_start",
        "placed.event_time > time_bucket.bucket_start",
    ),
    "ceil goes away from zero": Mutant(
        "round_quantity", "HUGEINT % step) % step)\n        WHEN 'floor'", "HUGEINT % step))\n        WHEN 'floor'"
    ),
    "siblings share": Mutant("selection", ") = 1\n", ") >= 1\n"),
    "any value beats listed ones": Mutant("selection", "of_any_value, position", "of_any_value DESC, position"),
    "the first sibling wins": Mutant(
        "selection", "ORDER BY attributes_required DESC, of_any_value, position", "ORDER BY position"
    ),
    "cells of a line are gathered as one": Mutant(
        "selection",
        "matching.selector_id, group_key, cell_key) AS taking",
        "matching.selector_id, group_key) AS taking",
    ),
    "a group of nothing has a row": Mutant("usage", "OR answer.quantity <> 0", "OR answer.quantity IS NOT NULL"),
    "a carried group needs an event": Mutant("usage", "    OR answer.quantity <> 0\n", ""),
    "the meter does not round": Mutant(
        "usage", "round_quantity(answer.quantity, selector.rounding, selector.rounding_step)", "answer.quantity"
    ),
}


@cache
def asked(seed: int) -> tuple[Question, list[Rows]]:
    question = question_of(seed, meters=12, selectors=30, events=250)
    return question, oracle_rows(question)


def is_caught() -> bool:
    def check() -> None:
        for seed in range(QUESTIONS):
            check_same_usage(*asked(seed))

    return fails(check, MeteringError)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "metering", *mutant, USAGE)
    assert is_caught()
