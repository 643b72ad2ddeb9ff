"""A maximum holds on paper: what the lines it covers come to is never more than the maximum, rounded as they are."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import NamedTuple

import pytest

from tests import oracle, oracle_adjust, oracle_dialect
from tests.oracle import Line, LineKey
from tests.properties.capped_worlds import capped_world_of, capped_worlds
from tests.properties.checks import check_pieces, check_same_lines, lines_differ
from tests.properties.mutated import RATING, mutate
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_rating import CUTS
from tests.rated import engine_lines

WORLDS = 24


def check_paper(world: World) -> None:
    """Look at the paper alone: no line is raised or falls below zero for a maximum, and none is lowered for nothing."""
    lines = engine_lines(*world)
    bare = [{**plan, "maximums": [], "minimums": []} for plan in world.catalog["plans"]]
    free = engine_lines({**world.catalog, "plans": bare}, world.events, world.month)
    for subscription, plan, period in oracle.rated_periods(world.catalog, world.month):
        of_span = {
            key: line.amount for key, line in lines.items() if key[:2] == (subscription["id"], period.service_start)
        }
        was = {key: free[key].amount for key in of_span if key in free}
        zero = Decimal(0)
        assert all(min(zero, amount) <= of_span[key] <= max(amount, zero) for key, amount in was.items())
        assert all(of_span[key] == amount for key, amount in was.items() if amount <= 0)
        holding = [_left(plan, one, subscription, period, of_span) for one in plan["maximums"]]
        assert all(left >= 0 for left, _ in holding)
        if len(holding) == 1 and oracle_dialect.answer(plan, "round_at") != "component":
            # One maximum: the paper is what it was, or exactly the maximum.
            [(left, prices)] = holding
            taken = oracle.add(*(amount - of_span[key] for key, amount in was.items() if key[2] in prices))
            assert taken == max(taken - left, 0)


def _left(
    plan: oracle.Row, one: oracle.Row, subscription: oracle.Row, period: oracle.Period, paper: dict[LineKey, Decimal]
) -> tuple[Decimal, list[str]]:
    """Return what a maximum leaves above the lines it covers, and their prices."""
    span = oracle_adjust.Span(subscription, plan, period)
    prices = one.get("prices") or span.ids
    most = oracle_adjust.amount_of(one, span, prorate=False)
    rounded = oracle.round_fraction(most, oracle.MINOR_DIGITS.get(plan["currency"], 2))
    return rounded - oracle.add(*(amount for key, amount in paper.items() if key[2] in prices)), prices


@holds(16, world=capped_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(16, world=capped_worlds())
def TestThePaperAddsUpToNoMore(world: World) -> None:
    check_paper(world)


@holds(4, world=capped_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


class Mutant(NamedTuple):
    find: str
    replace: str


MUTANTS = {
    "lines are measured exactly": Mutant("round_amount(exact_amount, minor_per_major, minor_unit) AS amount",
        "exact_amount AS amount"),
    "the maximum is measured exactly": Mutant("ELSE round_amount(exact_maximum, minor_per_major, minor_unit)",
        "ELSE exact_maximum"),
    "the maximum is rounded where components are": Mutant("WHEN rounds_components THEN exact_maximum", "WHEN false THEN 0"),
    "the maximum is measured on the gross": Mutant("JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'discount:%') AS charge USING (span_id)"),
    "a maximum sees nothing of those before it": Mutant("JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'maximum:%') AS charge USING (span_id)"),
    "a maximum covers every price": Mutant(" AND adjust_scope.price_id = charge.price_id", ""),
    "the first lines are lowered first": Mutant("ORDER BY position DESC, group_key DESC ROWS",
        "ORDER BY position, group_key ROWS"),
    "groups are lowered from the first on": Mutant("ORDER BY position DESC, group_key DESC ROWS",
        "ORDER BY position DESC, group_key ROWS"),
    "every line has the maximum for itself": Mutant("sum(amount) OVER (PARTITION BY span_id)", "amount"),
    "a credit makes no room": Mutant("sum(amount) OVER (PARTITION BY span_id)",
        "sum(greatest(amount, 0)) OVER (PARTITION BY span_id)"),
    "a credit takes part of what is above": Mutant("sum(greatest(amount, 0)) OVER (\n", "sum(amount) OVER (\n"),
    "a credit is lowered too": Mutant("least(greatest(amount, 0), greatest(above - taken_before, 0)) AS taken",
        "greatest(above - taken_before, 0) AS taken"),
    "a line keeps what it is beyond a minor unit": Mutant("(amount - taken - exact_amount)", "(-taken)"),
}  # fmt: skip


@cache
def worlds() -> list[tuple[World, dict[LineKey, Line]]]:
    made = [capped_world_of(seed, 3, 6, 20) for seed in range(WORLDS)]
    return [(world, oracle.lines(*world)) for world in made]


def is_caught() -> bool:
    return lines_differ(worlds())


def test_without_a_mutant_nothing_is_caught() -> None:
    assert not is_caught()


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, "rating", "adjust_maximum", *mutant, RATING)
    assert is_caught()
