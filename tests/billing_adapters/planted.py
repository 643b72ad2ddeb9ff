"""Two worlds full of leaks of known size: one of capture and rating, one of books. And the same worlds without any.

Each leak has a tenant of its own, so that one statement shows them all. What is planted is said beside it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from billing_adapters.reconciliation import Bookings, Statement, entitled_use_schema
from billing_adapters.reconciliation.controls import Refused, our_controls
from billing_adapters.reconciliation.inputs import schema_of
from metering.usage import load_events
from rating.balances import Balance
from rating.rate import BOOKED_LINE_COLUMNS, rate, subtract_booked
from rating.terms import billing_spans
from tests.billing_adapters.acts import of_close, point
from tests.billing_adapters.runs import no_bookings
from tests.billing_adapters.world import OCTOBER, World, event, letter, statement_of
from tests.rated import engine, terms_of

if TYPE_CHECKING:
    from rating.terms import Terms

Row = dict[str, Any]
SOON_AFTER, LOOKED_AT = datetime(2026, 11, 3, tzinfo=UTC), datetime(2026, 11, 10, tzinfo=UTC)
START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
METERS = [
    {"name": "calls"}, {"name": "clicks"}, {"name": "gone"}, {"name": "unsold"}, {"name": "tokens", "attributes": ["model"]},
    {"name": "seats", "aggregation": "last"},
]  # fmt: skip
PRO = {
    "name": "pro",
    "version": "1",
    "currency": "USD",
    "prices": [
        {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "0.01"},
        {"id": "clicks", "type": "unit", "meter": "clicks", "unit_price": "0.01"},
        {"id": "gone", "type": "unit", "meter": "gone", "unit_price": "0.05"},
    ],
}
TIERED = {
    "name": "tiered",
    "version": "1",
    "currency": "USD",
    "prices": [
        {
            "id": "calls",
            "type": "graduated",
            "meter": "calls",
            "tiers": [{"up_to": "1000000", "unit_price": "0"}, {"unit_price": "0.000002"}],
        }
    ],
}
FREE = {
    "name": "free",
    "version": "1",
    "currency": "USD",
    "prices": [{"id": "calls", "type": "unit", "meter": "calls", "unit_price": "0.01", "included": "1000"}],
}
TYPO = [
    {**PRO, "name": "typo", "version": "1"},
    {
        **PRO,
        "name": "typo",
        "version": "2",
        "prices": [{"id": "clicks", "type": "unit", "meter": "clicks", "unit_price": "0"}],
    },
]
CELLS = {
    "name": "cells",
    "version": "1",
    "currency": "USD",
    "prices": [
        {
            "id": "tokens",
            "type": "matrix",
            "meter": "tokens",
            "attributes": ["model"],
            "cells": [{"values": ["small"], "unit_price": "0.01"}],
        }
    ],
}
STRICT = {**PRO, "name": "punctual", "late_usage_days": "5"}


def subscription(tenant: str, plan: str = "pro", version: str = "1", **more: Any) -> Row:
    return {"id": f"sub-{tenant}", "tenant": tenant, "plan": plan, "version": version, "from": "2025-01-01", **more}


def rows_of(tenant: str, *quantities: str, day: int = 5, **more: Any) -> list[Row]:
    return [event(tenant, quantity=quantity, day=day, **more) for quantity in quantities]


# --- capture and rating -----------------------------------------------------------------------------------------------

_ON_PRO = (
    "gap", "edited", "letters", "dupes", "copies", "ratio", "untold", "silent", "odd", "ahead", "acme", "waiting", "stale",
)  # fmt: skip


@cache
def capture_terms(*, is_leaking: bool) -> Terms:
    end = {} if is_leaking else {"to": "2027-01-01"}
    subscriptions = [subscription(tenant) for tenant in _ON_PRO]
    subscriptions += [
        subscription("tier", "tiered"),
        subscription("ended", to="2026-10-10"),
        subscription("typo", "typo", "2"),
        subscription("cell", "cells"),
        subscription("tardy", "punctual"),
        subscription("endless", discounts=[{"id": "welcome", "percent": "10", **end}]),
        # 25 % is what ana may approve, and 40 % is not.
        subscription("generous", discounts=[_signed("40" if is_leaking else "25")]),
        subscription("over", "free"),
        *(subscription(f"free{n}", "free") for n in range(3)),
    ]
    shared = [{"id": f"free{n}", "name": "F", "tenants": [f"free{n}"], "vat_id": "DE999"} for n in range(3)]
    others = [one["tenant"] for one in subscriptions if not one["tenant"].startswith("free")]
    return terms_of(
        {
            "meters": METERS,
            "plans": [PRO, TIERED, FREE, *TYPO, CELLS, STRICT],
            "accounts": [{"id": "payer", "name": "Payer", "tenants": others}, *shared],
            "subscriptions": subscriptions,
        }
    )


def _signed(percent: str) -> Row:
    return {"id": "friend", "percent": percent, "to": "2027-01-01", "approved_by": "ana", "reason": "pilot"}


def authority() -> pa.Table:
    """Return who may give away what: everybody 10 %, ana 25 % and 100.00 USD."""
    limits = [("", None, "10", None), ("ana", None, "25", None), ("ana", "USD", None, "100")]
    schema = schema_of("discount_authority")
    rows = [dict(zip(schema.names, one, strict=True)) for one in limits]
    exact = [
        {name: Decimal(value) if name.endswith("_max") and value else value for name, value in row.items()}
        for row in rows
    ]
    return pa.Table.from_pylist(exact, schema=schema)


def daily(tenant: str, meter: str, first: datetime, days: int, quantity: str) -> list[Row]:
    row = event(tenant, meter, quantity)
    return [{**row, "event_time": first + timedelta(days=day)} for day in range(days)]


def fill(world: World, *, is_leaking: bool) -> None:
    """Write the segments; what leaks only where asked for."""
    world.write(*rows_of("gap", "50"))
    world.write(*rows_of("gap", *["100"] * 12))
    world.write(*rows_of("edited", "5"))
    world.write(*rows_of("tier", "900000"))
    world.write(*rows_of("ratio", *["35"] * 100))
    noon = datetime(2026, 9, 1, 12, tzinfo=UTC)
    # 30 days of September and 20 of October, then nothing but clicks; without the leak to the end.
    world.write(*daily("silent", "calls", noon, 50 if is_leaking else 61, "10"))
    world.write(*daily("silent", "clicks", noon, 61, "10"))
    world.write(*daily("silent", "gone", noon, 5, "1"))
    mondays = ["100", "102", "98", "101", "99", "103", "5000" if is_leaking else "104"]
    first = datetime(2026, 8, 24, 12, tzinfo=UTC)
    world.write(
        *[{**event("odd", "clicks", q), "event_time": first + timedelta(days=7 * n)} for n, q in enumerate(mondays)]
    )
    world.write(*rows_of("generous", "1000"))
    world.write(*rows_of("endless", "1000"), *rows_of("cell", "1", meter="tokens", attributes='{"model":"small"}'))
    if not is_leaking:
        world.write(event("silent", "gone", "1"))
        return
    world.write(*[letter("bad_quantity", "letters", "3") for _ in range(100)])
    different = [event("dupes", key="path", attributes=f'{{"n":"{n}"}}') for n in range(51)]
    world.write(*different)
    microsecond = {"event_time": datetime(2026, 10, 5, 12, 0, 0, 123456, tzinfo=UTC)}
    alike = [{**event("copies", quantity="7", key=key), **microsecond} for key in ("a", "b")]
    world.write(*alike, *[event("copies", key=f"k{n}") for n in range(40)])
    world.write({**event("acme", quantity="0"), "correction": '{"key":"mistyped","verb":"void"}'})
    world.write(*rows_of("acmee", "700"), *rows_of("ended", "900", day=12))
    world.write(*rows_of("acme", "2000", meter="unsold"), *rows_of("typo", "300", meter="clicks"))
    world.write(*rows_of("dupes", "40", "41", "42", meter="seats"))
    world.write(*rows_of("cell", "4", meter="tokens", attributes='{"model":"huge"}'))
    world.write(*rows_of("tardy", "11"), producer="tardy")
    world.write(*rows_of("ahead", "1"), producer="ahead")
    world.write(*[event(f"free{n}", quantity=quantity) for n, quantity in enumerate(("500", "400", "300"))])
    world.write(*rows_of("tier", "300000"), producer="lost")
    # Recorded on 20 October, two weeks before anybody looks, and still in the journal.
    world.write(*rows_of("waiting", "40"), producer="waiting", is_shipped=False)


def witness(*, is_leaking: bool) -> pa.Table:
    seen = [("ratio", 4000 if is_leaking else 3500, 5)]
    if is_leaking:
        seen.append(("untold", 250, 6))
    rows = [
        {
            "tenant_id": tenant,
            "meter": "calls",
            "bucket_start": datetime(2026, 10, day, 12, tzinfo=UTC),
            "count": Decimal(count),
        }
        for tenant, count, day in seen
    ]
    last = {**rows[0], "bucket_start": END - timedelta(hours=1), "count": Decimal(0)}
    return pa.Table.from_pylist([*rows, last], schema=schema_of("witness"))


def stored_rows(world: World, *, is_leaking: bool) -> list[Row]:
    """Return what the lake holds: recorded a second after it was used, but for what leaks."""
    rows = [{**row, "recorded_at": row["event_time"] + timedelta(seconds=1)} for row in world.stored()]
    if not is_leaking:
        return rows
    held = [row for row in rows if row["producer_id"] != "lost" and (row["tenant_id"], row["quantity"]) != ("gap", 100)]
    changes: dict[str, Row] = {"edited": {"quantity": Decimal(6)}, "tardy": {"recorded_at": END + timedelta(days=9)}}
    ahead = {"recorded_at": datetime(2026, 10, 5, 11, tzinfo=UTC)}
    return [{**row, **changes.get(row["tenant_id"], ahead if row["tenant_id"] == "ahead" else {})} for row in held]


def captured(*, is_leaking: bool) -> Statement:
    """Return the statement of October over the world of capture and rating."""
    world = World()
    fill(world, is_leaking=is_leaking)
    given = {"witness": witness(is_leaking=is_leaking), "discount_authority": authority()}
    for name, quantity in (("rollup_total", 60 if is_leaking else 100), ("rollup_source_total", 100)):
        row = {"tenant_id": "stale", "meter": "calls", "rows": quantity, "quantity": Decimal(quantity)}
        given[name] = pa.Table.from_pylist([row], schema=schema_of(name))
    entitled = entitled_use_schema().empty_table()
    trailers = world.trailers()
    refused = []
    if is_leaking:
        trailers[-1]["dropped"] = 7
        given["list_price"] = pa.Table.from_pylist(
            [
                {"meter": "unsold", "currency": "USD", "unit_price": Decimal("0.02")},
                {"meter": "seats", "currency": "USD", "unit_price": Decimal("8.00")},
            ],
            schema=schema_of("list_price"),
        )
        given["accept_window"] = pa.Table.from_pylist(
            [{"tenant_id": "acme", "adapter": "aws_marketplace", "oldest_s": 86_400}], schema=schema_of("accept_window")
        )
        over = ("over", "storage", "clicks", "allowed", Decimal(150), Decimal(50))
        entitled = pa.Table.from_pylist([dict(zip(entitled.schema.names, over, strict=True))], schema=entitled.schema)
        refused.append(Refused("BROKEN", "controls/broken.sql: the head does not say `control`"))
    return statement_of(
        world,
        stored=stored_rows(world, is_leaking=is_leaking),
        trailers=trailers,
        terms=capture_terms(is_leaking=is_leaking),
        given=given,
        entitled=entitled,
        controls=our_controls(),
        refused=refused,
        as_of=SOON_AFTER,
    )


# --- books ------------------------------------------------------------------------------------------------------------


def books_terms(*, is_sold: bool) -> Terms:
    """Return the terms as they were when October was booked, or as the catalog says them now."""
    versions = [
        {**PRO, "version": version, "prices": [{"id": "calls", "type": "unit", "meter": "calls", "unit_price": price}]}
        for version, price in (("1", "0.008"), ("2", "0.010"))
    ]
    rewritten = {
        **PRO,
        "name": "rewritten",
        "prices": [{**PRO["prices"][0], "unit_price": "0.02" if is_sold else "0.03"}],
    }
    graduated = {
        **TIERED,
        "prices": [
            {
                "id": "calls",
                "type": "graduated",
                "meter": "calls",
                "tiers": [{"up_to": "100", "unit_price": "0.10"}, {"unit_price": "0.05"}],
            }
        ],
    }
    promised: Row = {**PRO, "name": "promised"}
    if not is_sold:
        promised["minimums"] = [{"id": "least", "amount": "100"}]
    discount = {"id": "launch", "percent": "20", "to": "2027-01-01" if is_sold else "2026-09-01"}
    # Given in August, September and October; by now the catalog says that it was for two billing periods.
    welcome = {"id": "welcome", "percent": "10", "from": "2026-08-01", "periods": "3" if is_sold else "2"}
    subscriptions = [
        subscription("upgraded", "pro", "1" if is_sold else "2"),
        subscription("rewritten", "rewritten"),
        subscription("tiers", "tiered"),
        subscription("promised", "promised"),
        subscription("discounted", "pro", "2", discounts=[discount]),
        subscription("welcomed", "pro", "2", discounts=[welcome]),
        subscription("drifted", "pro", "2"),
        subscription("rounded", "pro", "2"),
        subscription("forgotten", "pro", "2"),
        *([] if is_sold else [subscription("skipped", "pro", "2")]),
    ]
    tenants = [
        "upgraded", "rewritten", "tiers", "promised", "discounted", "welcomed", "drifted", "rounded", "forgotten", "skipped",
    ]  # fmt: skip
    tax = {"taxes": [{"name": "VAT", "percent": "19"}]}
    germany = {"address": {"lines": ["Street 1"], "country": "DE"}}
    made = terms_of(
        {
            "meters": METERS,
            "plans": [*versions, rewritten, graduated, promised],
            "accounts": [
                {"id": "payer", "name": "Payer", "tenants": tenants, **germany, **tax},
                {"id": "untaxed", "name": "Untaxed", "tenants": ["nobody"], **germany},
            ],
            "subscriptions": subscriptions,
        }
    )
    gift = {"id": "gift", "account": "payer", "currency": "USD", "amount": "20.00", "effective": "2026-01-01"}
    return replace(made, balances=[Balance.model_validate(gift)])


def books_world() -> World:
    world = World()
    world.write(
        *rows_of("upgraded", "10000"), *rows_of("rewritten", "100"), *rows_of("tiers", "150"), *rows_of("promised", "4000"),
        *rows_of("discounted", "25000"), *rows_of("drifted", "700"), *rows_of("welcomed", "12340"),
        *rows_of("rounded", "333.3"), *rows_of("forgotten", "500"),
    )  # fmt: skip
    return world


def stored_at_close() -> dict[tuple[str, str], tuple[int, Decimal]]:
    """Return what the lake holds of the cut of October's close: rows and quantity by (tenant, meter)."""
    return {(row["tenant_id"], row["meter"]): (1, row["quantity"]) for row in books_world().stored()}


