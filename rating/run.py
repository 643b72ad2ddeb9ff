"""One close, from evidence to invoices: the pure function that invoicing, drafts and verification share.

Enters: a close, the catalog at its revision, the data files of the lake, and what earlier closes booked.
Leaves: the invoices of the close, unnumbered.
Refuses: to read a clock or anything newer than the close pins. Run it today or in ten years: the same bytes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.rollups import Rollups
from metering.usage import open_evidence, open_evidence_of
from rating.attribution import attribution_points
from rating.close import Close, read_closes
from rating.frozen import frozen_spans
from rating.invoice import Invoice, Prepaid, document, make_invoices
from rating.kept import Evidence, rate_what_changed
from rating.ledger import booked_before, burned_before, read_invoices
from rating.pots import tenants_beside
from rating.rate import rate, subtract_booked
from rating.scope import narrow
from rating.spans import BillingSpan, BillingSpans
from rating.terms import Terms, billing_spans
from rating.voids import voided_periods

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    import duckdb
    from sqlalchemy import Connection

    from metering.control_points import ControlPoint
    from metering.periods import WallPeriod
    from metering.usage import Snapshot


@dataclass(frozen=True, slots=True)
class Verified:
    """The verdict on one invoice: recomputed from what it pins and compared byte for byte."""

    invoice_id: str
    number: str | None
    matches: bool
    difference: str


def earlier_periods(connection: Connection, close: Close) -> list[WallPeriod]:
    """Return the periods of earlier closes; all of their billing periods are rated again. No event is too late."""
    walls = (
        earlier.wall
        for earlier in read_closes(connection)
        if not earlier.is_draft and earlier.position < close.position
    )
    return sorted(set(walls) - {close.wall}, key=lambda wall: (wall.start, wall.end))


def complete_periods(connection: Connection, close: Close) -> list[WallPeriod]:
    """Return the periods that earlier closes saw the end of."""
    return [
        earlier.wall
        for earlier in read_closes(connection)
        if earlier.is_complete and not earlier.is_draft and earlier.position < close.position
    ]


def spans_of(connection: Connection, close: Close, terms: Terms) -> BillingSpans:
    """Return the billing spans that a close rates: those of its own period and those of periods closed before.

    A draft of a period that is complete already shows only what is waiting as corrections.
    """
    earlier = earlier_periods(connection, close)
    is_waiting = close.is_draft and any(
        other.is_complete and not other.is_draft for other in read_closes(connection, wall=close.wall)
    )
    if is_waiting:
        return billing_spans(terms, None, [*earlier, close.wall])
    return billing_spans(terms, close.wall, earlier)


@contextmanager
def rated_spans(
    files: Sequence[str],
    snapshot: Snapshot,
    terms: Terms,
    spans: Sequence[BillingSpan],
    as_of: datetime,
    *,
    may_use_kept: bool = False,
    tenants: Collection[str] | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an engine in which billing spans are rated: usage, charge, worth. What was booked is not looked at.

    With `may_use_kept` only the tenants that changed since the last time are rated (rating.kept), where there are many
    files: the same charges and worth, and `usage` of these tenants alone. With `tenants`, those of all the spans, no more
    than their evidence may be read, and that of tenants who share a discount with them where earlier periods count.
    """
    columns = BillingSpans.of(spans)
    engine = open_evidence_of({*tenants, *tenants_beside(terms, columns)}, files, snapshot) if tenants else None
    rollups = Rollups.of(files) if engine is None else None
    if engine is None:
        engine = open_evidence(files, snapshot, folder=str(rollups.folder.parent) if rollups else None)
    try:
        if may_use_kept and rollups is not None:
            evidence = Evidence(files, snapshot, rollups)
            rate_what_changed(engine, terms, columns, as_of, evidence)
        else:
            rate(engine, terms, columns, as_of, rollups=rollups)
        yield engine
    finally:
        engine.close()


