"""The SQL engine against the oracle, over meters of every kind, held units, corrections and use told too late."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.properties.checks import check_order_and_duplicates, check_pieces, check_same_lines
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_rating import CUTS
from tests.properties.wide_worlds import wide_worlds


@holds(10, world=wide_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(2, world=wide_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


@holds(2, world=wide_worlds(), seed=st.integers(0, 1000))
def TestOrderAndDuplicatesChangeNothing(world: World, seed: int) -> None:
    check_order_and_duplicates(world, seed)
