"""Voids: what a void document had booked is booked again by the next close, once; every close stays what it was."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import strategies as st

from metering.periods import parse_period
from rating.close import read_closes
from rating.errors import AlreadyFinal, NotFound
from rating.invoice import document
from rating.ledger import read_invoices
from rating.voids import Voided, void_invoice
from tests.properties.proof import holds
from tests.rating.sales import Company, amounts, at

PRICES = [
    {"id": "fee", "type": "flat", "amount": "49.00", "when": "in_arrears"},
    {"id": "calls", "meter": "calls", "type": "graduated",
     "tiers": [{"up_to": "10", "unit_price": "0.105"}, {"unit_price": "0.033"}]},
]  # fmt: skip
MONTHS = ("2026-01", "2026-02")


def void(company: Company, named: str, *, now: str = "2026-06-01", why: str = "wrong address") -> Voided:
    with company.books.begin() as connection:
        return void_invoice(connection, named, who="ann", why=why, now=at(now))


def test_what_a_void_had_booked_is_billed_again_by_the_next_close_and_its_number_stays() -> None:
    company = Company(PRICES)
    company.use("2026-01-05", "12")
    [first] = company.invoice("2026-01")
    voided = void(company, "INV-00000001")
    assert (voided.invoice_id, voided.decided_by, voided.reason) == (first.invoice_id, "ann", "wrong address")
    # The first one stays, whoever voids again.
    assert void(company, first.invoice_id, why="another reason") == voided
    [again] = company.invoice("2026-02")
    assert again.number == "INV-00000002"
    assert Counter(line.kind for line in again.lines) == {"flat": 1, "correction": 2}
    assert again.total == first.total + Decimal("49.00")
    with company.books.connect() as connection:
        books = {one.number: one for one in read_invoices(connection)}
    assert books["INV-00000001"].status == "void"
    assert document(books["INV-00000001"]) == document(first)
    assert company.invoice("2026-03", is_draft=True)[0].total == Decimal("49.00")


def test_a_draft_sees_what_was_voided_just_now() -> None:
    company = Company(PRICES)
    [first] = company.invoice("2026-01")
    void(company, "INV-00000001")
    [draft] = company.invoice("2026-02", is_draft=True)
    assert amounts([draft]) == {"fee": "49.00"}
    assert draft.total == first.total + Decimal("49.00")


def test_drafts_strangers_and_voids_without_a_reason_are_refused() -> None:
    company = Company(PRICES)
    [draft] = company.invoice("2026-01", is_draft=True)
    with pytest.raises(AlreadyFinal, match="is a draft"):
        void(company, draft.invoice_id)
    with pytest.raises(NotFound, match="no document INV-00000009"):
        void(company, "INV-00000009")
    for who, why in (("ann", " "), ("", "because")):
        with company.books.begin() as connection, pytest.raises(ValueError, match="for a reason"):
            void_invoice(connection, "INV-00000001", who=who, why=why, now=at("2026-06-01"))


def worth(quantity: int) -> Decimal:
    """Return what a month is worth on paper, in plain decimals: the fee, ten calls at one price and the rest at another."""
    exact = min(quantity, 10) * Decimal("0.105") + max(quantity - 10, 0) * Decimal("0.033")
    cents = int(exact * 100 + Decimal("0.5"))
    return Decimal("49.00") + Decimal(cents).scaleb(-2)


@holds(2, seed=st.integers(0, 10**6))
def TestPiecesAndVoidsAreTheWhole(seed: int) -> None:
    """Over any order of use, cuts and voids, the documents that stand come to the worth, and every close stays what it was."""
    chance = random.Random(seed)
    company = Company(PRICES)
    used: Counter[str] = Counter()
    clock = 1
    for month in MONTHS:
        for _ in range(chance.randint(1, 3)):
            happens = chance.choice(("use", "use", "cut", "void"))
            if happens == "use":
                quantity, used_in = chance.randint(1, 30), chance.choice(MONTHS[: MONTHS.index(month) + 1])
                company.use(f"{used_in}-{chance.randint(1, 28):02}", str(quantity))
                used[used_in] += quantity
            elif happens == "cut" and clock < 28:
                clock += 1
                company.invoice(month, now=f"{month}-{clock:02}")
            elif happens == "void":
                _void_some(company, chance)
        company.invoice(month)
        clock = 1
        if chance.random() < 0.5:
            _void_some(company, chance)
    # Whatever was voided last is billed again by a close that comes after it.
    company.invoice("2026-03")
    with company.books.connect() as connection:
        documents = read_invoices(connection)
        closes = [close for close in read_closes(connection) if not close.is_draft]
    standing = [line for one in documents if one.status == "final" for line in one.lines]
    for month in MONTHS:
        start = parse_period(month).start
        billed = [line.amount for line in standing if line.period_start.replace(tzinfo=None) == start]
        assert (month, sum(billed, Decimal(0))) == (month, worth(used[month]))
    numbers = sorted(one.number or "" for one in documents)
    assert numbers == [f"INV-{number:08}" for number in range(1, len(numbers) + 1)]
    for close in chance.sample(closes, 2):
        booked = sorted(document(one) for one in documents if one.close_id == close.close_id)
        assert booked == sorted(document(one) for one in company.compute(close))


def _void_some(company: Company, chance: random.Random) -> None:
    with company.books.connect() as connection:
        final = [one for one in read_invoices(connection) if one.status == "final"]
    if final:
        void(company, chance.choice(final).number or "")
