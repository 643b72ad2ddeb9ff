"""A workspace: the four packages put together over one folder.

Enters: a folder with settings and catalog files. Leaves: the steps of the data's way, each idempotent, each returning what
it did: apply, import, ship, usage, invoice, explain, verify, publish, reconcile.
Refuses: to hold state of its own. Everything is in the journal, the lake and the books; two workspaces over one folder
are the same workspace.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from metering.clock import Clock, SystemClock, from_us, iso_utc
from metering.errors import BadPeriod
from metering.layout import Layout
from metering.meters import load_rules, publish_rules
from metering.periods import parse_period
from metering.usage import Snapshot
from rating.balances import BalanceState, balance_states
from rating.books import invoices as invoices_table
from rating.close import Close, draft_close, insert_close, read_closes
from rating.errors import NotFound
from rating.explain import Explanation, close_of_line, explain_line
from rating.ledger import book_invoices, burned_before, check_document, keep_drafts, read_invoices
from rating.run import Verified, invoices_of, made_of, verify_close
from rating.tax import TaxedInvoice, tax_invoice
from rating.terms import Terms, billing_spans
from tallybook.books import lock_for_writing, migrate, open_books, reading
from tallybook.catalog import load_catalog, meter_rules
from tallybook.catalog_entries import Catalog
from tallybook.catalog_history import Applied, apply_catalog, load_revision
from tallybook.settings import DEFAULT_SETTINGS, Settings, load_settings
from tallybook.whole_lake import whole_cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from billing_adapters.reconciliation import Statement
    from billing_adapters.reconciliation.report import Report
    from billing_adapters.reconciliation.witness import Witness
    from entitlements.alerts import Alert
    from entitlements.checker import Checker
    from metering.batch import SegmentBatch
    from metering.lake import Lake
    from metering.lake_upkeep import Maintained
    from metering.periods import WallPeriod
    from metering.recorder import Recorder
    from metering.ship import Shipped
    from rating.close import CloseKind
    from rating.invoice import Invoice
    from rating.tax import RoundingLevel, TaxCalculator
    from rating.voids import Voided
    from tallybook.alerting import Alerted
    from tallybook.contracting import ContractState
    from tallybook.delivering import AdapterRun
    from tallybook.lease_accounts import LeaseAccounts
    from tallybook.usage_rows import UsageRow

EXAMPLE_CATALOG = "catalog.yaml.example"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: rows read, stored and refused; `was_there` when this very file had been imported before."""

    path: str
    rows: int
    stored: int
    dead_letters: int
    was_there: bool


@dataclass(frozen=True, slots=True)
class Invoiced:
    """What invoicing a period did. `is_complete`: the period was over, and will not be cut again."""

    invoices: list[Invoice]
    close: Close
    is_complete: bool
    was_there: bool


