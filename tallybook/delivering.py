"""Delivery over a workspace: the final invoices of the books into the outbox, and what is due to the providers.

Enters: a workspace and the sections [delivery.NAME] of its settings. Leaves: what each adapter did. Refuses: to send what was
issued before the date that the section names with `from`, so that switching an adapter on does not send a history again.

Each step may be interrupted and run again, from any number of hosts: an intent is one row, and a delivery is looked for
before it is written twice (billing_adapters.deliver).
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, select

from billing_adapters.adapter import Document
from billing_adapters.books import deliveries
from billing_adapters.credits import Earlier, lowered_by
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.discovery import make_adapter
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.outbox import END_OF_TIME, OPEN_STATES, Enqueued, Outbox
from metering.clock import iso_utc
from metering.numbers import exact_difference, exact_sum
from rating.books import invoice_lines, invoices
from rating.ledger import read_invoices
from rating.rate import LINE_KEY
from rating.voids import read_voids
from tallybook.allocated_hours import Allocations
from tallybook.books import reading
from tallybook.errors import BadSettings
from tallybook.marketplace_settings import SECTION, MarketplaceOptions
from tallybook.metered_hours import HourSettings, hour_intents
from tallybook.metered_instances import instance_intents
from tallybook.metered_windows import WindowSettings, window_intents
from tallybook.publishing import papers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from billing_adapters.adapter import Adapter, Intent, Lowered
    from rating.invoice import Invoice
    from tallybook.workspace import Workspace

INVOICES_AT_ONCE = 500
# Whose hours may be split over tags.
ALLOCATING = (SECTION, "aws_meter_usage")
UsageSettings = tuple[HourSettings, WindowSettings]


@dataclass(frozen=True, slots=True)
class AdapterRun:
    """What one adapter did: intents that are new (of a dry run: that would be), and what became of what was due."""

    adapter: str
    intents: tuple[Intent, ...] = ()
    enqueued: Enqueued = field(default_factory=lambda: Enqueued(0, 0, 0))
    delivered: Delivered = field(default_factory=Delivered)


def deliver(
    workspace: Workspace,
    names: Sequence[str] | None = None,
    *,
    is_dry: bool = False,
    limit: int | None = None,
    calls_max: int | None = None,
    usage_until: datetime | None = None,
    on_due: Callable[[str, int], object] = lambda _adapter, _items: None,
    on_item: Callable[[int], object] = lambda _items: None,
    wait: Callable[[float], object] | None = None,
) -> list[AdapterRun]:
    """Deliver by the adapters named, or by all that the settings have; see `Workspace.deliver`.

    `on_due` is told how many items an adapter has due, after enqueuing and up to `limit`; `on_item` how many more were tried.
    `usage_until`: of usage by the hour or the window only what ended by then is new; for who does one hour after the other.
    """
    sections = workspace.settings.delivery
    unknown = sorted(set(names or ()) - sections.keys())
    if unknown:
        raise BadSettings(f"there is no section [delivery.{unknown[0]}] in {workspace.layout.settings_file}")
    runs: list[AdapterRun] = []
    failures: list[AdapterMisconfigured] = []
    for name in names or sorted(sections):
        since, options, (hours, windows) = _taken(name, sections[name])
        usage = replace(hours, until=usage_until), replace(windows, until=usage_until)
        try:
            adapter = make_adapter(name, options)
            if is_dry:
                runs.append(AdapterRun(name, tuple(_new_intents(workspace, adapter, since, usage))))
                continue
            enqueued = _enqueue(workspace, adapter, since, usage)
            deliverer = Deliverer(
                workspace.books,
                adapter,
                clock=workspace.clock,
                name=f"{socket.gethostname()}:{os.getpid()}",
                calls_max=calls_max,
                wait=wait,
            )
            due = deliverer.outbox.due()
            on_due(name, due if limit is None else min(due, limit))
            runs.append(AdapterRun(name, (), enqueued, deliverer.run(limit=limit, on_item=on_item)))
        except AdapterMisconfigured as failure:
            # One provider's key is no reason to let another one's hours expire.
            failures.append(_with_deadline(workspace, name, failure))
    if failures:
        raise failures[0]
    return runs


def adapter_of(workspace: Workspace, name: str) -> Adapter:
    """Return the adapter of a section of the settings. Raises BadSettings, AdapterMisconfigured."""
    if name not in workspace.settings.delivery:
        known = ", ".join(sorted(workspace.settings.delivery)) or "none"
        raise BadSettings(f"there is no section [delivery.{name}] in the settings; there are {known}")
    _, options, _ = _taken(name, workspace.settings.delivery[name])
    return make_adapter(name, options)


def _taken(name: str, section: Mapping[str, Any]) -> tuple[datetime, dict[str, Any], UsageSettings]:
    """Return from when on, what is the adapter's own, and what is said of usage. Raises BadSettings."""
    since, options = section_since(name, section)
    hours = HourSettings.taken_from(options)
    if name == SECTION:
        market = MarketplaceOptions.taken_from(options)
        hours = replace(hours, final_window=market.final_window, contract_only=market.contract_only)
    if name in ALLOCATING:
        hours = replace(hours, allocations=Allocations.taken_from(name, options))
    return since, options, (hours, WindowSettings.taken_from(options, hours.settle))


