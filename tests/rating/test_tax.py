"""Taxes by hand, and what must hold of them all: net + tax = gross, and nothing is lost by rounding."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rating.invoice import Invoice
from rating.plans import Plan
from rating.tax import FixedRates, TaxedInvoice, TaxRate, tax_invoice
from tests.rating.test_balances import line

START = datetime(2026, 10, 1, tzinfo=UTC)
VAT = TaxRate("VAT", Decimal(20))


def invoice(*amounts: str) -> Invoice:
    lines = tuple(line(number, amount, f"price-{number}") for number, amount in enumerate(amounts, start=1))
    total = sum((Decimal(amount) for amount in amounts), Decimal(0))
    return Invoice(
        invoice_id="inv", close_id="close", account_id="acme", currency="USD", document_type="invoice", status="final",
        number="INV-1", period_start=START, period_end=START, issued_at=START, snapshot_id="snap", catalog_revision=1,
        total=total, amount_due=total, lines=lines,
    )  # fmt: skip


def rates(*percents: str) -> FixedRates:
    return FixedRates({}, [TaxRate(f"tax {number}", Decimal(percent)) for number, percent in enumerate(percents)])


def plans(behavior: str = "exclusive", **codes: str) -> dict[str, Plan]:
    prices = [
        {"id": f"price-{number}", "type": "flat", "amount": "1", "tax_code": codes.get(f"price_{number}")}
        for number in range(1, 9)
    ]
    terms = {"name": "pro", "version": 1, "currency": "USD", "prices": prices, "tax_behavior": behavior}
    return {"pro/1": Plan.model_validate(terms)}


def taxes(taxed: TaxedInvoice) -> list[str]:
    return [str(one.tax) for one in taxed.lines]


def test_rounded_per_invoice_or_per_line() -> None:
    two = invoice("0.06", "0.06")
    assert taxes(tax_invoice(two, plans(), rates("10"))) == ["0.01", "0.00"]
    assert taxes(tax_invoice(two, plans(), rates("10"), level="line")) == ["0.01", "0.01"]


def test_each_percent_is_rounded_by_itself() -> None:
    """1.00 at 0.5 % and 0.5 %: each is 0.005, and rounded by itself 0.01."""
    assert taxes(tax_invoice(invoice("1.00"), plans(), rates("0.5", "0.5"), level="line")) == ["0.02"]
    assert taxes(tax_invoice(invoice("1.00"), plans(), rates("1"), level="line")) == ["0.01"]


def test_inclusive_amounts_contain_their_tax() -> None:
    taxed = tax_invoice(invoice("12.00"), plans("inclusive"), rates("20"))
    assert (str(taxed.net), str(taxed.tax), str(taxed.gross)) == ("10.00", "2.00", "12.00")


def test_a_code_has_its_own_rates_and_none_is_not_guessed() -> None:
    calculator = FixedRates({"food": [TaxRate("reduced", Decimal(5))], "export": []}, [VAT])
    taxed = tax_invoice(invoice("10", "10", "10"), plans(price_1="food", price_2="export"), calculator)
    assert [one.tax for one in taxed.lines] == [Decimal("0.50"), Decimal(0), Decimal("2.00")]
    with pytest.raises(KeyError):
        tax_invoice(invoice("10"), plans(price_1="wine"), calculator)


def test_a_calculator_that_leaves_out_a_line_is_refused() -> None:
    class Forgetful:
        def rates_of(self, *_: object) -> list[list[TaxRate]]:
            return [[VAT]]

    with pytest.raises(ValueError, match="1 of 2 lines"):
        tax_invoice(invoice("1", "2"), plans(), Forgetful())


amounts = st.lists(st.integers(-(10**6), 10**6).map(lambda cents: str(Decimal(cents).scaleb(-2))), max_size=8)
percents = st.lists(st.integers(0, 3000).map(lambda number: str(Decimal(number).scaleb(-2))), max_size=3)


@given(amounts, percents, st.booleans(), st.sampled_from(["line", "invoice"]))
def test_net_and_tax_are_gross_and_every_line_is_within_a_unit_of_its_exact_tax(
    of_lines: list[str], asked: list[str], inclusive: bool, level: str
) -> None:
    taxed = tax_invoice(
        invoice(*of_lines), plans("inclusive" if inclusive else "exclusive"), rates(*asked), level=level
    )  # type: ignore[arg-type]
    whole = sum((Fraction(percent) for percent in asked), Fraction(0)) / 100
    for one, amount in zip(taxed.lines, of_lines, strict=True):
        assert one.gross == one.net + one.tax
        assert Decimal(amount) == (one.gross if inclusive else one.net)
        exact = Fraction(amount) * whole / (1 + whole) if inclusive else Fraction(amount) * whole
        assert abs(Fraction(one.tax) - exact) <= Fraction(len(asked), 100)
    if level == "invoice":
        base = sum((Fraction(amount) for amount in of_lines), Fraction(0))
        base = base / (1 + whole) if inclusive else base
        for at, percent in enumerate(asked):
            shown = sum((one.taxes[at][1] for one in taxed.lines), Decimal(0))
            assert abs(Fraction(shown) - base * Fraction(percent) / 100) <= Fraction(1, 200)
