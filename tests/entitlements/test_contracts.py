"""Contracts of a provider: what is included is used first, per licence, dimension and term; what is beyond is the net."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.contracts import Contract, ContractUsage, aws_contracts, net_of, net_of_piece, net_usage
from entitlements.errors import BadContract
from metering.errors import Terminal

ARN = "arn:aws:license-manager::294406891311:license:l-be6aa47ad1d349ca8ac5f7ce2cb2f4e2"
YEAR = datetime(2026, 1, 1, tzinfo=UTC)
NEXT = datetime(2027, 1, 1, tzinfo=UTC)
QUANTITIES = st.decimals(0, 10**6, places=9, allow_nan=False, allow_infinity=False)


def contract(included: str, *, licence: str = ARN, dimension: str = "gb", start: datetime = YEAR) -> Contract:
    return Contract(licence, dimension, start, start.replace(year=start.year + 1), Decimal(included))


def used(quantity: str, day: int = 1, *, licence: str = ARN, dimension: str = "gb") -> ContractUsage:
    return ContractUsage(licence, dimension, YEAR + timedelta(days=day), Decimal(quantity))


@pytest.mark.parametrize(
    ("included", "pieces", "net", "remaining"),
    [
        ("1000", ["400", "500"], "0", "100"),
        ("1000", ["400", "600"], "0", "0"),
        ("1000", ["400", "600.000000001"], "0.000000001", "0"),
        ("1000", ["400", "700", "50"], "150", "0"),
        ("0", ["12.5"], "12.5", "0"),
        ("1000", [], "0", "1000"),
        ("1000", ["1100", "-200"], "0", "100"),
    ],
)
def test_what_is_included_is_used_first(included: str, pieces: list[str], net: str, remaining: str) -> None:
    (done,) = net_usage([contract(included)], [used(piece) for piece in pieces]).contracts
    assert (done.net, done.remaining) == (Decimal(net), Decimal(remaining))
    assert done.included_used + done.net == done.used == sum(map(Decimal, pieces), Decimal(0))


def test_each_licence_dimension_and_term_is_netted_by_itself() -> None:
    other = ARN.replace("l-be", "l-ce")
    contracts = [
        contract("10"), contract("20", start=NEXT), contract("5", dimension="users"), contract("7", licence=other),
    ]  # fmt: skip
    usage = [
        used("12"), used("25", 365), used("3", 366), used("9", dimension="users"), used("7.5", licence=other),
    ]  # fmt: skip
    done = net_usage(contracts, usage)
    nets = {(one.contract.licence[-34:-30], one.contract.dimension, one.contract.starts_at.year): one.net
            for one in done.contracts}  # fmt: skip
    assert nets == {
        ("l-be", "gb", 2026): 2, ("l-be", "gb", 2027): 8, ("l-be", "users", 2026): 4, ("l-ce", "gb", 2026): Decimal("0.5"),
    }  # fmt: skip
    assert done.uncovered == ()


def test_the_last_instant_of_a_term_is_not_in_it_and_what_nothing_covers_is_told() -> None:
    late = ContractUsage(ARN, "gb", NEXT, Decimal(3))
    strange = used("4", dimension="seats")
    done = net_usage([contract("10")], [late, used("1"), strange])
    assert done.uncovered == (late, strange)
    assert done.contracts[0].used == 1


def test_a_licence_is_the_same_without_the_leading_arn() -> None:
    (done,) = net_usage([contract("1")], [used("3", licence=ARN.removeprefix("arn:"))]).contracts
    assert done.net == 2


def test_no_digit_is_lost() -> None:
    """29 digits before the point and 9 behind it are more than Python's decimals keep unasked."""
    included, more = "12345678901234567890123456789.123456789", "12345678901234567890123456789.12345679"
    (done,) = net_usage([contract(included)], [used(more)]).contracts
    least = Decimal("0.000000001")
    assert (done.net, done.included_used, done.remaining) == (least, Decimal(included), 0)
    assert net_of_piece(Decimal(included), Decimal(included), least) == least


def test_two_contracts_for_one_instant_are_refused() -> None:
    second = contract("5", start=YEAR + timedelta(days=364))
    with pytest.raises(BadContract, match=r"two contracts of licence l-be.* end one of them") as refused:
        net_usage([contract("10"), second], [])
    assert isinstance(refused.value, Terminal)


@given(QUANTITIES, st.lists(QUANTITIES, max_size=12))
def test_the_pieces_of_a_term_sum_to_its_net(included: Decimal, pieces: list[Decimal]) -> None:
    before = Decimal(0)
    nets = []
    for piece in pieces:
        nets.append(net_of_piece(included, before, piece))
        before += piece
    assert all(net >= 0 for net in nets)
    assert sum(nets, Decimal(0)) == net_of(included, before) == max(Decimal(0), before - included)


@given(st.lists(st.tuples(st.integers(0, 800), QUANTITIES), max_size=20), QUANTITIES, QUANTITIES)
def test_nothing_is_lost_between_contracts(usage: list[tuple[int, Decimal]], one: Decimal, two: Decimal) -> None:
    contracts = [contract(str(one)), contract(str(two), start=NEXT)]
    done = net_usage(contracts, [used(str(quantity), day) for day, quantity in usage])
    total = sum((quantity for _, quantity in usage), Decimal(0))
    assert sum((part.used for part in done.contracts), Decimal(0)) + sum(
        (part.quantity for part in done.uncovered), Decimal(0)
    ) == total  # fmt: skip
    for part in done.contracts:
        assert part.used == part.included_used + part.net
        assert part.contract.included == part.included_used + part.remaining
        assert part.net == 0 or part.remaining == 0


def entry(**value: Any) -> dict[str, Any]:
    return {
        "ProductCode": "7hsq5lk4ow9nfvyr3dqbs9xpk", "Dimension": "gb", "CustomerAWSAccountId": "111122223333",
        "LicenseArn": ARN, "Value": value, "ExpirationDate": NEXT,
    }  # fmt: skip


def test_entitlements_of_aws_become_contracts() -> None:
    told = [entry(IntegerValue=1000), entry(DoubleValue=0.1) | {"Dimension": "tb"}, entry(BooleanValue=True)]
    assert aws_contracts(told, starts_at=YEAR) == [
        Contract(ARN, "gb", YEAR, NEXT, Decimal(1000)),
        Contract(ARN, "tb", YEAR, NEXT, Decimal("0.1")),
    ]
    assert aws_contracts(told[:1], starts_at={ARN.removeprefix("arn:"): YEAR})[0].starts_at == YEAR


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (entry(), "has 0 values"),
        (entry(IntegerValue=1, BooleanValue=True), "has 2 values"),
        (entry(DoubleValue=float("nan")), "cannot be counted down"),
        (entry(IntegerValue=-1), "cannot be counted down"),
        (entry(IntegerValue=1) | {"LicenseArn": None}, "lacks LicenseArn or Dimension"),
    ],
)
def test_what_cannot_be_read_is_refused(told: dict[str, Any], says: str) -> None:
    with pytest.raises(BadContract, match=says):
        aws_contracts([told], starts_at=YEAR)


def test_the_start_of_a_licence_must_be_known() -> None:
    with pytest.raises(BadContract, match="take it from its agreement"):
        aws_contracts([entry(IntegerValue=1)], starts_at={"arn:other:l-1": YEAR})