@contextmanager
def rated(
    connection: Connection,
    close: Close,
    terms: Terms,
    files: Sequence[str],
    *,
    spans: Sequence[BillingSpan] | None = None,
    may_use_kept: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an engine in which a close is rated: usage, charge, worth, invoice_line, line_charge. Closed at the end.

    With `spans` those alone, and what was booked for their subscriptions; for the preview of one account.
    """
    rating = spans_of(connection, close, terms) if spans is None else spans
    since = min((span.period.start for span in rating), default=close.period_start)
    held = None if spans is None else {span.subscription_id for span in spans}
    booked_lines, booked_charges = booked_before(connection, close.position, since, subscriptions=held)
    tenants = None if spans is None else {span.tenant_id for span in spans}
    with rated_spans(
        files, close.snapshot, terms, rating, close.as_of, may_use_kept=may_use_kept, tenants=tenants
    ) as engine:
        frozen = _frozen(connection, close, terms, BillingSpans.of(rating))
        subtract_booked(
            engine,
            booked_lines,
            booked_charges,
            close.close_id,
            narrow=lambda it: narrow(it, close.kind, terms, frozen),
        )
        yield engine


def _frozen(connection: Connection, close: Close, terms: Terms, spans: BillingSpans) -> list[int]:
    """Return the spans for which nothing more is booked; none of which an invoice is void: that one does not stay as it is."""
    frozen = frozen_spans(terms, spans, lambda: complete_periods(connection, close), close.wall)
    if not frozen:
        return []
    voided = voided_periods(connection, close.position)
    keys = {span.span_id: (span.subscription_id, span.period.start) for span in spans}
    return [span_id for span_id in frozen if keys[span_id] not in voided]


def invoices_of(
    connection: Connection, close: Close, terms: Terms, files: Sequence[str], *, may_use_kept: bool = True
) -> list[Invoice]:
    """Return the invoices of a close, unnumbered, by account and currency. Raises AmountOverflow; changes nothing.

    `may_use_kept`: what did not change since an earlier close or draft is not rated again. The invoices are the same.
    """
    prepaid = Prepaid.of(terms, burned_before(connection, close.position))
    with rated(connection, close, terms, files, may_use_kept=may_use_kept) as engine:
        return make_invoices(engine, close, "draft" if close.is_draft else "final", prepaid)


def made_of(
    connection: Connection, close: Close, terms: Terms, files: Sequence[str]
) -> tuple[list[Invoice], list[ControlPoint]]:
    """Return the invoices of a close, unnumbered, and what it wrote down on the way to them; see `invoices_of`.

    Only a close of a whole period says whose the usage of the period is; others book part of what is due.
    """
    prepaid = Prepaid.of(terms, burned_before(connection, close.position))
    with rated(connection, close, terms, files, may_use_kept=True) as engine:
        made = make_invoices(engine, close, "final", prepaid)
        points = attribution_points(engine, close, terms, Rollups.of(files)) if close.kind == "period" else []
    return made, points


def verify_close(connection: Connection, close: Close, terms: Terms, files: Sequence[str]) -> list[Verified]:
    """Recompute the invoices of a close from what it pins and compare them byte for byte with the books.

    One row per invoice, booked or recomputed; an invoice that only one side has does not match.
    """
    booked = {invoice.invoice_id: invoice for invoice in read_invoices(connection, close_id=close.close_id)}
    # From nothing: what was kept is no witness of itself.
    made = invoices_of(connection, close, terms, files, may_use_kept=False)
    again = {invoice.invoice_id: invoice for invoice in made}
    return [
        _compare(invoice_id, booked.get(invoice_id), again.get(invoice_id))
        for invoice_id in sorted(booked.keys() | again.keys())
    ]


def _compare(invoice_id: str, booked: Invoice | None, again: Invoice | None) -> Verified:
    if booked is None or again is None:
        there = booked or again
        number = there.number if there else None
        side = "only in the books" if again is None else "only in the recomputation"
        return Verified(invoice_id, number, False, side)
    if document(booked) == document(again):
        return Verified(invoice_id, booked.number, True, "")
    return Verified(invoice_id, booked.number, False, _first_difference(booked, again))


def _first_difference(booked: Invoice, again: Invoice) -> str:
    for name in ("total", "currency", "account_id", "snapshot_id", "catalog_revision", "issued_at"):
        if getattr(booked, name) != getattr(again, name):
            return f"{name}: {getattr(booked, name)} in the books, {getattr(again, name)} recomputed"
    lines = {line.line_id: line for line in again.lines}
    for line in booked.lines:
        other = lines.get(line.line_id)
        if other is None:
            return f"line {line.line_id} ({line.tenant_id}, {line.price_id}) is only in the books"
        if other != line:
            return (
                f"line {line.line_id} ({line.tenant_id}, {line.price_id}): {line.amount} {line.currency} in the books, "
                f"{other.amount} recomputed, from quantities {line.cumulative_quantity} and {other.cumulative_quantity}"
            )
    return "lines or their order differ"
