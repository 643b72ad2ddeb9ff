"""Aggregation against the oracle, over any meter, any selector and any events."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from tests.properties.proof import holds
from tests.properties.strategies import seeds
from tests.properties.usages import Question, check_same_usage, engine_usage, question_of

QUESTIONS = st.builds(question_of, seeds(), st.integers(1, 6), st.integers(1, 10), st.integers(0, 60))


@holds(20, asked=QUESTIONS)
def TestUsageIsTheOracles(asked: Question) -> None:
    check_same_usage(asked)


@holds(5, asked=QUESTIONS, seed=st.integers(0, 1000))
def TestOrderOfStorageChangesNothing(asked: Question, seed: int) -> None:
    shuffled = random.Random(seed).sample(asked.events, len(asked.events))
    assert engine_usage(asked._replace(events=shuffled)) == engine_usage(asked)


@holds(5, asked=QUESTIONS)
def TestSiblingsAndTheirDefaultAreTheWhole(asked: Question) -> None:
    """Every event goes to exactly one of the siblings: with a default among them, their counts are those of the meter."""
    meters = {row["meter"]["name"]: row["meter"] for row in asked.selectors}
    plain = {"where": {}, "by": [], "cell_by": [], "bucket": None}
    counted = [
        {**row, "meter": {"name": row["meter"]["name"], "aggregation": "count"}, "sibling": "all", "bucket": None}
        for row in asked.selectors
    ]
    counted += [
        {**plain, "id": f"rest {name}", "meter": {"name": name, "aggregation": "count"}, "sibling": "all"}
        for name in meters
    ]
    whole = [
        {**plain, "id": f"whole {name}", "meter": {"name": name, "aggregation": "count"}, "sibling": None}
        for name in meters
    ]
    split, unsplit = (engine_usage(asked._replace(selectors=rows)) for rows in (counted, whole))
    for mine, all_of_it in zip(split, unsplit, strict=True):
        assert sum(count for count, _ in mine.values()) == sum(count for count, _ in all_of_it.values())
