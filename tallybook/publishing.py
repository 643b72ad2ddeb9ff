"""From the books of a workspace to the run that is published: papers, usage, and what computed them.

Enters: a workspace and a period with invoices. Leaves: a `PublishedRun`, the same one whenever it is asked for.
Refuses: periods without invoices.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import contextmanager
from datetime import UTC, datetime, time
from importlib.metadata import version
from typing import TYPE_CHECKING

from billing_adapters.file_adapter import usage_of
from billing_adapters.file_adapter.roll_forwards import rolled_from
from billing_adapters.file_adapter.usage_detail import detail_tables
from billing_adapters.ledger_accounts import LedgerMap
from billing_adapters.ports import PublishedRun
from billing_adapters.prepaid_balances import Burnt, Seen, prepaid_legs
from billing_adapters.receivables import Asked, keep_asked, legs_before, not_kept, posted
from billing_adapters.settlements import read_settlements
from metering.periods import parse_period
from metering.usage import Snapshot
from rating.close import read_closes
from rating.errors import NotFound
from rating.ledger import read_around, read_burns, read_invoices, read_posting_since
from rating.paper import as_issued, papers_of
from rating.run import rated
from rating.terms import Terms
from tallybook.books import reading
from tallybook.catalog_history import balance_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    import pyarrow as pa

    from billing_adapters.ports import UsageDetail
    from billing_adapters.prepaid_balances import PrepaidLeg
    from billing_adapters.receivables import Leg, PostedSettlement
    from metering.periods import WallPeriod
    from rating.close import Close
    from rating.invoice import Invoice
    from rating.paper import Paper
    from tallybook.workspace import Workspace

DOCUMENTS_AT_ONCE = 500


def run_to_publish(workspace: Workspace, period: str) -> PublishedRun:
    """Return the documents of a period as they are published, drafts only if there is no other. Raises NotFound.

    The usage is that of the last close, whose snapshot holds all that the closes before it had seen.
    """
    wall = parse_period(period)
    with reading(workspace.books) as connection:
        there = read_invoices(connection, wall=wall)
        closes = {close.close_id: close for close in read_closes(connection, wall=wall)}
    chosen = [one for one in there if one.status != "draft"] or there
    if not chosen:
        raise NotFound(f"{period} has no invoices yet; run `tallybook invoice --period {period}`")
    used = [closes[close_id] for close_id in dict.fromkeys(one.close_id for one in chosen)]
    last = max(used, key=lambda close: close.position)
    with workspace.rating(last) as (connection, terms, files), rated(connection, last, terms, files) as engine:
        usage = usage_of(engine)
    is_draft = chosen[0].status == "draft"
    own = papers(workspace, chosen)
    settled, owed = ([], []) if is_draft else receivables_at(workspace, own, rolled_from(wall, chosen), used)
    return PublishedRun(
        period=wall,
        close_ids=[close.close_id for close in used],
        snapshot_ids=sorted({close.snapshot.snapshot_id for close in used}),
        catalog_revisions=sorted({close.catalog_revision for close in used}),
        papers=own,
        usage=usage,
        # The mapping of today: it is no term of sale, and finance may mend it after a close.
        ledger=LedgerMap(workspace.catalog().ledger_accounts),
        generator_versions={"tallybook": version("tallybook")},
        earlier=[] if is_draft else earlier_papers(workspace, wall, chosen, last),
        settlements=settled,
        owed=owed,
        prepaid=[] if is_draft else prepaid_at(workspace, own, max(close.position for close in used)),
        usage_detail=detail_of(workspace, wall, own, used) if workspace.settings.files.usage_detail else None,
    )


def detail_of(workspace: Workspace, wall: WallPeriod, own: list[Paper], used: list[Close]) -> UsageDetail:
    """Return what opens the rows of every usage event of a run: its last close is rated again, and nothing is kept of it."""

    @contextmanager
    def opened() -> Iterator[Iterable[pa.Table]]:
        first = min(close.position for close in used)
        last = max(used, key=lambda close: close.position)
        with reading(workspace.books) as connection:
            before = [one for one in read_closes(connection) if not one.is_draft and one.position < first]
        tenants = {
            tenant for account in workspace.catalog(last.catalog_revision).accounts for tenant in account.tenants
        }
        with workspace.rating(last) as (connection, terms, files), rated(connection, last, terms, files) as engine:
            yield detail_tables(
                engine,
                wall,
                [paper.invoice for paper in own if paper.voided is None],
                tenants=tenants,
                dead_letters=workspace.lake.dead_letters(),
                seen=before[-1].snapshot if before else Snapshot.of({}),
            )

    return opened


def earlier_papers(workspace: Workspace, wall: WallPeriod, own: list[Invoice], last: Close) -> list[Paper]:
    """Return the papers of earlier closes that post in the months of a run or are open when they begin, as of its last close.

    A document that was voided after that close stands: its void is of a later run.
    """
    since = datetime.combine(rolled_from(wall, own), time(), UTC)
    with reading(workspace.books) as connection:
        found = read_posting_since(connection, last.position, since)
    mine = {one.invoice_id for one in own}
    return [
        as_issued(paper) if paper.voided is not None and paper.voided.position > last.position else paper
        for paper in papers(workspace, [one for one in found if one.invoice_id not in mine])
    ]


def receivables_at(
    workspace: Workspace, own: list[Paper], since: date, used: list[Close]
) -> tuple[list[PostedSettlement], list[Leg]]:
    """Return the settlements of the closes of a run, and what else was open on its first day or moved after it, up to its end.

    A settlement is of the first close after it, so that each is in one run.
    """
    keep_what_is_asked(workspace)
    position = max(close.position for close in used)
    mine = {close.close_id for close in used}
    with reading(workspace.books) as connection:
        closes = [close for close in read_closes(connection) if not close.is_draft]
        positions = [close.position for close in closes]
        found = read_settlements(connection, position)
        batch_of = {one.settlement_id: closes[bisect_right(positions, one.position)].close_id for one in found}
        settled = [one for one in found if batch_of[one.settlement_id] in mine]
        owed = legs_before(
            connection,
            position,
            since,
            without={paper.invoice.invoice_id for paper in own},
            own={one.settlement_id for one in settled},
        )
        return posted(connection, settled, batch_of), owed


def prepaid_at(workspace: Workspace, own: list[Paper], position: int) -> list[PrepaidLeg]:
    """Return what moved prepaid balances up to a position among the closes, voids of own documents too, whenever they came."""
    mine = {paper.invoice.invoice_id for paper in own}
    with reading(workspace.books) as connection:
        versions = balance_versions(connection)
        if not versions:
            return []
        closes = [one for one in read_closes(connection) if not one.is_draft and one.position <= position]
        burned = [row for row in read_burns(connection) if row.position <= position]
    seen = [
        Seen(
            close.position,
            close.as_of,
            {
                balance.id: balance
                for first, ended, balance in versions
                if first <= close.catalog_revision and (ended is None or ended > close.catalog_revision)
            },
        )
        for close in closes
    ]
    burnt = [
        Burnt(row.balance_id, row.position, row.issued_at.date(), row.amount, "burned", row.invoice_id in mine)
        for row in burned
    ]
    burnt += [
        Burnt(
            row.balance_id,
            row.void_position,
            row.voided_at.date(),
            row.amount.copy_negate(),
            "given_back",
            row.invoice_id in mine,
        )
        for row in burned
        if row.void_position is not None and (row.void_position < position or row.invoice_id in mine)
    ]
    return prepaid_legs(seen, burnt)


def keep_what_is_asked(workspace: Workspace) -> None:
    """Work out and keep what final documents ask for, of which nobody kept it yet. May be interrupted and run again."""
    while True:
        with reading(workspace.books) as connection:
            missing = not_kept(connection, DOCUMENTS_AT_ONCE)
            found = read_invoices(connection, invoice_ids=missing) if missing else []
        if not missing:
            return
        made = [as_issued(paper) for paper in papers(workspace, found)]
        asked = [
            Asked(one.invoice.invoice_id, one.seller.id if one.seller else None, one.payable, one.due_date)
            for one in made
        ]
        with workspace.books.begin() as connection:
            keep_asked(connection, asked)


def papers(workspace: Workspace, invoices: list[Invoice]) -> list[Paper]:
    """Return the papers of invoices, each under the catalog revision that it pins, in the order given."""
    made: dict[str, Paper] = {}
    for revision in dict.fromkeys(one.catalog_revision for one in invoices):
        members = [one for one in invoices if one.catalog_revision == revision]
        catalog = workspace.catalog(revision)
        terms = Terms.of(catalog.meters, catalog.plans, catalog.accounts, catalog.subscriptions, catalog.balances)
        with reading(workspace.books) as connection:
            books = read_around(connection, list(dict.fromkeys(one.close_id for one in members)), catalog.balances)
        found = papers_of(members, accounts=terms.accounts, sellers=catalog.sellers, plans=terms.plans, books=books)
        made.update((paper.invoice.invoice_id, paper) for paper in found)
    return [made[one.invoice_id] for one in invoices]
