"""Whole numbers for providers: no unit is lost on the way, whatever the provider calls minor."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_adapters.minor_units import MinorUnit, to_provider, unit_of


@pytest.mark.parametrize(
    ("currency", "amount", "sent", "carried"),
    [
        ("USD", "12.34", 1234, "0"),
        ("JPY", "500", 500, "0"),
        ("MGA", "12.50", 12, "0.50"),
        ("ISK", "500", 50000, "0"),
        ("UGX", "7", 700, "0"),
        ("KWD", "1.234", 1230, "0.004"),
        ("KWD", "-1.234", -1240, "0.006"),
        ("CLF", "1.2345", 12345, "0"),
    ],
)
def test_amounts_as_stripe_takes_them(currency: str, amount: str, sent: int, carried: str) -> None:
    assert to_provider(Decimal(amount), 0, unit_of(currency, "stripe")) == (sent, Decimal(carried))


def test_an_account_may_differ_and_other_providers_follow_iso() -> None:
    assert unit_of("UGX", "stripe", {"UGX": MinorUnit(0)}) == MinorUnit(0)
    assert unit_of("UGX", "aws") == MinorUnit(0)
    with pytest.raises(KeyError):
        unit_of("XXX", "stripe")


@given(
    st.lists(st.integers(-5000, 5000), max_size=30),
    st.sampled_from([MinorUnit(3, 10), MinorUnit(0), MinorUnit(2, 100)]),
)
def test_what_was_sent_and_what_is_carried_is_the_amount(pieces: list[int], unit: MinorUnit) -> None:
    cumulative, sent, carried = Decimal(0), 0, Decimal(0)
    for piece in pieces:
        cumulative += Decimal(piece).scaleb(-3)
        now, carried = to_provider(cumulative, sent, unit)
        sent += now
        assert now % unit.step == 0
        assert Decimal(sent).scaleb(-unit.digits) + carried == cumulative
        assert 0 <= carried < Decimal(unit.step).scaleb(-unit.digits)