def book(world: World, terms: Terms) -> Bookings:
    """Book what October is worth under some terms, as a close does."""
    asked = engine()
    load_events(asked, pa.concat_tables([batch.events for batch in world.shipped]))
    rate(asked, terms, billing_spans(terms, OCTOBER), LOOKED_AT)
    lines, charges = no_bookings()
    subtract_booked(asked, lines, charges, "close-1")
    columns = ", ".join(BOOKED_LINE_COLUMNS)
    booked = asked.sql(f"SELECT {columns}, 1::BIGINT AS booking FROM invoice_line").to_arrow_table()
    parts = asked.sql(
        "SELECT line.subscription_id, line.period_start, line.service_start, line.currency, line.price_id,"
        " line.group_key, charge.cell_key, charge.tier, charge.part, charge.unit_price, charge.quantity, charge.exact_amount"
        " FROM line_charge AS charge JOIN invoice_line AS line USING (line_id)"
    ).to_arrow_table()
    return Bookings(booked.cast(lines.schema), parts.cast(charges.schema), is_complete=True)


def edited(table: pa.Table, subscription_id: str, **less: str) -> pa.Table:
    """Return a table whose rows of a subscription have less in some columns, as if somebody had changed the books."""
    rows = [
        {**row, **{name: row[name] - Decimal(by) for name, by in less.items()}}
        if row["subscription_id"] == subscription_id and row.get("tier", 2) == 2
        else row
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=table.schema)


