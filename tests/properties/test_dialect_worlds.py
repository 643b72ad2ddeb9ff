"""The SQL engine against the oracle, over plans that read their terms as other billing systems do."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.properties.checks import check_order_and_duplicates, check_pieces, check_same_lines
from tests.properties.dialect_worlds import dense_worlds, dialect_worlds
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_rating import CUTS


@holds(5, world=dialect_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(20, world=dense_worlds())
def TestEngineIsOracleOfOneSwitch(world: World) -> None:
    check_same_lines(world)


@holds(1, world=dialect_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


@holds(1, world=dialect_worlds(), seed=st.integers(0, 1000))
def TestOrderAndDuplicatesChangeNothing(world: World, seed: int) -> None:
    check_order_and_duplicates(world, seed)
