"""How far an account is on its way to the next early invoice, by hand; the crossing itself is in tests/tallybook."""

from __future__ import annotations

from decimal import Decimal

import pytest

from rating.thresholds import thresholds_ahead, thresholds_passed


def steps(amounts: tuple[int, ...], every: int | None, worth: str) -> list[tuple[str, str]]:
    fixed = tuple(Decimal(amount) for amount in amounts)
    ahead = thresholds_ahead(fixed, None if every is None else Decimal(every), Decimal(worth))
    return [(f"{step.amount:f}", f"{step.ratio.normalize():f}") for step in ahead]


@pytest.mark.parametrize(
    ("amounts", "every", "worth", "expected"),
    [
        ((100, 200), None, "120", [("100", "1"), ("200", "0.2")]),
        ((100, 200, 300), None, "120", [("100", "1"), ("200", "0.2"), ("300", "0")]),
        ((100,), 200, "723", [("100", "1"), ("300", "1"), ("500", "1"), ("700", "1"), ("900", "0.115")]),
        ((), 30, "10", [("30", "0.333333333")]),
        ((), 30, "30", [("30", "1"), ("60", "0")]),
        ((100,), 200, "-5", [("100", "0"), ("300", "0")]),
    ],
)  # fmt: skip
def test_every_step_and_how_far_it_is(
    amounts: tuple[int, ...], every: int | None, worth: str, expected: list[tuple[str, str]]
) -> None:
    assert steps(amounts, every, worth) == expected


def test_what_is_reached_is_what_passing_finds() -> None:
    """Both count recurrences from the largest fixed threshold: 50, then every 100 is 50, 150, 250."""
    fixed, every = (Decimal(50),), Decimal(100)
    for worth in range(0, 400, 7):
        reached = [step.amount for step in thresholds_ahead(fixed, every, Decimal(worth)) if step.ratio == 1]
        passed = thresholds_passed(fixed, every, Decimal(0), Decimal(worth))
        assert set(passed) <= set(reached)
        assert (max(reached, default=None)) == (max(passed, default=None))
