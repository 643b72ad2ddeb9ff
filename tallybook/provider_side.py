"""The providers' side of a workspace: their lists, kept as evidence, and both sides as controls read them.

Enters: a workspace, its sections [delivery.NAME], exports of a provider. Leaves: kept lists; and for a period the tables of what
was sent and what providers say, with how each adapter is compared. Refuses: to ask a provider while it compares: that needs no
key and no network, and the same lists give the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select

from billing_adapters.aws_marketplace_adapter.records import DECIMALS_MAX, decimals_for
from billing_adapters.books import deliveries, delivery_links
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.kept_lists import keep_list, kept_tables, load_table, newest_tables
from billing_adapters.provider_list import DOCUMENTS, PAYMENTS, QUANTITIES, Asked, ProviderList, read_table
from billing_adapters.reconciliation.against_provider import Compared, documents_of
from billing_adapters.reconciliation.inputs import schema_of
from billing_adapters.reconciliation.matching import EXACT, Tolerance
from billing_adapters.sent_list import DOCUMENT_KINDS, sent_documents, sent_quantities
from billing_adapters.settlements import Reading, book_readings
from entitlements.contracts import net_of
from metering.periods import parse_period
from rating.ledger import read_invoices
from tallybook.books import reading
from tallybook.delivering import adapter_of, section_since
from tallybook.entitlements import Entitlements
from tallybook.errors import BadSettings
from tallybook.metered_windows import LENGTHS
from tallybook.publishing import papers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from sqlalchemy import Connection

    from billing_adapters.adapter import Listing
    from billing_adapters.kept_lists import KeptTable, Source
    from metering.periods import WallPeriod
    from tallybook.workspace import Workspace

FOLDER = "provider"
# How far a provider's clock and ours may be apart.
APART = timedelta(days=1)
HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A double is good for 15 digits; nine of them are asked for.
DOUBLES = Tolerance(quantity_share=Decimal("0.000000001"))
_INPUT_OF = {DOCUMENTS: "provider_document", PAYMENTS: "provider_payment", QUANTITIES: "provider_quantity"}


@dataclass(frozen=True, slots=True)
class BothSides:
    """What controls and equations are given of deliveries: tables by the name of their input, and the adapters to compare."""

    given: Mapping[str, pa.Table] = field(default_factory=dict)
    compared: Sequence[Compared] = ()


def read_list(workspace: Workspace, name: str, period: str) -> list[KeptTable]:
    """Ask a provider what it has that was made since a period began, and keep the answer.

    Raises BadSettings for an adapter that can tell nothing, AdapterMisconfigured, ProviderAway (a retry may help).
    """
    adapter = adapter_of(workspace, name)
    listing = adapter.capabilities.listing
    if listing is None:
        raise BadSettings(f"{name} cannot tell what its provider has; export it there, and import the file")
    start, end = _bounds(parse_period(period))
    now = workspace.now
    asked = _asked(workspace, name, start, min(end, now)) if listing.needs_asking else []
    since, until = start - APART, now + APART
    held = adapter.list_held(since, until, asked=asked, spend=lambda: None, read_at=now)  # type: ignore[attr-defined]
    return _keep(workspace, held, "read")


def import_list(
    workspace: Workspace, name: str, period: str, files: Mapping[str, Path], *, read_at: datetime | None = None
) -> list[KeptTable]:
    """Keep exports of a provider, by table, as its list for a period. `read_at`: when they were made, by default now.

    Raises ProviderListRefused with file, row and column; nothing is kept then.
    """
    start, end = _bounds(parse_period(period))
    tables = {table: read_table(table, path) for table, path in files.items()}
    held = ProviderList(name, start - APART, max(end, workspace.now) + APART, read_at or workspace.now, tables)
    return _keep(workspace, held, "import")


def _keep(workspace: Workspace, held: ProviderList, source: Source) -> list[KeptTable]:
    """Keep a list, and book what it says was paid."""
    kept = keep_list(workspace.books, workspace.layout.root / FOLDER, held, source)
    readings = [
        Reading(
            held.adapter,
            row["provider_id"],
            row["invoice_id"],
            row["currency"],
            {"payment": row["paid"], "refund": row["refunded"], "write_off": row["written_off"]},
            held.read_at,
        )
        for row in held.table(PAYMENTS).to_pylist()
        # What credit notes give back is in our own; what is given back beside them is on the row of the invoice.
        if row["kind"] == "invoice" and row["invoice_id"] is not None
    ]
    with workspace.books.begin() as connection:
        book_readings(connection, readings, now=workspace.now)
    return kept


def lists(workspace: Workspace) -> list[KeptTable]:
    """Return what is kept of providers' lists, newest first."""
    with reading(workspace.books) as connection:
        return kept_tables(connection)


