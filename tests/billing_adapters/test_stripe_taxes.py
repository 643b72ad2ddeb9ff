"""Taxes of ours at Stripe: every line's tax to the minor unit, on top or included, against plain arithmetic on the side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import pytest
import stripe

from billing_adapters.adapter import Document, Lowered
from billing_adapters.stripe_adapter import StripeSettings
from billing_adapters.stripe_adapter.documents import intents_of
from billing_adapters.stripe_adapter.invoices import BEGUN_AGAIN_MAX
from billing_adapters.testing.stripe_invoices import shown
from rating.balances import Burn
from rating.invoice import Invoice
from rating.tax import TaxedInvoice, TaxedLine, TaxRate
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import StripeWorld
from tests.billing_adapters.test_stripe_adapter import books, deliver, rows

VAT, CITY = TaxRate("VAT", Decimal("19")), TaxRate("City", Decimal("0.5"))


def taxes_of(one: Invoice, included: Sequence[bool], rates: Sequence[Sequence[TaxRate]]) -> TaxedInvoice:
    """Return taxes rounded per line, worked out here: a tenth of the code that Tallybook has for it, and none of it."""
    made = []
    digits = Decimal(1).scaleb(one.lines[0].amount.as_tuple().exponent)  # type: ignore[arg-type]
    for line, is_included, of_line in zip(one.lines, included, rates, strict=True):
        share = sum((rate.percent for rate in of_line), Decimal(0)) / 100
        net = line.amount / (1 + share) if is_included else line.amount
        taxes = tuple((rate, (net * rate.percent / 100).quantize(digits, ROUND_HALF_UP)) for rate in of_line)
        tax = sum((amount for _, amount in taxes), Decimal(0))
        gross = line.amount if is_included else line.amount + tax
        made.append(TaxedLine(line.line_id, None, gross - tax, tax, gross, taxes))
    return TaxedInvoice(one.invoice_id, one.currency, tuple(made))


def test_taxes_on_top_and_included_reach_stripe_to_the_unit() -> None:
    world, engine = StripeWorld(), books()
    one = invoice(1, "100.00", "119.00", "7.00")
    one = replace(one, prepaid=(Burn("line-1-0001", "gift", Decimal("30.00")),), amount_due=Decimal("196.00"))
    taxed = taxes_of(one, [False, True, False], [[VAT, CITY], [VAT], []])
    deliver(world, engine, [Document(one, taxed=taxed)])
    (row,) = rows(engine)
    (there,) = world.fake.store.all("invoice")
    assert row.state == "delivered"
    # 100 + 19 + 0.50, 119 with 19 in it, 7 without, less the 30 of the balance.
    assert (there["total"], there["subtotal"], there["total_excluding_tax"]) == (21550, 19600, 17700)
    assert [
        (tax["amount"], tax["taxable_amount"], tax["tax_behavior"]) for line in there["lines"] for tax in line["taxes"]
    ] == [(1900, 10000, "exclusive"), (50, 10000, "exclusive"), (1900, 10000, "inclusive")]
    assert (row.amount, row.quantity) == (Decimal("215.50"), Decimal("215.50"))


def test_any_invoice_s_total_is_lines_and_taxes_on_top_less_what_was_prepaid() -> None:
    chance = random.Random(20_261_201)
    for number in range(9):
        currency, digits, step = chance.choice((("USD", 2, 1), ("JPY", 0, 1), ("KWD", 3, 10), ("ISK", 2, 100)))
        places = 0 if currency == "ISK" else digits
        size = 260 if number == 2 else chance.choice((1, 3, 5))
        amounts = [f"{Decimal(chance.randint(-500, 99_999)).scaleb(-places):f}" for _ in range(size)]
        one = invoice(number, *amounts, currency=currency)
        included = [chance.random() < 0.5 for _ in amounts]
        taxed = taxes_of(one, included, [chance.choice(([], [VAT], [VAT, CITY])) for _ in amounts])
        carried = Decimal(chance.randint(0, 9)).scaleb(-3) if currency == "KWD" else Decimal(0)
        (intent,) = intents_of(Document(one, taxed=taxed, carried=carried), StripeSettings())
        on_top = [tax for line, tax in zip(one.lines, taxed.lines, strict=True) if tax.gross != line.amount]
        asked = sum((line.amount for line in one.lines), Decimal(0)) + sum((tax.tax for tax in on_top), Decimal(0))
        units = int((asked + carried).scaleb(digits) // step * step)
        world, engine = StripeWorld(), books()
        deliver(world, engine, [Document(one, taxed=taxed, carried=carried)])
        assert intent.amount == asked
        assert [row.state for row in rows(engine)] == ["delivered"]
        (there,) = world.fake.store.all("invoice")
        assert (number, there["total"]) == (number, units)
        assert len(there["lines"]) == min(size, 250)
        if step == 1:
            assert there["total"] - there["total_excluding_tax"] == int(taxed.tax.scaleb(digits))


def test_a_tax_that_somebody_adds_or_changes_at_stripe_stops_it_before_it_is_final() -> None:
    world, engine = StripeWorld(), books()
    one = invoice(1, "100.00")
    taxed = taxes_of(one, [False], [[VAT]])
    # A person of Stripe, or a rule there, raises every tax by a cent.
    raised = world.fake.invoices.add_lines

    def meddle(identity: str, raw: dict[str, object]) -> dict[str, object]:
        raised(identity, raw)
        held = world.fake.store.get("invoice", identity)
        held["total_taxes"][0]["amount"] += 1
        return shown(held)

    world.fake.invoices.routes = [
        (pattern, verb, meddle if act == raised else act) for pattern, verb, act in world.fake.invoices.routes
    ]
    deliver(world, engine, [Document(one, taxed=taxed)], passes=BEGUN_AGAIN_MAX + 1)
    (row,) = rows(engine)
    assert (row.state, world.fake.store.all("invoice")) == ("parked", [])
    assert "look for taxes or discounts" in row.reason


def test_a_credit_note_gives_its_taxes_back_with_what_it_lowers() -> None:
    world, engine = StripeWorld(), books()
    one = invoice(1, "100.00")
    credit = invoice(9, "-10.00", document_type="credit_note", number="CN-00000001")
    lowers = (Lowered("invoice-1", "INV-00000001", Decimal("11.90")),)
    deliver(world, engine, [Document(one, taxed=taxes_of(one, [False], [[VAT]]))])
    deliver(world, engine, [Document(credit, lowers=lowers, taxed=taxes_of(credit, [False], [[VAT]]))])
    (note,) = world.fake.store.all("credit_note")
    assert note["total"] == 1190
    assert "tax 1.90 USD of 11.90 included" in note["memo"]
    assert world.fake.store.all("invoice")[0]["amount_remaining"] == 11900 - 1190


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tax_rates": ["txr_1"]}, "cannot set tax amounts"),
        ({"amount": -500}, "sign of its line"),
    ],
)
def test_the_fake_refuses_what_stripe_refuses_of_taxes(changed: dict[str, object], says: str) -> None:
    world = StripeWorld()
    v1 = world.client.v1
    draft = v1.invoices.create({"customer": v1.customers.create({"name": "a"}).id, "currency": "usd"})
    rate = {"display_name": "VAT", "inclusive": False, "percentage": "19"}
    line = {"amount": 500, "tax_amounts": [{"amount": 95, "taxable_amount": 500, "tax_rate_data": rate}], **changed}
    with pytest.raises(stripe.InvalidRequestError, match=says):
        v1.invoices.add_lines(draft.id, {"lines": [line]})  # type: ignore[typeddict-item]
