"""The SQL engine against the oracle, over commitments; and which lines a commitment is used up by changes no sum."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import count, islice
from typing import Any, NamedTuple

import pytest

from rating.errors import RatingError
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.checks import check_pieces, check_same_lines
from tests.properties.committed_worlds import committed_world_of, committed_worlds
from tests.properties.mutated import RATING, USAGE, fails, mutate
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_rating import CUTS
from tests.rated import engine_lines

# The worlds of a file are made by the first test that needs them; on a crowded machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

# Each line of one commitment rounds its part to 21 places.
TINY = Fraction(1, 10**18)
WORLDS = 24


@holds(16, world=committed_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(4, world=committed_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


@holds(8, world=committed_worlds())
def TestTheShareChangesNoSum(world: World) -> None:
    """One commitment that is not rounded on the way: its lines add up to the same, in order or in proportion."""

    def sums(share: str) -> dict[Any, Fraction]:
        plans = [
            {**plan, "switches": {}, "commitments": [{**one, "share": share} for one in plan["commitments"][:1]]}
            for plan in world.catalog["plans"]
        ]
        found: dict[Any, Fraction] = {}
        for key, line in engine_lines({**world.catalog, "plans": plans}, world.events, world.month).items():
            if key[2].startswith("p0-") or key[2].startswith("p1-"):
                found[key[:2]] = found.get(key[:2], Fraction(0)) + Fraction(line.exact)
        return found

    in_order, pro_rata = sums("in_order"), sums("pro_rata")
    assert in_order.keys() == pro_rata.keys()
    assert all(abs(in_order[key] - pro_rata[key]) <= TINY for key in in_order)


class Mutant(NamedTuple):
    package: str
    file: str
    find: str
    replace: str


BASE = "adjust_excess_base"
MUTANTS = {
    "what is shared in proportion is taken in order too": Mutant(
        "rating", "adjust_excess", " AND NOT commitment.is_pro_rata", ""
    ),
    "what is in order is shared in proportion too": Mutant("rating", BASE, " AND commitment.is_pro_rata", ""),
    "what pays back bears what is beyond": Mutant(
        "rating", BASE, "sign(net.exact_amount) = sign(added.added_amount) AND ", "net.exact_amount <> 0 AND "
    ),
    "all that is used is beyond": Mutant("rating", BASE, "net_amount - any_value(amount)", "net_amount"),
    "what is not used is given back": Mutant(
        "rating", BASE, "greatest(net_amount - any_value(amount), 0)::DECIMAL(38, 21)", "net_amount - any_value(amount)"
    ),
    "what is beyond is shared over the gross": Mutant(
        "rating", BASE, "JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'discount:%') AS charge USING (span_id)",
    ),
    "a shared commitment covers every line": Mutant(
        "rating", BASE, " AND adjust_scope.price_id = charge.price_id", ""
    ),
    "equal remainders go to the last line": Mutant("rating", BASE, "net.position, net.group_key\n", "net.position DESC\n"),
    "a part of a commitment is lost": Mutant(
        "rating", "adjust_excess_shared", "excess_share.exact_amount <> 0", "excess_share.exact_amount > 1"
    ),
}  # fmt: skip


@cache
def small_worlds() -> list[tuple[World, dict[LineKey, Line]]]:
    """Return worlds with the oracle's lines; made once for all mutants."""
    made = (committed_world_of(seed, 1 + seed % 2, 4, 24) for seed in count())
    lines = ((world, oracle.lines(*world)) for world in made)
    return list(islice(((world, found) for world, found in lines if len(found) > 2), WORLDS))


def is_caught() -> bool:
    def check() -> None:
        for world in small_worlds():
            check_same_lines(*world)

    return fails(check, ValueError, RatingError)


def test_without_a_mutant_nothing_is_caught() -> None:
    assert not is_caught()


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, *mutant, (*USAGE, *RATING))
    assert is_caught()