def both_sides(workspace: Workspace, wall: WallPeriod) -> BothSides:
    """Return both sides of every adapter for a period: what was sent, and the newest list of its provider.

    Raises ProviderListRefused where a kept list is not what it was.
    """
    start, end = _bounds(wall)
    with reading(workspace.books) as connection:
        there = [one for one in read_invoices(connection, wall=wall) if one.status != "draft"]
    booked = documents_of(there, {paper.invoice.invoice_id: paper.taxed for paper in papers(workspace, there)})
    with reading(workspace.books) as connection:
        names = _adapters(connection, workspace)
        if not names:
            return BothSides(booked)
        owners = _owners(workspace)
        tables: dict[str, list[pa.Table]] = {}
        compared = []
        for name in names:
            kept = newest_tables(connection, name, start, end)
            theirs = {table: load_table(workspace.layout.root / FOLDER, one) for table, one in kept.items()}
            for table, rows in theirs.items():
                if table in _INPUT_OF:
                    tables.setdefault(_INPUT_OF[table], []).append(_as_input(_INPUT_OF[table], rows))
            known = [] if DOCUMENTS not in theirs else theirs[DOCUMENTS]["delivery_id"].drop_null().to_pylist()
            sent = sent_documents(connection, name, issued_from=start - APART, delivery_ids=known)
            tables.setdefault("sent_document", []).append(_as_input("sent_document", sent))
            told = sent_quantities(connection, name, EPOCH, end, owners)
            tables.setdefault("sent_quantity", []).append(_as_input("sent_quantity", told))
            compared.append(_compared(workspace, name, kept))
    tables["delivering_adapter"] = [_delivering(workspace)]
    if (ledger := _ledger(workspace, end, tables["sent_quantity"])) is not None:
        tables["ledger_quantity"] = [ledger]
    return BothSides({**booked, **{name: _joined(parts) for name, parts in tables.items()}}, compared)


def _bounds(wall: WallPeriod) -> tuple[datetime, datetime]:
    return wall.start.replace(tzinfo=UTC), wall.end.replace(tzinfo=UTC)


def _as_input(name: str, table: pa.Table) -> pa.Table:
    schema = schema_of(name)
    return table.select(schema.names).cast(schema)