def _with_deadline(workspace: Workspace, adapter: str, failure: AdapterMisconfigured) -> AdapterMisconfigured:
    """Return the failure with what waits for it to be mended, and until when."""
    is_open = and_(deliveries.c.adapter == adapter, deliveries.c.state.in_(OPEN_STATES))
    with reading(workspace.books) as connection:
        waiting, soonest = connection.execute(
            select(func.count(), func.min(deliveries.c.deadline)).where(is_open)
        ).one()
    if not waiting:
        return failure
    until = "" if soonest is None or soonest == END_OF_TIME else f", the first of them until {iso_utc(soonest)}"
    return AdapterMisconfigured(f"{failure.message} ({waiting:,} deliveries wait{until})", **failure.details)


def section_since(name: str, section: Mapping[str, Any]) -> tuple[datetime, dict[str, Any]]:
    """Return from which issue on a section's adapter delivers, and the rest of the section. Raises BadSettings."""
    options = dict(section)
    since = options.pop("from", None)
    if isinstance(since, str):
        since = date.fromisoformat(since)
    if not isinstance(since, date):
        raise BadSettings(
            f"[delivery.{name}] must say from which date of issue on invoices are sent: from = 2026-11-01; "
            "without it all invoices of the past would be sent"
        )
    return datetime(since.year, since.month, since.day, tzinfo=UTC), options


def _enqueue(workspace: Workspace, adapter: Adapter, since: datetime, usage: UsageSettings) -> Enqueued:
    outbox = Outbox(workspace.books, adapter.capabilities, workspace.clock)
    new = there = parked = 0
    for intents in _prepared(workspace, adapter, since, usage):
        done = outbox.enqueue(intents)
        new, there, parked = new + done.new, there + done.there, parked + done.parked
    return Enqueued(new, there, parked)


def _new_intents(workspace: Workspace, adapter: Adapter, since: datetime, usage: UsageSettings) -> list[Intent]:
    outbox = Outbox(workspace.books, adapter.capabilities, workspace.clock)
    return [one for intents in _prepared(workspace, adapter, since, usage) for one in outbox.missing(intents)]


def _prepared(workspace: Workspace, adapter: Adapter, since: datetime, usage: UsageSettings) -> Iterator[list[Intent]]:
    """Yield the intents of documents that have none yet, some at a time, in the order of issue; of hours, where it takes such."""
    if "billing_adjustment" in adapter.capabilities.kinds:
        # People ask for these, one by one: `tallybook marketplace adjust`.
        return
    if "metered_hour" in adapter.capabilities.kinds:
        until, allocations = usage[0].complete_until(workspace.now), usage[0].allocations
        yield instance_intents(workspace, adapter, usage[1].meters, since, until, allocations)
        return
    if adapter.capabilities.grain == "hour":
        yield hour_intents(workspace, adapter, usage[0], since)
        return
    if adapter.capabilities.grain == "interval":
        yield window_intents(workspace, adapter, usage[1], since)
        return
    if "credit_grant" in adapter.capabilities.kinds:
        granted = [one for one in workspace.catalog_or_empty().balances if one.starts_at >= since]
        yield [intent for one in granted for intent in adapter.prepare(one)]
        return
    name = adapter.capabilities.name
    account_names = {account.id: account.name for account in workspace.catalog_or_empty().accounts}
    with reading(workspace.books) as connection:
        ids = _without_delivery(connection, name, since)
        carried = _carried(connection, name)
    lowered: defaultdict[str, list[Decimal]] = defaultdict(list)
    for at in range(0, len(ids), INVOICES_AT_ONCE):
        order = {invoice_id: place for place, invoice_id in enumerate(ids[at : at + INVOICES_AT_ONCE])}
        with reading(workspace.books) as connection:
            found = read_invoices(connection, invoice_ids=list(order))
            voids = read_voids(connection, list(order))
            taxed = {paper.invoice.invoice_id: paper.taxed for paper in papers(workspace, found)}
            intents: list[Intent] = []
            for one in sorted(found, key=lambda one: order[one.invoice_id]):
                document = Document(
                    one,
                    account_names.get(one.account_id, one.account_id),
                    carried=carried[f"{one.account_id} {one.currency}"],
                    voided=voids.get(one.invoice_id),
                    taxed=taxed[one.invoice_id],
                )
                document = replace(document, lowers=_lowers(connection, name, document, lowered))
                intents += _carrying(adapter.prepare(document), carried)
        yield intents


