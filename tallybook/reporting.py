"""A reconciliation of a workspace with everything that follows from it: statement, controls, findings and their life, report.

Enters: an open workspace, a period, a witness if there is one. Leaves: the run in the books (control runs, findings, their
history), and a Report from which every form of it is made. Refuses: to write anything but that. The same question about the
same facts at the same instant is the same run, and changes nothing the second time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import select

import tallybook
from billing_adapters.books import control_runs, deliveries
from billing_adapters.findings import BY_ITSELF, Run, list_findings, list_runs, list_waivers, record_run
from billing_adapters.payments import list_payments
from billing_adapters.reconciliation.controls import all_controls
from billing_adapters.reconciliation.report import Document, Report
from metering.numbers import exact_sum
from metering.periods import parse_period
from rating.books import invoice_lines, invoices
from rating.spans import plan_key
from tallybook.books import reading
from tallybook.declared_waivers import bring
from tallybook.reconciling import CONTROLS_FOLDER, compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from sqlalchemy import Connection

    from billing_adapters.payments import Payment
    from billing_adapters.reconciliation import Statement
    from billing_adapters.reconciliation.witness import Witness
    from metering.periods import WallPeriod
    from rating.terms import Terms
    from tallybook.workspace import Workspace

# Plans read a period in their own zones, which are less than a day apart from UTC.
_ZONES = timedelta(days=1)
_AT_ONCE = 500


def report(
    workspace: Workspace,
    period: str,
    *,
    witness: Witness | None = None,
    preparer: str = BY_ITSELF,
    floor: Decimal | None = None,
) -> Report:
    """Reconcile a period, keep the run and its findings in the books, and return the report.

    `preparer` is who asks; another person may review it. `floor`: findings that are likely worth less are not told one by
    one on the page; by default what the settings say. The waivers of the settings are brought into the books first. Raises
    what `Workspace.reconcile` raises, and BadSettings for a waiver of no control; nothing is kept then.
    """
    wall = parse_period(period)
    given = {} if witness is None else {"witness": witness.table}
    compared = compare(workspace, period, given)
    statement = compared.statement
    run = _run(statement, wall, compared.snapshot.snapshot_id, preparer, workspace)
    breaks, runs = (_of_run(table, run) for table in (statement.breaks, statement.runs))
    controls, refused = all_controls(workspace.layout.root / CONTROLS_FOLDER, workspace.settings.controls)
    known = {*(one.control_id for one in controls), *(one.control_id for one in refused)}
    with workspace.deciding() as connection:
        bring(connection, workspace.settings.waivers, known, workspace.now)
        recorded = record_run(connection, run, breaks, runs)
    days = (run.period_start, run.period_end)
    with reading(workspace.books) as connection:
        found = list_findings(connection, period=days, with_history=True)
        kept = list_runs(connection, days)
        waivers = list_waivers(connection)
        booked = _booked(connection, wall, workspace.terms_or_empty())
        documents = _documents(connection, booked)
        run = next(one for one in kept if one.run_id == run.run_id)
        before = next((one for one in kept if (one.as_of, one.run_id) < (run.as_of, run.run_id)), None)
        found_before = {} if before is None else _found_by(connection, before.run_id)
    return Report(
        run=run, period=period, statement=statement, findings=tuple(found), runs=tuple(runs.to_pylist()),
        heads={control.control_id: control for control in controls}, new=recorded.new, cleared=recorded.cleared,
        reopened=recorded.reopened, before=before, found_before=found_before, waivers=tuple(waivers),
        documents=tuple(documents), billed=_billed(booked),
        floor=workspace.settings.reconciliation.floor if floor is None else floor, list_values=compared.list_values,
        included=compared.included, shares=compared.shares, statements=compared.statements,
    )  # fmt: skip


# --- the run ----------------------------------------------------------------------------------------------------------


def _run(statement: Statement, wall: WallPeriod, snapshot_id: str, preparer: str, workspace: Workspace) -> Run:
    """Return the run; its id is a hash of the question, the instant, and all that was found."""
    rows = [statement.breaks.to_pylist(), statement.runs.to_pylist(), workspace.now, snapshot_id]
    digest = hashlib.sha256(orjson.dumps(rows, default=str)).hexdigest()
    return Run(
        run_id=f"run-{digest[:24]}",
        period_start=wall.start.date(),
        period_end=wall.end.date(),
        as_of=workspace.now,
        snapshot_id=snapshot_id,
        verdict=statement.verdict,
        preparer=preparer,
        generator_version=tallybook.__version__,
    )


def _of_run(table: pa.Table, run: Run) -> pa.Table:
    """Return rows under the id of this run."""
    import pyarrow as pa

    at = table.schema.get_field_index("run_id")
    return table.set_column(at, table.schema.field(at), pa.array([run.run_id] * table.num_rows, pa.string()))


def _found_by(connection: Connection, run_id: str) -> dict[str, int]:
    query = select(control_runs.c.control_id, control_runs.c.findings).where(control_runs.c.run_id == run_id)
    return {row.control_id: row.findings for row in connection.execute(query)}


# --- documents --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Booked:
    """One line of a final document for a billing period of the period."""

    invoice_id: str
    tenant_id: str
    currency: str
    amount: Decimal


def _booked(connection: Connection, wall: WallPeriod, terms: Terms) -> list[_Booked]:
    """Return the lines of the period as the statement counts them: whose billing period ends in it, in its plan's zone."""
    line = invoice_lines.c
    columns = (
        line.invoice_id,
        line.tenant_id,
        line.currency,
        line.amount,
        line.plan,
        line.plan_version,
        line.period_end,
    )
    utc = wall.in_zone("UTC")
    query = (
        select(*columns)
        .join(invoices, invoices.c.invoice_id == line.invoice_id)
        .where(invoices.c.status == "final", line.period_end > utc.start - _ZONES, line.period_end <= utc.end + _ZONES)
    )
    spans: dict[tuple[str, int], Any] = {}
    booked = []
    for row in connection.execute(query):
        key = row.plan, row.plan_version
        if key not in spans:
            plan = terms.plans.get(plan_key(*key))
            spans[key] = None if plan is None else wall.in_zone(plan.billing_period.timezone)
        span = spans[key]
        if span is not None and span.start < row.period_end <= span.end:
            booked.append(_Booked(row.invoice_id, row.tenant_id, row.currency, row.amount))
    return booked


