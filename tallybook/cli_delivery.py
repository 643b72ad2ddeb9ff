"""The command line of delivery: send what is due, see what waits and what is parked, decide about it.

Enters: words of an operator. Leaves: tables or JSON; exit code 1 while something is parked or an adapter failed.
Refuses: decisions without a reason.
"""

from __future__ import annotations

import getpass
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import iso_utc
from tallybook.cli_payments import payments_app
from tallybook.cli_shell import (
    DONE,
    FINDING,
    JsonOption,
    WhoOption,
    WhyOption,
    err,
    json_value,
    open_workspace,
    out,
    print_json,
)
from tallybook.delivery_progress import delivery_progress
from tallybook.show import money, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing_adapters.deliveries import Attempt, Delivery
    from billing_adapters.late_refusals import LateRefusal
    from tallybook.delivering import AdapterRun
    from tallybook.workspace import Workspace

delivery = typer.Typer()
deliveries_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)
delivery.add_typer(deliveries_app, name="deliveries")
delivery.add_typer(payments_app, name="payments")

ERRORS_SHOWN = 5
ID_SHOWN = 16
SUBJECTS_AT_ONCE = 500
IdsArgument = Annotated[list[str], typer.Argument(help="Deliveries, by id or the beginning of one.")]


@delivery.command()
def deliver(
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="Only this one; may be repeated. Else all of the settings.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is new, and send nothing.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many items in this run.")] = None,
    calls_max: Annotated[int | None, typer.Option("--calls-max", min=1, help="At most so many calls.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send final invoices to the providers, exactly once. Interrupt it and run it again as often as you like: it goes on."""
    with open_workspace() as workspace:
        if dry_run:
            _print_new(workspace.deliver(adapter, is_dry=True), as_json=as_json)
            return
        with delivery_progress(err, is_silent=as_json) as shown:
            runs = workspace.deliver(adapter, limit=limit, calls_max=calls_max, on_due=shown.due, on_item=shown.done)
        parked = [row for run in runs for row in _read(workspace, adapter=run.adapter, states=["parked"])]
    if as_json:
        print_json({"adapters": [_run_json(run) for run in runs], "parked": [_json(row) for row in parked]})
    else:
        out.print(_runs(runs))
        _say_how_it_went(runs, parked)
    raise typer.Exit(FINDING if parked or any(run.delivered.errors for run in runs) else DONE)


@deliveries_app.callback()
def list_all(
    context: typer.Context,
    adapter: Annotated[str | None, typer.Option("--adapter", help="Only of this one.")] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="pending, attempting, parked, delivered or waived; repeatable.")
    ] = None,
    invoice: Annotated[str | None, typer.Option("--invoice", help="Only of this invoice, by id or number.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What waits and until when, what is parked and why. Without --state: all but what was delivered or waived."""
    if context.invoked_subcommand is not None:
        return
    with open_workspace() as workspace:
        subject = None if invoice is None else _invoice_id(workspace, invoice)
        chosen = state or (None if invoice else ["parked", "attempting", "pending"])
        rows = _read(workspace, adapter=adapter, states=chosen, subject=subject)
    if as_json:
        print_json({"deliveries": [_json(row) for row in rows]})
    elif rows:
        out.print(_table(rows))
    else:
        err.print("Nothing waits and nothing is parked." if not (state or invoice) else "None.", highlight=False)
    raise typer.Exit(FINDING if any(row.state == "parked" for row in rows) else DONE)


@deliveries_app.command()
def show(ids: IdsArgument, as_json: JsonOption = False) -> None:
    """One delivery with all its attempts, and who decided what about it."""
    from billing_adapters.deliveries import attempts_of
    from tallybook.books import reading

    with open_workspace() as workspace:
        rows = [_one(workspace, given) for given in ids]
        with reading(workspace.books) as connection:
            attempts = {row.delivery_id: attempts_of(connection, row.delivery_id) for row in rows}
    if as_json:
        print_json(
            {
                "deliveries": [
                    {**_json(row), "tried": [_attempt(one) for one in attempts[row.delivery_id]]} for row in rows
                ]
            }
        )
        return
    for row in rows:
        out.print(_table([row], is_full=True))
        columns = [
            ("attempt", "right"),
            ("when", "left"),
            ("by", "left"),
            ("outcome", "left"),
            ("what was said", "left"),
        ]
        tried = [
            (one.number, iso_utc(one.started_at), one.deliverer, one.outcome or "interrupted", one.detail or "")
            for one in attempts[row.delivery_id]
        ]
        out.print(table("", columns, tried))


@deliveries_app.command()
def late(
    adapter: Annotated[str | None, typer.Option("--adapter", help="Only of this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a provider accepted and refused later, newest report first. Exit code 1 while one that a report names is parked."""
    from billing_adapters.late_refusals import list_refusals, states_of_named
    from tallybook.books import reading

    with open_workspace() as workspace, reading(workspace.books) as connection:
        rows = [one for one in list_refusals(connection) if adapter in {None, one.adapter}]
        states = states_of_named(connection, rows)
    if as_json:
        print_json({"late_refusals": [_late_json(one, states) for one in rows]})
    elif rows:
        out.print(_late_table(rows, states))
        if any(one.error_count > len(one.named) for one in rows):
            err.print("Reports name samples only; PROVIDER_QUANTITY compares the totals.", highlight=False)
    else:
        err.print("No provider refused anything later.", highlight=False)
    raise typer.Exit(FINDING if "parked" in states.values() else DONE)


@deliveries_app.command()
def retry(ids: IdsArgument, why: WhyOption, who: WhoOption = None, as_json: JsonOption = False) -> None:
    """Put parked deliveries back into the queue. What may be at the provider is looked for before it is sent."""
    from billing_adapters.deliveries import retry as decide

    _decide(decide, ids, why, who, as_json=as_json)


@deliveries_app.command()
def waive(ids: IdsArgument, why: WhyOption, who: WhoOption = None, as_json: JsonOption = False) -> None:
    """Give deliveries up: they are never sent, and the reason stays in the books."""
    from billing_adapters.deliveries import waive as decide

    _decide(decide, ids, why, who, as_json=as_json)


def _decide(decide: Any, ids: Sequence[str], why: str, who: str | None, *, as_json: bool) -> None:
    by = who or getpass.getuser()
    if not why.strip() or not by.strip():
        raise typer.BadParameter("a decision has a reason and somebody who decides: --why '...' --who NAME")
    with open_workspace() as workspace:
        chosen = [_one(workspace, given) for given in ids]
        decided = [decide(workspace.books, one.delivery_id, who=by, why=why, now=workspace.now) for one in chosen]
        rows = [replace(row, subject=one.subject) for row, one in zip(decided, chosen, strict=True)]
    if as_json:
        print_json({"deliveries": [_json(row) for row in rows]})
    else:
        out.print(_table(rows))


def _read(workspace: Workspace, **chosen: Any) -> list[Delivery]:
    """Return deliveries; those of invoices are called by the invoice's number, which people know."""
    from sqlalchemy import select

    from billing_adapters.deliveries import list_deliveries
    from rating.books import invoices
    from tallybook.books import reading

    with reading(workspace.books) as connection:
        rows = list_deliveries(connection, **chosen)
        numbers: dict[str, str] = {}
        for at in range(0, len(rows), SUBJECTS_AT_ONCE):
            subjects = [row.subject for row in rows[at : at + SUBJECTS_AT_ONCE]]
            query = select(invoices.c.invoice_id, invoices.c.number).where(invoices.c.invoice_id.in_(subjects))
            numbers.update({identity: number for identity, number in connection.execute(query) if number is not None})
    return [replace(row, subject=numbers.get(row.subject, row.subject)) for row in rows]


def _one(workspace: Workspace, given: str) -> Delivery:
    from billing_adapters.errors import DeliveryNotOpen

    found = _read(workspace, prefix=given)
    if len(found) != 1:
        raise DeliveryNotOpen(f"{len(found)} deliveries begin with {given}; `tallybook deliveries` lists them")
    return found[0]


def _invoice_id(workspace: Workspace, given: str) -> str:
    from sqlalchemy import select

    from rating.books import invoices
    from tallybook.books import reading

    with reading(workspace.books) as connection:
        found = connection.scalar(select(invoices.c.invoice_id).where(invoices.c.number == given))
    return found or given


def _print_new(runs: Sequence[AdapterRun], *, as_json: bool) -> None:
    rows = [(run.adapter, intent) for run in runs for intent in run.intents]
    if as_json:
        new = [
            {
                "adapter": name,
                "kind": intent.kind,
                "subject": intent.subject,
                "account_id": intent.account_id,
                "amount": json_value(intent.amount),
                "currency": intent.currency,
                "refusal": intent.refusal,
                "payload": intent.payload,
            }
            for name, intent in rows
        ]
        print_json({"new": new})
        return
    columns = [
        ("adapter", "left"),
        ("kind", "left"),
        ("of", "left"),
        ("account", "left"),
        ("amount", "right"),
        ("", "left"),
    ]
    lines = [
        (
            name,
            intent.kind,
            intent.subject,
            intent.account_id,
            "" if intent.amount is None else money(intent.amount),
            intent.refusal or intent.currency or "",
        )
        for name, intent in rows
    ]
    out.print(table("", columns, lines))
    err.print(f"{len(rows):,} would be sent, beside what waits already; nothing was.", highlight=False)


def _runs(runs: Sequence[AdapterRun]) -> Any:
    columns = [("adapter", "left"), ("new", "right"), ("delivered", "right"), ("later", "right"), ("parked", "right"),
               ("calls", "right")]  # fmt: skip
    rows = [
        (
            run.adapter,
            f"{run.enqueued.new + run.enqueued.parked:,}",
            f"{run.delivered.states['delivered']:,}",
            f"{run.delivered.states['pending']:,}",
            f"{run.delivered.states['parked'] + run.enqueued.parked:,}",
            f"{run.delivered.calls:,}",
        )
        for run in runs
    ]
    return table("", columns, rows)


def _say_how_it_went(runs: Sequence[AdapterRun], parked: Sequence[Delivery]) -> None:
    if not runs:
        err.print("No adapter is set up: add a section [delivery.stripe] to tallybook.toml.", highlight=False)
    for run in runs:
        for error in run.delivered.errors[:ERRORS_SHOWN]:
            err.print(f"{run.adapter}: {type(error).__name__}: {error}", markup=False, highlight=False)
        if run.delivered.is_away:
            err.print(
                f"{run.adapter}: the provider seems to be away; what is due is tried again later.", highlight=False
            )
        if run.delivered.is_budget_spent:
            err.print(f"{run.adapter}: the calls of this run are used up; run it again to go on.", highlight=False)
    if parked:
        err.print(f"{len(parked):,} are parked and wait for a person: `tallybook deliveries`.", highlight=False)


def _table(rows: Sequence[Delivery], *, is_full: bool = False) -> Any:
    columns = [("delivery", "left"), ("adapter", "left"), ("kind", "left"), ("of", "left"), ("account", "left"),
               ("amount", "right"), ("state", "left"), ("until", "left"), ("why", "left")]  # fmt: skip
    lines = [
        (
            row.delivery_id if is_full else row.delivery_id[:ID_SHOWN],
            row.adapter,
            row.kind,
            row.subject,
            row.account_id,
            "" if row.amount is None else f"{money(row.amount)} {row.currency}",
            row.state,
            "" if row.recover_by is None else iso_utc(row.recover_by),
            f"{row.outcome}: {row.reason}" if row.reason else row.outcome or "",
        )
        for row in rows
    ]
    return table("", columns, lines)


def _late_table(rows: Sequence[LateRefusal], states: Mapping[str, str]) -> Any:
    columns = [("told", "left"), ("adapter", "left"), ("code", "left"), ("refused", "right"), ("by", "left"),
               ("named", "left"), ("why", "left")]  # fmt: skip
    lines = [
        (
            iso_utc(one.received_at),
            one.adapter,
            one.code,
            f"{one.error_count:,}",
            one.subject or "",
            ", ".join(f"{name[:ID_SHOWN]} {states.get(name, 'not ours')}" for name in one.named),
            one.message,
        )
        for one in rows
    ]
    return table("", columns, lines)


def _late_json(one: LateRefusal, states: Mapping[str, str]) -> dict[str, Any]:
    named = [
        {"name": name, "delivery_id": name.partition(".")[0] if name in states else None, "state": states.get(name)}
        for name in one.named
    ]
    return {name: json_value(getattr(one, name)) for name in one.__slots__} | {"named": named}


def _run_json(run: AdapterRun) -> dict[str, Any]:
    return {
        "adapter": run.adapter,
        "new": run.enqueued.new,
        "parked_at_once": run.enqueued.parked,
        "states": dict(run.delivered.states),
        "outcomes": dict(run.delivered.outcomes),
        "calls": run.delivered.calls,
        "errors": [str(error) for error in run.delivered.errors],
        "is_away": run.delivered.is_away,
        "is_budget_spent": run.delivered.is_budget_spent,
    }


def _json(row: Delivery) -> dict[str, Any]:
    return {name: json_value(getattr(row, name)) for name in row.__slots__}


def _attempt(one: Attempt) -> dict[str, Any]:
    return {name: json_value(getattr(one, name)) for name in one.__slots__}
