"""What controls read of a workspace: final documents, closes, prepaid money, list prices, windows of providers, as tables.

Enters: a connection to the books, and from which billing periods on; settings and the catalog. Leaves: the given inputs of
`reconciliation.inputs`. Refuses: to write. Amounts are as they are booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, literal, select

from billing_adapters.payments import list_payments
from billing_adapters.reconciliation.inputs import schema_of
from billing_adapters.reconciliation.recover_by import Accepts
from metering.control_points import ATTRIBUTED, DELIVERED, INVOICED, read_points
from rating.books import balance_burns, charges, invoice_lines, invoices
from rating.voids import read_voids

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    import pyarrow as pa

    from rating.close import Close
    from rating.grants import ProviderContract
    from rating.terms import Terms
    from tallybook.settings import DiscountAuthority, ListPrice


METERS_AT_STRIPE = "stripe_meters"
_DISCOUNT = "discount:"


def documents_since(connection: Connection, since: datetime) -> dict[str, pa.Table]:
    """Return every final document with a line of a billing period that begins at `since` or later, with all its lines."""
    mine = (
        select(invoice_lines.c.invoice_id)
        .join(invoices, invoices.c.invoice_id == invoice_lines.c.invoice_id)
        .where(invoices.c.status == "final", invoice_lines.c.period_start >= since)
        .distinct()
    )
    return {
        "final_invoice": _read(connection, "final_invoice", select(invoices).where(invoices.c.invoice_id.in_(mine))),
        "final_line": _read(
            connection, "final_line", select(invoice_lines).where(invoice_lines.c.invoice_id.in_(mine))
        ),
    }


def burns_of(connection: Connection) -> dict[str, pa.Table]:
    """Return what prepaid balances paid, all final documents: what is left of a balance is known by all of them only."""
    asked = (
        select(
            balance_burns.c.invoice_id, balance_burns.c.balance_id, balance_burns.c.amount, invoice_lines.c.currency,
            invoices.c.account_id, invoice_lines.c.price_id, invoice_lines.c.service_start, invoice_lines.c.service_end,
            invoices.c.issued_at,
        )
        .join(invoice_lines, invoice_lines.c.line_id == balance_burns.c.line_id)
        .join(invoices, invoices.c.invoice_id == balance_burns.c.invoice_id)
        .where(invoices.c.status == "final")
    )  # fmt: skip
    return {"balance_burn": _table("balance_burn", connection.execute(asked).all())}


def discounts_given(connection: Connection, terms: Terms) -> dict[str, pa.Table]:
    """Return what discounts of limited `periods` took off, all final documents: how often one was used is known by all only."""
    of_payers = (one for account in terms.accounts.values() for one in account.discounts)
    of_plans = (one for plan in terms.plans.values() for one in plan.discounts)
    of_subscriptions = (one for subscription in terms.subscriptions for one in subscription.discounts)
    offered = (*of_payers, *of_plans, *of_subscriptions)
    parts = {f"{_DISCOUNT}{one.id}" for one in offered if one.periods is not None}
    line = invoice_lines.c
    asked = (
        select(
            line.tenant_id, invoices.c.account_id, line.subscription_id, charges.c.part, line.currency,
            line.period_start, charges.c.exact_amount,
        )
        .join(invoice_lines, line.line_id == charges.c.line_id)
        .join(invoices, invoices.c.invoice_id == line.invoice_id)
        .where(invoices.c.status == "final", charges.c.part.in_(sorted(parts)))
    )  # fmt: skip
    rows = [
        (*owner, part.removeprefix(_DISCOUNT), currency, period_start, amount.copy_negate())
        for *owner, part, currency, period_start, amount in connection.execute(asked)
    ]
    return {"discount_given": _table("discount_given", rows)}


def payments_read(connection: Connection) -> dict[str, pa.Table]:
    """Return what webhooks told of the payment of our invoices."""
    told = [one for one in list_payments(connection) if one.invoice_id is not None]
    rows = [(one.adapter, one.provider_id, one.invoice_id, one.amount_paid, one.amount_remaining) for one in told]
    return {"payment_read": _table("payment_read", rows)}


def closes_of(closes: Sequence[Close], start: datetime, end: datetime, revision: int) -> dict[str, pa.Table]:
    """Return the closes whose invoices are final, and what the closes of a period and the last one of all took of the lake."""
    made = [close for close in closes if close.invoices_made and not close.is_draft]
    rows = [
        (one.close_id, one.position, one.period_start, one.period_end, one.as_of,
         one.is_complete and one.kind == "period", one.catalog_revision == revision)
        for one in made
    ]  # fmt: skip
    last = max((one.position for one in made), default=0)
    looked_at = [one for one in made if one.position == last or (one.period_start, one.period_end) == (start, end)]
    cuts = [(one.close_id, producer, segment) for one in looked_at for producer, segment in one.snapshot.cut]
    return {"period_close": _table("period_close", rows), "close_cut": _table("close_cut", cuts)}


def acts_of(connection: Connection, closes: Sequence[Close], start: datetime, end: datetime) -> dict[str, pa.Table]:
    """Return what the closes of a period wrote down as they made their documents; what voids and deliveries wrote of these
    afterwards; these documents as they are now; and the close that saw the end of the period, if it attributed its usage."""
    made = [
        one
        for one in closes
        if one.invoices_made and not one.is_draft and (one.period_start, one.period_end) == (start, end)
    ]
    position = {one.close_id: one.position for one in made}
    names = schema_of("control_point").names
    points: list[Any] = []
    documents: list[Any] = []
    for one in made:
        columns = [invoices.c[name] for name in schema_of("close_document").names]
        documents += connection.execute(
            select(*columns).where(invoices.c.close_id == one.close_id, invoices.c.status.in_(("final", "void")))
        ).all()
        told = read_points(connection, batch_id=one.close_id)
        told += read_points(
            connection, DELIVERED, before=select(invoices.c.invoice_id).where(invoices.c.close_id == one.close_id)
        )
        told += read_points(connection, INVOICED, before=select(literal(one.close_id)))
        voids = read_voids(connection, [point.batch_id for point in told if point.reason == "void"])
        position |= {invoice_id: void.position for invoice_id, void in voids.items()}
        points += [
            tuple(position.get(point.batch_id) if name == "position" else getattr(point, name) for name in names)
            for point in told
        ]
    found = {"control_point": _table("control_point", points), "close_document": _table("close_document", documents)}
    attributed = {point[names.index("batch_id")] for point in points if point[names.index("point")] == ATTRIBUTED}
    last = [one for one in made if one.is_complete and one.kind == "period" and one.close_id in attributed]
    if last:
        found["attributed_close"] = _table("attributed_close", [(last[-1].close_id, last[-1].position)])
    return found


def prices_listed(listed: Mapping[str, ListPrice]) -> dict[str, pa.Table]:
    """Return the list prices of the settings."""
    return {
        "list_price": _table("list_price", [(meter, one.currency, one.unit_price) for meter, one in listed.items()])
    }


def authority_of(declared: DiscountAuthority | None) -> dict[str, pa.Table]:
    """Return who may give away how much, as the settings say; absent where they do not."""
    if declared is None:
        return {}
    rows: list[tuple[str, str | None, Decimal | None, Decimal | None]] = []
    for approver, own in (("", declared), *sorted(declared.approvers.items())):
        rows.append((approver, None, own.percent_max, None))
        rows += [(approver, currency, None, most) for currency, most in sorted(own.amount_max.items())]
    return {"discount_authority": _table("discount_authority", rows)}


def windows_of(
    contracts: Sequence[ProviderContract], delivery: Mapping[str, Mapping[str, Any]], terms: Terms
) -> dict[str, list[Accepts]]:
    """Return by tenant how long the provider takes its usage that bills by it: AWS Marketplace, for those with a contract,
    and Stripe, for the tenants of all accounts and the meters that its section names."""
    from billing_adapters.aws_marketplace_adapter.hours import WINDOW

    found = {contract.tenant: [Accepts("aws_marketplace", WINDOW)] for contract in contracts}
    meters = frozenset(delivery.get(METERS_AT_STRIPE, {}).get("meters") or ())
    if meters:
        from billing_adapters.stripe_adapter.meter_events import WINDOW as OF_STRIPE

        for tenant in terms.payer_by_tenant():
            found.setdefault(tenant, []).append(Accepts(METERS_AT_STRIPE, OF_STRIPE, meters))
    return found


def accepted_windows(windows: Mapping[str, Sequence[Accepts]]) -> dict[str, pa.Table]:
    """Return the windows as an input; absent where no provider bills by usage."""
    rows = [
        (tenant, adapter, int(window.oldest.total_seconds()))
        for tenant, held in sorted(windows.items())
        for adapter, window, _ in held
        if window.oldest is not None
    ]
    return {"accept_window": _table("accept_window", rows)} if rows else {}


def _read(connection: Connection, name: str, asked: Select[Any]) -> pa.Table:
    """Return what a query gives in the columns that controls know."""
    columns = (asked.selected_columns[column] for column in schema_of(name).names)
    return _table(name, connection.execute(asked.with_only_columns(*columns)).all())


def _table(name: str, rows: Iterable[Any]) -> pa.Table:
    import pyarrow as pa

    schema = schema_of(name)
    values = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(values, schema, strict=True)], schema=schema
    )