def _documents(connection: Connection, booked: Sequence[_Booked]) -> list[Document]:
    amounts: dict[str, list[Decimal]] = {}
    for one in booked:
        amounts.setdefault(one.invoice_id, []).append(one.amount)
    states = _states(connection, list(amounts))
    paid = {one.invoice_id: one for one in list_payments(connection) if one.invoice_id in amounts}
    made = []
    for row in _chosen(connection, select(invoices), invoices.c.invoice_id, list(amounts)):
        sent = states.get(row.invoice_id, [])
        payment: Payment | None = paid.get(row.invoice_id)
        made.append(
            Document(
                invoice_id=row.invoice_id,
                number=row.number or "",
                document_type=row.document_type,
                account_id=row.account_id,
                currency=row.currency,
                total=row.total,
                amount_of_period=exact_sum(amounts[row.invoice_id]),
                issued_at=row.issued_at,
                delivery=_delivery(state for _, state in sent),
                adapters=tuple(sorted({adapter for adapter, _ in sent})),
                payment="" if payment is None else payment.status,
                paid=None if payment is None else payment.amount_paid,
            )
        )
    return sorted(made, key=lambda one: (one.currency, one.number, one.invoice_id))


def _states(connection: Connection, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return (adapter, state) of the deliveries of documents; usage has deliveries of its own."""
    found: dict[str, list[tuple[str, str]]] = {}
    query = select(deliveries.c.subject, deliveries.c.adapter, deliveries.c.state)
    for row in _chosen(connection, query, deliveries.c.subject, ids):
        found.setdefault(row.subject, []).append((row.adapter, row.state))
    return found


def _delivery(states: Iterable[str]) -> str:
    """Return the state of a document from those of its deliveries: the one that most needs somebody."""
    said = set(states)
    if not said:
        return "unsent"
    if "parked" in said:
        return "parked"
    if said & {"pending", "attempting"}:
        return "pending"
    return "delivered" if "delivered" in said else "waived"


def _chosen(connection: Connection, query: Any, column: Any, ids: Sequence[str]) -> list[Any]:
    found: list[Any] = []
    for at in range(0, len(ids), _AT_ONCE):
        found += connection.execute(query.where(column.in_(ids[at : at + _AT_ONCE]))).all()
    return found


def _billed(booked: Iterable[_Booked]) -> dict[tuple[str, str], Decimal]:
    amounts: dict[tuple[str, str], list[Decimal]] = {}
    for one in booked:
        amounts.setdefault((one.tenant_id, one.currency), []).append(one.amount)
    return {key: exact_sum(parts) for key, parts in amounts.items()}
