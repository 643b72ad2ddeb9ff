"""Shares add up; the numbers are those of the price models, section 7."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.allocation import allocate, allocate_capped, allocate_exactly, carry_residue
from rating.rounding import round_fraction


def texts(*numbers: str) -> list[Decimal]:
    return [Decimal(number) for number in numbers]


@pytest.mark.parametrize(
    ("amount", "weights", "digits", "shares"),
    [
        ("10.00", ("1", "1", "1"), 2, ("3.34", "3.33", "3.33")),
        ("0.01", ("90", "1"), 2, ("0.01", "0.00")),
        ("-10.00", ("1", "1", "1"), 2, ("-3.34", "-3.33", "-3.33")),
        ("0.005", ("1", "1"), 2, ("0.01", "0.00")),
        ("100", ("1", "1", "1"), 0, ("34", "33", "33")),
        ("0.0005", ("1", "1"), 4, ("0.0003", "0.0002")),
        ("0", ("1", "2"), 2, ("0.00", "0.00")),
    ],
)
def test_the_largest_remainders_get_what_the_floors_leave(
    amount: str, weights: tuple[str, ...], digits: int, shares: tuple[str, ...]
) -> None:
    found = allocate(Decimal(amount), texts(*weights), digits)
    assert [str(share) for share in found] == list(shares)


def test_a_negative_share_keeps_all_its_digits() -> None:
    """A minus sign alone would leave 28 of them."""
    exact = Fraction(-(10**38 - 1), 10**21)
    assert Fraction(round_fraction(exact, 21)) == exact


def test_equal_remainders_are_served_by_key_when_asked() -> None:
    assert allocate(Decimal("0.05"), texts("1", "1", "1"), 2, ties=["C", "A", "B"]) == texts("0.01", "0.02", "0.02")


@pytest.mark.parametrize("weights", [[], ["0"], ["1", "-1"]])
def test_weights_are_above_zero(weights: list[str]) -> None:
    with pytest.raises(ValueError, match="above zero"):
        allocate(Decimal(1), texts(*weights), 2)


@pytest.mark.parametrize(
    ("amount", "weights", "digits", "shares"),
    [
        ("10.015", ("1", "1", "1"), 2, ("3.340", "3.340", "3.335")),
        ("-10.015", ("1", "1", "1"), 2, ("-3.340", "-3.340", "-3.335")),
        ("0.001", ("90", "1"), 2, ("0.001", "0.000")),
        ("0.5", ("1", "90"), 0, ("0.0", "0.5")),
        ("10", ("1", "1", "1"), 2, ("3.34", "3.33", "3.33")),
    ],
)
def test_a_part_of_a_minor_unit_stays_whole(
    amount: str, weights: tuple[str, ...], digits: int, shares: tuple[str, ...]
) -> None:
    found = allocate_exactly(Decimal(amount), texts(*weights), digits)
    assert [str(share) for share in found] == list(shares)


@given(
    amount=st.decimals(-(10**16), 10**16, places=21),
    weights=st.lists(st.decimals("0.000000000000000000001", 10**6, places=21), min_size=1, max_size=9),
    digits=st.integers(0, 4),
)
def test_exact_shares_add_up_to_the_last_digit(amount: Decimal, weights: list[Decimal], digits: int) -> None:
    shares = allocate_exactly(amount, weights, digits)
    assert sum(map(Fraction, shares)) == Fraction(amount)
    of_all = sum(map(Fraction, weights))
    for share, weight in zip(shares, weights, strict=True):
        assert abs(Fraction(share) - Fraction(amount) * Fraction(weight) / of_all) <= Fraction(1, 10**digits)


def test_a_discount_takes_no_more_than_there_is() -> None:
    assert allocate_capped(Decimal(20), texts("10", "0", "5"), 2) == texts("10", "0", "5")
    assert allocate_capped(Decimal(5), texts("10", "5"), 2) == texts("3.33", "1.67")
    assert allocate_capped(Decimal(5), texts("0", "0"), 2) == texts("0", "0")


cents = st.integers(-(10**9), 10**9).map(lambda number: Decimal(number).scaleb(-2))
weights = st.lists(st.integers(1, 10**12).map(lambda number: Decimal(number).scaleb(-3)), min_size=1, max_size=20)


@given(cents, weights)
def test_shares_add_up_and_are_less_than_a_unit_from_their_exact_share(amount: Decimal, by: list[Decimal]) -> None:
    shares = allocate(amount, by, 2)
    assert sum(shares) == amount
    for share, weight in zip(shares, by, strict=True):
        assert abs(share * sum(by) - amount * weight) < Decimal("0.01") * sum(by)


@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(1, 10**4))
def test_what_was_sent_and_what_is_carried_is_all_there_is(pieces: list[int], unit: int) -> None:
    cumulative = sent = carried = Decimal(0)
    for piece in pieces:
        cumulative += Decimal(piece).scaleb(-4)
        now, carried = carry_residue(cumulative, sent, Decimal(unit).scaleb(-2))
        sent += now
        assert sent + carried == cumulative
        assert 0 <= carried < Decimal(unit).scaleb(-2)


def test_thirty_hours_of_less_than_a_unit_are_sent() -> None:
    sent = Decimal(0)
    for hour in range(1, 31):
        now, carried = carry_residue(hour * Decimal("0.007"), sent, Decimal("0.01"))
        sent += now
    assert (sent, carried) == (Decimal("0.21"), 0)
