"""A run to publish, made by the engine from a small catalog with hostile names. The same every time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.file_adapter import usage_of
from billing_adapters.ledger_accounts import LedgerAccount, LedgerMap
from billing_adapters.ports import PublishedRun
from billing_adapters.prepaid_balances import PrepaidLeg
from billing_adapters.receivables import PostedSettlement
from billing_adapters.settlements import Settlement
from metering.engine import open_engine
from metering.periods import parse_period
from metering.usage import Snapshot, load_events
from rating.balances import Balance, paid_of
from rating.close import Close, close_id_of
from rating.invoice import Prepaid, make_invoices
from rating.paper import BilledBefore, Books, papers_of
from rating.parties import Seller
from rating.rate import BOOKED_LINE_COLUMNS, LINE_KEY, rate, subtract_booked
from rating.terms import billing_spans
from tests.rated import events_table, terms_of

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from rating.invoice import Invoice, InvoiceLine
    from rating.paper import Paper

# A right-to-left mark, a formula, markup, quotes and commas: whatever a tenant may call itself.
HOSTILE = ("=1+1", "<script>alert(1)</script>", '"quoted", and comma', "\u200fabc\u200e", "'=SUM(A1)", "-5", "@cmd")
CATALOG: dict[str, Any] = {
    "meters": [
        {"name": "tokens", "unit": "=token", "attributes": ["model"]},
        {"name": "+calls", "unit": "call", "aggregation": "count"},
    ],
    "plans": [
        {
            "name": "@pro",
            "version": "1",
            "currency": "USD",
            "prices": [
                {
                    "id": "seat",
                    "type": "flat",
                    "amount": "49.00",
                    "description": "=HYPERLINK(1)",
                    "tax_code": "=seat",
                },
                {
                    "id": "tokens",
                    "type": "graduated",
                    "meter": "tokens",
                    "by": ["model"],
                    "tiers": [{"up_to": "10", "unit_price": "0.5"}, {"unit_price": "0.0000125"}],
                },
                {"id": "calls", "type": "unit", "meter": "+calls", "unit_price": "0.005"},
            ],
        },
        {
            "name": "yen",
            "version": "1",
            "currency": "JPY",
            "prices": [{"id": "seat", "type": "flat", "amount": "1000"}],
        },
    ],
    "accounts": [
        {
            "id": f"account-{n}",
            "name": name,
            "tenants": [name],
            "vat_id": f"@VAT{n}",
            "purchase_order": f"-PO{n}",
            "address": {"lines": [name], "city": "<b>Town</b>", "country": "DE"},
            "taxes": [{"name": "=VAT", "percent": "19"}, {"name": "levy", "percent": "0.5", "codes": ["=seat"]}],
            "discounts": [{"id": "=welcome", "percent": "10"}],
        }
        for n, name in enumerate(HOSTILE)
    ],
    "balances": [
        {
            "id": "+gift",
            "account": "account-0",
            "currency": "USD",
            "amount": "8.00",
            "paid": "5.00",
            "effective": "2026-01-01",
        }
    ],
    "subscriptions": [
        {"id": f"sub-{n}", "tenant": name, "plan": "yen" if n == 6 else "@pro", "version": "1", "from": "2026-01-01"}
        for n, name in enumerate(HOSTILE)
    ],
}
SELLER: dict[str, Any] = {
    "id": "=house",
    "name": "House <script>alert(2)</script> GmbH",
    "address": {"lines": ["Street 1"], "postal_code": "10115", "city": "Berlin", "country": "DE"},
    "vat_id": "DE123",
    "bank": {"iban": "DE02 1203 0000 0000 2020 51"},
    "payment_days": "14",
}
LEDGER = [
    {"id": "sales", "role": "revenue", "number": "=4000", "department": "@house"},
    {"id": "tax", "role": "tax", "number": "2200", "tax": "=VAT"},
]
MONTH = "2026-10"


def event(tenant: str, meter: str, quantity: str, row: int, **more: Any) -> dict[str, Any]:
    return {
        "tenant_id": tenant,
        "meter": meter,
        "quantity": quantity,
        "event_time": datetime(2026, 10, 5, 12, tzinfo=UTC),
        "recorded_at": datetime(2026, 10, 5, 13, tzinfo=UTC),
        "producer_id": "producer",
        "segment": 1,
        "row": row,
        "idempotency_key": None,
        "attributes": {},
        **more,
    }


EVENTS = [
    event(name, meter, quantity, 10 * n + m, attributes={"model": "=cmd|' /C calc'!A0"})
    for n, name in enumerate(HOSTILE)
    for m, (meter, quantity) in enumerate([("tokens", "12.345678901"), ("+calls", "7")])
]


def no_bookings() -> tuple[pa.Table, pa.Table]:
    """Return the bookings of books that hold no invoice yet."""
    from rating.ledger import _table

    charge_columns = (*LINE_KEY, "cell_key", "tier", "part", "unit_price", "quantity", "exact_amount")
    return _table([], (*BOOKED_LINE_COLUMNS, "booking")), _table([], charge_columns)


def make_run(events: list[dict[str, Any]] | None = None) -> PublishedRun:
    """Return the run of October: invoiced by the engine, numbered as the books would."""
    from dataclasses import replace

    terms = terms_of(CATALOG)
    wall = parse_period(MONTH)
    start, end = Close.bounds(wall)
    close = Close(
        close_id_of(wall, 1),
        start,
        end,
        1,
        1,
        end,
        True,
        "period",
        Snapshot((("producer", 1),)),
        1,
        invoices_made=False,
    )
    balances = [Balance.model_validate(one) for one in CATALOG["balances"]]
    prepaid = Prepaid({"account-0": balances})
    engine = open_engine(threads=1)
    try:
        load_events(engine, events_table(EVENTS if events is None else events))
        rate(engine, terms, billing_spans(terms, wall), close.as_of)
        subtract_booked(engine, *no_bookings(), close.close_id)
        invoices = [
            replace(invoice, number=f"INV-{number:08}", lines=ending_in_a_correction(invoice))
            for number, invoice in enumerate(make_invoices(engine, close, "final", prepaid), start=1)
        ]
        usage = usage_of(engine)
    finally:
        engine.close()
    return PublishedRun(
        period=wall,
        close_ids=[close.close_id],
        snapshot_ids=[close.snapshot.snapshot_id],
        catalog_revisions=[1],
        papers=papers_for(invoices),
        usage=usage,
        ledger=LedgerMap([LedgerAccount.model_validate(one) for one in LEDGER]),
        generator_versions={"tallybook": "0.1.0"},
        earlier=papers_for([fee_of_a_year(invoices[0])]),
        settlements=[settled(invoices[0])],
        prepaid=prepaid_of(invoices),
    )


def prepaid_of(invoices: list[Invoice]) -> list[PrepaidLeg]:
    """Return what the invoices burned as legs, and a balance of a hostile name beside them."""
    legs = [
        PrepaidLeg(burn.balance_id, one.account_id, one.currency, one.issued_at.date(), "burned", -burn.amount, True)
        for one in invoices
        for burn in one.prepaid
    ]
    first = invoices[0]
    granted = PrepaidLeg(
        "=1+1", first.account_id, first.currency, first.period_start.date(), "granted", Decimal("30.00"), False
    )
    return [*legs, granted]


def settled(one: Invoice) -> PostedSettlement:
    """Return a payment of an invoice, by a provider whose ids look like formulas."""
    paid_at = one.issued_at + timedelta(hours=3)
    row = Settlement("stl-1", 2, "files", "=1+1", "payment", 1, one.invoice_id, one.account_id, one.currency,
                     Decimal("0.05"), paid_at, paid_at, paid_at, paid_at)  # fmt: skip
    return PostedSettlement(row, one.close_id, str(one.number), None, one.issued_at.date())


def ending_in_a_correction(like: Invoice) -> tuple[InvoiceLine, ...]:
    """Return lines of which the last one says that as much was billed of it before: it is worth the double now."""
    from dataclasses import replace

    *others, last = like.lines
    doubled = {f"cumulative_{name}": 2 * getattr(last, name) for name in ("quantity", "exact_amount", "amount")}
    return (*others, replace(last, kind="correction", **doubled))


def fee_of_a_year(like: Invoice) -> Invoice:
    """Return a document of an earlier close, issued on 2026-09-01, that bills a fee from then on for a year."""
    from dataclasses import replace

    start, end = datetime(2026, 9, 1, tzinfo=UTC), datetime(2027, 9, 1, tzinfo=UTC)
    seat = next(line for line in like.lines if line.price_type == "flat")
    line = replace(seat, line_id="line-year", period_start=start, period_end=end, service_start=start, service_end=end)
    more = {"total": line.amount, "amount_due": line.amount, "lines": (line,), "prepaid": (), "issued_at": start}
    return replace(like, invoice_id="inv-year", number="INV-00000000", period_start=start, period_end=end, **more)


def papers_for(invoices: list[Invoice], **seller: Any) -> list[Paper]:
    """Return the papers of invoices of the run; the first of them corrects another, and a gift paid of it in part."""
    terms = terms_of(CATALOG)
    paid = {
        (one.invoice_id, 1): paid_of(Balance.model_validate(CATALOG["balances"][0]), Decimal("8.00"))
        for one in invoices
    }
    return papers_of(
        invoices,
        accounts=terms.accounts,
        sellers=[Seller.model_validate({**SELLER, **seller})],
        plans=terms.plans,
        books=Books(
            {invoices[0].invoice_id: ["=INV-0", "INV-00000009"]} if invoices else {},
            paid,
            billed_before={one.lines[-1].line_id: BilledBefore("=INV-0", "snap-0") for one in invoices[:1]},
        ),
    )


def publish_and_die(folder: Path, at: str) -> None:
    """Publish in this process and kill it, unasked, just before a step. Called in a process of its own."""
    import os
    import signal

    from billing_adapters.file_adapter import publish

    def die(step: str) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    publish(folder, make_run(), on_step=die)