def _joined(parts: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(parts)


def _adapters(connection: Connection, workspace: Workspace) -> list[str]:
    """Return the adapters that the settings name, and those that ever delivered."""
    return sorted({*workspace.settings.delivery, *connection.scalars(select(deliveries.c.adapter).distinct())})


def _listing(workspace: Workspace, name: str) -> Listing | None:
    """Return what an adapter can list; None where it cannot be made here, for comparing needs no key."""
    if name not in workspace.settings.delivery:
        return None
    try:
        return adapter_of(workspace, name).capabilities.listing
    except (AdapterMisconfigured, BadSettings):
        return None


def _compared(workspace: Workspace, name: str, kept: Mapping[str, KeptTable]) -> Compared:
    listing = _listing(workspace, name)
    if not kept:
        return Compared(name)
    settles = timedelta(0) if listing is None else listing.settles
    # What we learnt after the list was read cannot be in it.
    oldest = min(one.read_at for one in kept.values())
    otherwise = DOUBLES if listing is not None and listing.is_double else EXACT
    return Compared(name, frozenset(kept), oldest - settles, None, otherwise)


def _delivering(workspace: Workspace) -> pa.Table:
    """Return the adapters that are to have every document, and from which issue on."""
    import pyarrow as pa

    with reading(workspace.books) as connection:
        of_documents = set(
            connection.scalars(select(deliveries.c.adapter).where(deliveries.c.kind.in_(DOCUMENT_KINDS)).distinct())
        )
    rows = []
    for name, section in sorted(workspace.settings.delivery.items()):
        since, _ = section_since(name, section)
        try:
            takes = "invoice" in adapter_of(workspace, name).capabilities.kinds
        except (AdapterMisconfigured, BadSettings):
            # Without its key it cannot be made; what it delivered before says what it is.
            takes = name in of_documents
        if takes:
            rows.append({"adapter": name, "delivers_from": since})
    return pa.Table.from_pylist(rows, schema=schema_of("delivering_adapter"))


def _owners(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """Return, by series, the tenant and the meter behind it where there is one of each."""
    catalog = workspace.catalog_or_empty()
    owners = {f"{one.id} {one.dimension}": (one.tenant, one.meter) for one in catalog.contracts}
    for section in workspace.settings.delivery.values():
        for meter, name in (section.get("meters") or {}).items():
            for account in catalog.accounts:
                if len(account.tenants) == 1:
                    owners[f"{account.id} {name}"] = (account.tenants[0], meter)
    return owners


def _asked(workspace: Workspace, name: str, start: datetime, end: datetime) -> list[Asked]:
    """Return the series that were told to a provider that lists nothing by itself."""
    length = LENGTHS[workspace.settings.delivery[name].get("window", "hour")]
    with reading(workspace.books) as connection:
        told = sent_quantities(connection, name, start, end).to_pylist()
        # Customers are Stripe's word; the link is kept under it whichever of its adapters made it.
        linked = select(delivery_links.c.our_id, delivery_links.c.provider_id).where(
            delivery_links.c.adapter == name, delivery_links.c.kind == "customer"
        )
        customers = {row.our_id: row.provider_id for row in connection.execute(linked)}
    customers |= workspace.settings.delivery[name].get("customers") or {}
    series = sorted({(row["account_id"], row["name"]) for row in told})
    return [Asked(account, what, start, end, length, customers.get(account)) for account, what in series]


def _ledger(workspace: Workspace, end: datetime, told: list[pa.Table]) -> pa.Table | None:
    """Return what was used of every contract until the last hour that was told of it by `end`; None: none was told."""
    import pyarrow as pa

    catalog = workspace.catalog_or_empty()
    last: dict[tuple[str, str, str], tuple[datetime, str]] = {}
    for row in (row for table in told for row in table.to_pylist() if row["kind"] == "hour"):
        key = (row["adapter"], row["subscription_id"], row["name"])
        last[key] = max(last.get(key, (EPOCH, "")), (row["start"], row["account_id"]))
    contracts = {(one.id, one.dimension): one for one in catalog.contracts}
    known = [(key, found) for key, found in sorted(last.items()) if key[1:] in contracts]
    if not known:
        return None
    untils = []
    for key, (start, _) in known:
        ends_at = contracts[key[1:]].contract.ends_at
        untils.append(min(one for one in (start + HOUR, end, ends_at) if one is not None))
    asked = [
        (contracts[key[1:]].tenant, contracts[key[1:]].meter, contracts[key[1:]].contract.starts_at, until)
        for (key, _), until in zip(known, untils, strict=True)
    ]
    rows = []
    for (key, (_, account_id)), until, used in zip(known, untils, Entitlements(workspace).used(asked), strict=True):
        one = contracts[key[1:]]
        section = workspace.settings.delivery.get(key[0], {})
        decimals = decimals_for(key[2], section.get("decimals", DECIMALS_MAX), section.get("decimals_of"))
        rows.append(
            {
                "adapter": key[0],
                "subscription_id": key[1],
                "name": key[2],
                "tenant_id": one.tenant,
                "account_id": account_id,
                "meter": one.meter,
                "until": until,
                "quantity": net_of(one.contract.included, used),
                "unit_size": Decimal(1).scaleb(-decimals),
            }
        )
    return pa.Table.from_pylist(rows, schema=schema_of("ledger_quantity"))