class Workspace:
    """The steps of the data's way over one folder. Safe to open any number of times, in any number of processes."""

    def __init__(self, root: str | Path, *, clock: Clock | None = None) -> None:
        self.layout = Layout.of(root)
        self.clock: Clock = clock or SystemClock()
        self.settings: Settings = load_settings(self.layout)

    @classmethod
    def init(cls, root: str | Path, *, clock: Clock | None = None) -> Workspace:
        """Make a workspace, or complete one. What is there already is left as it is."""
        layout = Layout.of(root)
        for folder in (layout.root, layout.catalog, layout.journal, layout.lake):
            folder.mkdir(parents=True, exist_ok=True)
        layout.journal.chmod(0o700)
        if not (layout.settings_file.exists() or layout.settings_yaml.exists()):
            layout.settings_file.write_text(DEFAULT_SETTINGS, encoding="utf-8")
        example = layout.catalog / EXAMPLE_CATALOG
        if not example.exists():
            example.write_text(read_example_catalog(), encoding="utf-8")
        workspace = cls(root, clock=clock)
        with reading(workspace.books):
            return workspace

    @cached_property
    def books(self) -> Engine:
        """The books' engine, opened and brought to the newest shape when first used."""
        engine = open_books(self.settings.books_url(self.layout))
        migrate(engine)
        return engine

    @cached_property
    def lake(self) -> Lake:
        """The lake, opened when first used."""
        from metering.lake import Lake

        return Lake(self.layout.lake)

    @property
    def now(self) -> datetime:
        return from_us(self.clock.now_us())

    def close(self) -> None:
        """Give back the connections of the books."""
        self.books.dispose()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- catalog ------------------------------------------------------------------------------------------------------

    def apply(self) -> Applied:
        """Load `catalog/*.yaml` into the books and tell the meters to recorders. Idempotent.

        Raises CatalogInvalid with every mistake, or PlanVersionChanged; nothing is applied then.
        """
        catalog = load_catalog(self.layout.catalog)
        applied = apply_catalog(self.books, catalog, self.now)
        publish_rules(self.layout.meters_file, meter_rules(catalog))
        return applied

    def catalog(self, revision: int | None = None) -> Catalog:
        """Return the catalog that was applied last, or at a revision. Raises NotFound before the first apply."""
        return load_revision(self.books, revision)

    def terms(self, revision: int | None = None) -> Terms:
        """Return the terms of sale of a catalog revision."""
        catalog = self.catalog(revision)
        return catalog.terms()

    # --- capture ------------------------------------------------------------------------------------------------------

    def import_files(self, paths: Sequence[Path], *, progress: Callable[[int], None] | None = None) -> list[Imported]:
        """Store the usage events of CSV, JSON lines or Parquet files, durably. The same file twice adds nothing.

        Rows that cannot be events become dead letters, with reason and original. A file that is cut short or not what
        it says raises BadEventFile; every file is read to its end before the first is stored, so nothing of any is.
        """
        if len(paths) > 1:
            for path in paths:
                for _ in self._read(path, None):
                    pass
        return [self._import_file(path, progress) for path in paths]

    def _import_file(self, path: Path, progress: Callable[[int], None] | None) -> Imported:
        rows = stored = dead_letters = 0
        was_there = True
        for batch in self._read(path, progress):
            appended = self.lake.append([batch])
            was_there = was_there and not appended.segments
            rows += batch.rows
            stored += batch.events.num_rows
            dead_letters += batch.dead_letters.num_rows
        return Imported(str(path), rows, stored, dead_letters, was_there and rows > 0)

    def _read(self, path: Path, progress: Callable[[int], None] | None) -> Iterator[SegmentBatch]:
        from metering.event_files import read_event_file

        return iter(read_event_file(path, load_rules(self.layout.meters_file), self.clock.now_us(), progress=progress))

    def ship(self) -> Shipped:
        """Move every sealed segment, and those of producers that died, from the journal into the lake. Idempotent."""
        from metering.ship import ship

        return ship(self.layout, self.lake, self.clock)

    def maintain(self) -> Maintained:
        """Keep the lake's files few: compact small ones, delete what nobody refers to. Idempotent, safe beside shippers.

        Never changes what a snapshot means. Files that a query may still read stay for a week.
        """
        return self.lake.maintain()

    def account_leases(self) -> LeaseAccounts:
        """Settle what dead processes of this host held of hard quotas: what they metered is spent, the rest returns.

        Marks windows that are over with what usage says of them. Idempotent; each host does it for its own processes.
        """
        from tallybook.lease_accounts import account_leases

        return account_leases(self)

    # --- entitlements -------------------------------------------------------------------------------------------------

    def checker(self, recorder: Recorder | None = None, **settings: Any) -> Checker:
        """Return what answers checks and consumption in memory, hard quotas included, by leases of these books.

        `settings` are those of `entitlements.Checker`. Made before or after a fork, it reads nothing before its first
        check. Close it, or use it as a context manager: leases that are not returned count as spent.
        """
        from tallybook.checking import checker

        return checker(self, recorder, **settings)

    def alerts(self, receive: Callable[[Alert], object] | None = None) -> Alerted:
        """Raise what the alert rules of the catalog reach now, once per crossing, and tell the receiver. Idempotent.

        `receive` is a callback, by default the webhook of the settings; without either, alerts wait in the books. Each is told
        at least once: what the receiver raises keeps it pending, and it is told again later.
        """
        from tallybook.alerting import alert

        return alert(self, receive)

    def contracts(self) -> list[ContractState]:
        """Return what was used of every provider's contract in the catalog until now, its net, and what none covers."""
        from tallybook.contracting import contract_states

        return contract_states(self)

    # --- usage --------------------------------------------------------------------------------------------------------

    def usage(self, period: str, *, by: Sequence[str] = ()) -> list[UsageRow]:
        """Return what every tenant used in a period, priced or not, known to the catalog or not.

        One row per (tenant, meter, values of `by`), aggregated as the meter says (unknown meters are summed). The period
        is read in the time zone of the tenant's plan, in UTC for tenants without one.
        """
        from tallybook.usage_rows import usage_rows

        return usage_rows(self, parse_period(period), by)

    def evidence(self, snapshot: Snapshot | None = None) -> tuple[list[str], Snapshot]:
        """Return the lake's data files, their hashes verified, and the cut to read them at (now, or one that is pinned)."""
        snapshot = snapshot or Snapshot.of(self.lake.cut())
        files = self.lake.data_files(None, None)
        self.lake.verify(files)
        return [str(file.path) for file in files], snapshot

    def catalog_or_empty(self) -> Catalog:
        """Return the catalog that was applied last, or an empty one before the first apply."""
        try:
            return self.catalog()
        except NotFound:
            return Catalog()

    def terms_or_empty(self) -> Terms:
        """Return the applied terms, or none at all before the first apply."""
        try:
            return self.terms()
        except NotFound:
            return Terms.of([], [], [], [])

    # --- invoices -----------------------------------------------------------------------------------------------------

    def invoice(self, period: str, *, final: bool = False) -> Invoiced:
        """Invoice a period: drafts that book nothing, or final invoices that do. Idempotent.

        Final: the period is closed (its snapshot and catalog pinned, inserted if absent), and its invoices are booked in
        one transaction. While the period is still open this is a progressive cut, and the rest follows by the next one.
        Late events of earlier periods come along as corrections. Raises AmountOverflow; nothing is booked then.
        """
        wall = parse_period(period)
        self._complete_closes()
        with reading(self.books) as connection:
            closed = [close for close in read_closes(connection, wall=wall) if not close.is_draft]
        if final and closed and closed[-1].is_complete:
            with reading(self.books) as connection:
                there = [invoice for invoice in read_invoices(connection, wall=wall) if invoice.status != "draft"]
            return Invoiced(there, closed[-1], True, was_there=True)
        if not final:
            return self._draft(wall)
        close = self._close(wall, closed[-1].sequence + 1 if closed else 1)
        return Invoiced(self._book(close), close, close.is_complete, was_there=False)

    def end_of(self, period: str) -> datetime:
        """Return when a period is over in the zone of every plan that bills in it; in UTC where none does."""
        return _end_of(self.terms_or_empty(), parse_period(period))

    def close_period(self, period: str) -> Close:
        """Close a period that is over: pin the snapshot and the catalog its invoices are made from. Books nothing. Idempotent.

        `invoice(period, final=True)` books it, now or later. Raises BadPeriod while the period is open in the zone of a plan.
        """
        wall = parse_period(period)
        self._complete_closes()
        with reading(self.books) as connection:
            closed = [close for close in read_closes(connection, wall=wall) if not close.is_draft]
        if closed and closed[-1].is_complete:
            return closed[-1]
        if (ends := self.end_of(period)) > self.now:
            raise BadPeriod(f"{period} is open until {iso_utc(ends)} in the zone of its plans; close it after that")
        return self._close(wall, closed[-1].sequence + 1 if closed else 1)

    def correct(self) -> Invoiced:
        """Book now what was found late for periods that are closed: credit notes and supplementary invoices. Idempotent.

        Without it the same lines come with the account's next invoice. The close belongs to the calendar month of today
        (the period of discovery); each line keeps the period it corrects. Nothing found: no close, no document.
        """
        return self._book_early("corrections")

    def invoice_thresholds(self) -> Invoiced:
        """Invoice the open period of the accounts that reached one of their thresholds, and no other account. Idempotent.

        An early cut of the calendar month of today, nothing else: the rest follows at its close, and tiers go on.
        """
        return self._book_early("thresholds")

    def void(self, number: str, *, who: str, why: str) -> Voided:
        """Take a final document back, whole, by its number or id: what it booked is billed again by the next close. Idempotent.

        The number stays. One transaction; what was not sent of it yet is never sent, what was is voided there by `deliver`.
        Raises NotFound, AlreadyFinal (a draft), DeliveryNotOpen where a credit note lowers it at a provider.
        """
        from tallybook.voiding import void

        return void(self, number, who=who, why=why)

    def taxes(self, invoice_id: str, calculator: TaxCalculator, *, level: RoundingLevel = "invoice") -> TaxedInvoice:
        """Return the taxes of an invoice of the books, as a calculator of yours says; nothing is booked. Raises NotFound."""
        with reading(self.books) as connection:
            found = read_invoices(connection, invoice_id=invoice_id)
        if not found:
            raise NotFound(f"there is no invoice {invoice_id}; `tallybook invoices` lists them", invoice_id=invoice_id)
        return tax_invoice(found[0], self.terms(found[0].catalog_revision).plans, calculator, level=level)

    def balances(self) -> list[BalanceState]:
        """Return what became of every prepaid balance until now: granted = burned + expired + left."""
        with reading(self.books) as connection:
            burned = burned_before(connection, None)
        return balance_states(self.terms_or_empty().balances, burned, self.now)

    def invoices(self, period: str | None = None) -> list[Invoice]:
        """Return the invoices in the books, drafts included; all, or those of a period."""
        with reading(self.books) as connection:
            return read_invoices(connection, wall=parse_period(period) if period else None)

    def explain(self, line_id: str) -> Explanation:
        """Return why a line says what it says: tiers, usage, and a sample of its events. Raises NotFound."""
        with reading(self.books) as connection:
            close = close_of_line(connection, line_id)
        with self.rating(close) as (connection, terms, files):
            return explain_line(connection, line_id, close, terms, files)

    def verify(self, invoice_id: str | None = None) -> list[Verified]:
        """Recompute invoices from the snapshots they pin and compare byte for byte: one, or all but drafts.

        An invoice is named by its id or its number. Raises NotFound, and InvariantViolated where the books were edited.
        """
        with reading(self.books) as connection:
            booked = read_invoices(connection)
            pairs = connection.execute(select(invoices_table.c.invoice_id, invoices_table.c.content_hash))
            hashes = {row.invoice_id: row.content_hash for row in pairs}
            closes = {close.close_id: close for close in read_closes(connection)}
        chosen = [
            invoice
            for invoice in booked
            if (invoice.status != "draft" if invoice_id is None else invoice_id in {invoice.invoice_id, invoice.number})
        ]
        if invoice_id is not None and not chosen:
            raise NotFound(f"there is no invoice {invoice_id}; `tallybook invoices` lists them", invoice_id=invoice_id)
        for invoice in chosen:
            check_document(invoice, hashes[invoice.invoice_id])
        wanted = {invoice.invoice_id for invoice in chosen}
        verdicts: list[Verified] = []
        for close_id in dict.fromkeys(invoice.close_id for invoice in chosen):
            with self.rating(closes[close_id]) as (connection, terms, files):
                found = verify_close(connection, closes[close_id], terms, files)
            verdicts += [one for one in found if one.invoice_id in wanted or (invoice_id is None and not one.matches)]
        return verdicts

    def publish(self, period: str, folder: Path | None = None, *, formats: Sequence[str] | None = None) -> Path:
        """Publish the invoices of a period, final ones if there are any, else drafts, as files with a manifest.

        `formats`: some of csv, jsonl, parquet, xlsx, html; by default those of the settings. Atomic and idempotent: the same
        run is the same folder with the same bytes. Returns the folder. Raises NotFound when the period has no invoices.
        """
        from billing_adapters.file_adapter import publish
        from tallybook.publishing import run_to_publish

        run = run_to_publish(self, period)
        return publish(folder or self.layout.out, run, formats=formats or self.settings.files.formats).folder

    def deliver(
        self, adapters: Sequence[str] | None = None, *, is_dry: bool = False, **options: Any
    ) -> list[AdapterRun]:
        """Send final invoices to the providers of the settings, exactly once; what waits is due at a later run. Idempotent.

        A dry run says what is new and changes nothing. Raises BadSettings; and AdapterMisconfigured, after all other adapters
        did their work. Nothing is lost by either.
        """
        from tallybook.delivering import deliver

        return deliver(self, adapters, is_dry=is_dry, **options)

    def reconcile(self, period: str) -> Statement:
        """Return the conservation statement of a period: where every event and every cent went.

        Reads the journal first and the lake afterwards, so that what moves in between is counted once.
        """
        from tallybook.reconciling import reconcile

        return reconcile(self, period)

    def report(self, period: str, *, witness: Witness | None = None, **options: Any) -> Report:
        """Reconcile a period and keep what was found: control runs, findings and their life. Return the whole report.

        `witness` says how often somebody else saw meters used (`reconciliation.witness`). Each call is a run of its own, but
        for the same facts at the same instant. `options` are those of `tallybook.reporting.report`.
        """
        from tallybook.reporting import report

        return report(self, period, witness=witness, **options)

    @contextmanager
    def deciding(self) -> Iterator[Connection]:
        """Give a transaction on the books for decisions about findings (`billing_adapters.finding_decisions`)."""
        with self._writing() as connection:
            yield connection

    def ship_forever(self) -> int:
        """Ship as a side-car until interrupted; the exit code of the shipper."""
        from metering.ship import watch

        return watch(self.layout, linger_s=math.inf)

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def rating(self, close: Close) -> Iterator[tuple[Connection, Terms, list[str]]]:
        """Everything that the pure function of a close is given."""
        terms = self.terms(close.catalog_revision)
        files, _ = self.evidence(close.snapshot)
        with reading(self.books) as connection:
            yield connection, terms, files

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction on the books that no other writer interleaves with; all of it or nothing."""
        with self.books.begin() as connection:
            lock_for_writing(connection)
            yield connection

    def _draft(self, wall: WallPeriod) -> Invoiced:
        """Make drafts of a period, shown as if it were over, in place of earlier drafts."""
        revision, snapshot, ends = self._cut(wall)
        with reading(self.books) as connection:
            close = draft_close(
                connection, wall, as_of=max(self.now, ends), snapshot=snapshot, catalog_revision=revision
            )
        with self.rating(close) as (connection, terms, files):
            drafts = invoices_of(connection, close, terms, files)
        with self._writing() as connection:
            keep_drafts(connection, close, drafts)
        return Invoiced(drafts, close, False, was_there=False)

    def _book_early(self, kind: CloseKind) -> Invoiced:
        """Make a close of the current month that books part of what is due, if there is anything of it."""
        wall = parse_period(f"{self.now:%Y-%m}")
        self._complete_closes()
        revision, snapshot, _ = self._cut(wall)
        with reading(self.books) as connection:
            draft = draft_close(connection, wall, as_of=self.now, snapshot=snapshot, catalog_revision=revision)
            sequences = [close.sequence for close in read_closes(connection, wall=wall) if not close.is_draft]
        draft = replace(draft, kind=kind)
        with self.rating(draft) as (connection, terms, files):
            if not invoices_of(connection, draft, terms, files):
                return Invoiced([], draft, False, was_there=True)
        close = self._close(wall, max(sequences, default=0) + 1, kind)
        return Invoiced(self._book(close), close, False, was_there=False)

    def _close(self, wall: WallPeriod, sequence: int, kind: CloseKind = "period") -> Close:
        """Take the cut now and insert the close if absent; return the one that is there."""
        revision, snapshot, ends = self._cut(wall)
        now = self.now
        with self._writing() as connection:
            return insert_close(
                connection,
                wall,
                sequence,
                as_of=now,
                is_complete=kind == "period" and ends <= now,
                snapshot=snapshot,
                catalog_revision=revision,
                kind=kind,
            )

    def _cut(self, wall: WallPeriod) -> tuple[int, Snapshot, datetime]:
        """Return what a close of now would pin, catalog revision and snapshot, and when the last plan's period ends."""
        revision = self.catalog().revision or 0
        return revision, whole_cut(self), _end_of(self.terms(revision), wall)

    def _book(self, close: Close) -> list[Invoice]:
        with self.rating(close) as (connection, terms, files):
            made, points = made_of(connection, close, terms, files)
        with self._writing() as connection:
            return book_invoices(connection, close, made, terms, points)

    def _complete_closes(self) -> None:
        """Finish, in order, closes whose invoices were not booked: an earlier run was interrupted between the two."""
        with reading(self.books) as connection:
            unfinished = [close for close in read_closes(connection) if not close.is_draft and not close.invoices_made]
        for close in unfinished:
            self._book(close)


def _end_of(terms: Terms, wall: WallPeriod) -> datetime:
    spans = billing_spans(terms, wall)
    return max((one.period.end for one in spans.stretches), default=wall.in_zone("UTC").end)


def read_example_catalog() -> str:
    """Return the commented catalog that `init` leaves beside the user's own files."""
    from importlib import resources

    return resources.files("tallybook").joinpath("example_catalog.yaml").read_text(encoding="utf-8")