def welcomes(bookings: Bookings) -> list[Row]:
    """Return what the welcome discount took off: in August and September 5.00 each, in October what was booked."""
    booked = [row for row in bookings.charges.to_pylist() if row["part"] == "discount:welcome"]
    taken = [(datetime(2026, month, 1, tzinfo=UTC), Decimal(5)) for month in (8, 9)]
    taken += [(row["period_start"], -row["exact_amount"]) for row in booked]
    same = {"tenant_id": "welcomed", "account_id": "payer", "subscription_id": "sub-welcomed", "discount_id": "welcome"}
    return [{**same, "currency": "USD", "period_start": start, "amount": amount} for start, amount in taken]


def documents(bookings: Bookings, *, is_leaking: bool) -> dict[str, pa.Table]:
    """Return final documents of what was booked."""
    lines = [
        {
            "line_id": f"line-{at}", "invoice_id": "inv-1", "position": at, "kind": "usage",
            **{name: row[name] for name in schema_of("final_line").names if name in row},
            # On paper a line of a discount has its net amount; the total is their sum.
        }
        for at, row in enumerate(bookings.lines.to_pylist())
    ]  # fmt: skip
    total = sum((row["amount"] for row in lines), Decimal(0))
    invoice = {
        "invoice_id": "inv-1", "number": "INV-00000001", "close_id": "close-1", "document_type": "invoice",
        "account_id": "payer", "currency": "USD", "period_start": START, "period_end": END,
        "issued_at": END + timedelta(hours=1), "total": total, "amount_due": total,
    }  # fmt: skip
    invoices, burns = [invoice], [("inv-1", "12.00")]
    if is_leaking:
        other = {**invoice, "invoice_id": "inv-2", "number": "INV-00000002", "total": Decimal(30)}
        euro = {**lines[0], "line_id": "euro", "invoice_id": "inv-2", "currency": "EUR", "amount": Decimal(30)}
        untaxed = {
            **invoice,
            "invoice_id": "inv-3",
            "number": "INV-00000003",
            "account_id": "untaxed",
            "total": Decimal(200),
        }
        short = {**lines[0], "line_id": "short", "invoice_id": "inv-3", "amount": Decimal("199.00")}
        invoices += [other, untaxed]
        lines += [euro, short]
        burns.append(("inv-1", "13.00"))
    given = {
        "final_invoice": invoices,
        "final_line": lines,
        "balance_burn": [
            {
                "invoice_id": invoice_id, "balance_id": "gift", "amount": Decimal(amount), "currency": "USD",
                "account_id": "payer", "price_id": "calls", "service_start": START, "service_end": END,
                "issued_at": END,
            }
            for invoice_id, amount in burns
        ],
        "discount_given": welcomes(bookings),
        "control_point": [
            *of_close(bookings.lines.to_pylist(), stored_at_close(), is_leaking=is_leaking),
            point("P5", "invoice", batch_id="close-1", account_id="payer", currency="USD", amount=total, position=1),
        ],
        "attributed_close": [{"close_id": "close-1", "position": 1}],
        "stored_at_close": [
            {"tenant_id": tenant, "meter": meter, "rows": rows, "quantity": quantity}
            for (tenant, meter), (rows, quantity) in stored_at_close().items()
        ],
        # Somebody took 7.00 off the invoice in the books.
        "close_document": [
            {
                "close_id": "close-1", "account_id": "payer", "currency": "USD", "document_type": "invoice",
                "amount_due": total - 7 if is_leaking else total,
            }
        ],
        "period_close": [
            {
                "close_id": "close-1", "position": 1, "period_start": START, "period_end": END,
                "as_of": END + timedelta(hours=1), "is_complete": True, "is_newest_catalog": True,
            }
        ],
        "close_cut": [{"close_id": "close-1", "producer_id": "producer", "last_segment": 1}],
    }  # fmt: skip
    return {
        name: pa.Table.from_pylist(
            [{column: one.get(column) for column in schema_of(name).names} for one in rows],
            schema=schema_of(name),
        )
        for name, rows in given.items()
    }