def _lowers(
    connection: Connection, adapter: str, document: Document, lowered: defaultdict[str, list[Decimal]]
) -> tuple[Lowered, ...]:
    """Return what a credit note lowers, and remember it for the ones that follow."""
    if document.invoice.document_type != "credit_note":
        return ()
    lowers = lowered_by(-document.payable, _earlier(connection, adapter, document.invoice, lowered))
    for one in lowers:
        lowered[one.invoice_id].append(one.amount)
    return lowers


def _carrying(intents: Sequence[Intent], carried: defaultdict[str, Decimal]) -> Sequence[Intent]:
    """Count what the provider does not get of these, and return them."""
    for intent in intents:
        if intent.series is not None and intent.amount is not None and intent.quantity is not None:
            carried[intent.series] = exact_sum(
                [carried[intent.series], exact_difference(intent.amount, intent.quantity)]
            )
    return intents


def _without_delivery(connection: Connection, adapter: str, since: datetime) -> list[str]:
    """Return the final and void documents that the outbox does not know yet, oldest first, invoices before credit notes."""
    has_own = and_(deliveries.c.adapter == adapter, deliveries.c.subject == invoices.c.invoice_id)
    there = select(deliveries.c.delivery_id).where(has_own).exists()
    voided = select(deliveries.c.delivery_id).where(has_own, deliveries.c.kind == "void").exists()
    query = (
        select(invoices.c.invoice_id)
        .where(
            invoices.c.issued_at >= since,
            ((invoices.c.status == "final") & ~there) | ((invoices.c.status == "void") & ~voided),
        )
        .order_by(invoices.c.issued_at, invoices.c.series.desc(), invoices.c.number)
    )
    return list(connection.scalars(query))


def _carried(connection: Connection, adapter: str) -> defaultdict[str, Decimal]:
    """Return what the provider did not get of what was booked, by account and currency."""
    # What is void is neither booked nor at the provider, so nothing of it is carried.
    query = select(deliveries.c.series, deliveries.c.amount, deliveries.c.quantity).where(
        deliveries.c.adapter == adapter,
        deliveries.c.amount != deliveries.c.quantity,
        deliveries.c.series.is_not(None),
        deliveries.c.subject.not_in(select(invoices.c.invoice_id).where(invoices.c.status == "void")),
    )
    carried: defaultdict[str, Decimal] = defaultdict(Decimal)
    for series, amount, quantity in connection.execute(query):
        carried[series] = exact_sum([carried[series], exact_difference(amount, quantity)])
    return carried


def _earlier(
    connection: Connection, adapter: str, credit_note: Invoice, lowered: Mapping[str, Sequence[Decimal]]
) -> list[Earlier]:
    """Return the invoices of an account that a provider has, with what is left of them."""
    held = and_(deliveries.c.adapter == adapter, deliveries.c.account_id == credit_note.account_id)
    # What is asked for there, with taxes.
    asked = select(deliveries.c.subject, deliveries.c.amount).where(
        held, deliveries.c.kind == "invoice", deliveries.c.state != "waived"
    )
    amounts = {row.subject: row.amount for row in connection.execute(asked)}
    is_sent = asked.with_only_columns(deliveries.c.subject)
    mine = and_(
        invoices.c.account_id == credit_note.account_id,
        invoices.c.currency == credit_note.currency,
        invoices.c.status == "final",
        invoices.c.issued_at <= credit_note.issued_at,
        invoices.c.invoice_id.in_(is_sent),
    )
    taken: defaultdict[str, list[Decimal]] = defaultdict(list)
    credited = select(deliveries.c.natural_key, deliveries.c.amount).where(held, deliveries.c.kind == "credit_note")
    for key, amount in connection.execute(credited):
        taken[key.rpartition(":")[2]].append(-amount)
    keys = {tuple(getattr(line, name) for name in LINE_KEY) for line in credit_note.lines}
    columns = [invoice_lines.c[name] for name in LINE_KEY]
    booked = select(invoice_lines.c.invoice_id, *columns).where(
        invoice_lines.c.invoice_id.in_(select(invoices.c.invoice_id).where(mine))
    )
    corrected = {row[0] for row in connection.execute(booked) if tuple(row[1:]) in keys}
    made = []
    for row in connection.execute(select(invoices.c.invoice_id, invoices.c.number, invoices.c.issued_at).where(mine)):
        away = [*taken[row.invoice_id], *lowered.get(row.invoice_id, ())]
        left = exact_difference(amounts[row.invoice_id], *away)
        made.append(Earlier(row.invoice_id, row.number, row.issued_at, left, row.invoice_id in corrected))
    return made
