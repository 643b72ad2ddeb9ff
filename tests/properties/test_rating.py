"""The SQL engine against the oracle, over any catalog and any events."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from rating.iso4217 import minor_units
from rating.prices import Price
from rating.rate import rate_quantities
from rating.rounding import round_amount
from tests import oracle, oracle_prices
from tests.properties.checks import check_order_and_duplicates, check_pieces, check_same_lines
from tests.properties.proof import holds
from tests.properties.strategies import EDGES, World, prices_alone, worlds

PRICE: TypeAdapter[Any] = TypeAdapter(Price)
TINY = Decimal("0.000000001")
FITS = Decimal(10) ** 13
FRACTION = st.floats(0, 1, exclude_max=True)
CUTS = st.lists(st.tuples(FRACTION, FRACTION), min_size=1, max_size=3)


@holds(16, world=worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(4, world=worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


@holds(4, world=worlds(), seed=st.integers(0, 1000))
def TestOrderAndDuplicatesChangeNothing(world: World, seed: int) -> None:
    check_order_and_duplicates(world, seed)


@holds(8, terms=prices_alone(), currency=st.sampled_from(("USD", "JPY", "KWD")))
def TestQuantitiesAtEveryEdge(terms: list[dict[str, Any]], currency: str) -> None:
    """Every price at every edge, and at the smallest quantity below and above it."""
    quantities = sorted({max(Decimal(0), Decimal(edge) + step) for edge in EDGES for step in (-TINY, 0, TINY)})
    worked_out = [
        (price, quantity, oracle_prices.metered_amount(price, quantity)) for price in terms for quantity in quantities
    ]
    # Units of a billionth, in packages of a billionth: what does not fit is an overflow, and stops the others.
    asked = [one for one in worked_out if abs(one[2]) < FITS]
    checked = [PRICE.validate_python({"id": "p", "meter": "m", **price}) for price, _, _ in asked]
    found = rate_quantities(checked, [quantity for _, quantity, _ in asked], currency=currency)
    for (price, quantity, exact), rated in zip(asked, found, strict=True):
        expected = (exact, oracle.round_half_away(exact, minor_units(currency)))
        assert (price, quantity, rated.exact_amount, rated.amount) == (price, quantity, *expected)
        # More than the 28 digits that decimals have by themselves.
        with localcontext(prec=60):
            assert sum(charge.exact_amount for charge in rated.charges) == exact


@holds(200, amount=st.decimals(-(10**6), 10**6, places=21), digits=st.integers(0, 4))
def TestRoundingIsHalfAwayFromZero(amount: Decimal, digits: int) -> None:
    assert round_amount(amount, digits) == oracle.round_half_away(amount, digits)
    assert round_amount(-amount, digits) == -round_amount(amount, digits)