def in_books(*, is_leaking: bool) -> Statement:
    """Return the statement of October over the world of books."""
    world = books_world()
    sold = books_terms(is_sold=True)
    bookings = book(world, sold)
    given = documents(bookings, is_leaking=is_leaking)
    terms = sold
    if is_leaking:
        terms = books_terms(is_sold=False)
        world.write(*rows_of("forgotten", "1000"), *rows_of("skipped", "1200"))
        lines = edited(bookings.lines, "sub-drifted", exact_amount="0.5", amount="0.5")
        lines = edited(lines, "sub-tiers", exact_amount="0.10", amount="0.10")
        lines = edited(lines, "sub-rounded", amount="0.01")
        charges = edited(edited(bookings.charges, "sub-tiers", exact_amount="0.10"), "sub-drifted", exact_amount="0")
        charges = pa.Table.from_pylist(
            [
                {**row, "exact_amount": row["exact_amount"] - Decimal("0.5")}
                if row["subscription_id"] == "sub-drifted"
                else row
                for row in charges.to_pylist()
            ],
            schema=charges.schema,
        )
        bookings = Bookings(lines, charges, is_complete=True)
    return statement_of(
        world,
        stored=[{**row, "recorded_at": row["event_time"] + timedelta(seconds=1)} for row in world.stored()],
        terms=terms,
        bookings=bookings,
        given=given,
        controls=our_controls(),
        as_of=LOOKED_AT,
    )
