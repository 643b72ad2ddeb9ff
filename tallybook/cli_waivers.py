"""The command line of waivers by pattern: for findings of a control, of one tenant, meter or reason, now and in later runs.

Enters: words of an operator. Leaves: waivers in the books; the next reconciliation applies them.
Refuses: a waiver without a reason, a ceiling, an end, or somebody else's approval.
"""

from __future__ import annotations

import getpass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import iso_utc
from metering.numbers import trimmed
from tallybook.cli_shell import (
    JsonOption,
    WhoOption,
    WhyOption,
    err,
    open_workspace,
    out,
    plain_amount,
    print_json,
)
from tallybook.show import table

if TYPE_CHECKING:
    from billing_adapters.finding_life import Waiver

waivers_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)

UntilOption = Annotated[str, typer.Option("--until", help="The first day on which it holds no more: 2026-12-31.")]
ApprovedOption = Annotated[str, typer.Option("--approved-by", help="Another person, who approves it.")]


@waivers_app.callback()
def list_all(context: typer.Context, as_json: JsonOption = False) -> None:
    """Every waiver, oldest first: what it covers, up to how much, until when, and whether it holds."""
    if context.invoked_subcommand is not None:
        return
    from billing_adapters.findings import list_waivers
    from tallybook.books import reading
    from tallybook.declared_waivers import waiting

    with open_workspace() as workspace, reading(workspace.books) as connection:
        found = list_waivers(connection)
        now = workspace.now
        coming = waiting(workspace.settings.waivers, found, now)
    if coming:
        said = f"{len(coming)} of the settings hold from the next `tallybook reconcile` on"
        err.print(f"{said}: {', '.join(one['control_id'] for one in coming)}.", highlight=False)
    if as_json:
        print_json({"waivers": [_json(one, now) for one in found]})
    elif found:
        _print(found, now)
    else:
        ways = "`tallybook findings waive`, `tallybook findings waivers add` and [[waivers]] of the settings make them"
        err.print(f"None. {ways}.", highlight=False)


@waivers_app.command()
def add(
    control: Annotated[str, typer.Argument(help="The control whose findings it covers, such as NO_SUBSCRIPTION.")],
    why: WhyOption,
    until: UntilOption,
    approved_by: ApprovedOption,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")] = None,
    meter: Annotated[str | None, typer.Option("--meter", help="Only of this meter.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Only for this reason, as findings say it.")] = None,
    amount_max: Annotated[
        str | None, typer.Option("--amount-max", help="Its ceiling: all that it covers in one period, together.")
    ] = None,
    currency: Annotated[str | None, typer.Option("--currency", help="Of the ceiling: USD.")] = None,
    quantity_max: Annotated[
        str | None, typer.Option("--quantity-max", help="A ceiling of units, for findings without an amount.")
    ] = None,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Waive all findings of a control that fit, now and in later runs, until a day and up to a ceiling."""
    from billing_adapters.finding_decisions import make_waiver

    if amount_max is None and quantity_max is None:
        raise typer.BadParameter("a waiver has a ceiling; say --amount-max and --currency, or --quantity-max")
    if (amount_max is None) != (currency is None):
        raise typer.BadParameter("--amount-max and --currency belong together; say both")
    most = None if amount_max is None else plain_amount(amount_max, "--amount-max")
    units = None if quantity_max is None else plain_amount(quantity_max, "--quantity-max")
    with open_workspace() as workspace:
        _refuse_unknown(control, workspace.layout.root)
        try:
            with workspace.deciding() as connection:
                made = make_waiver(
                    connection, control_id=control, tenant_id=tenant, meter=meter, reason=reason, why=why,
                    currency=currency, created_by=who or getpass.getuser(), approved_by=approved_by,
                    expires_at=day_of(until), now=workspace.now, amount_max=most, quantity_max=units,
                )  # fmt: skip
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        _say([made], workspace.now, as_json=as_json)


@waivers_app.command()
def end(
    waiver_id: Annotated[str, typer.Argument(help="A waiver, by id or the beginning of one.")],
    why: WhyOption,
    who: WhoOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a waiver before its day. What it covers is open again."""
    from billing_adapters.finding_decisions import end_waiver

    with open_workspace() as workspace:
        try:
            with workspace.deciding() as connection:
                ended = end_waiver(connection, waiver_id, who=who or getpass.getuser(), why=why, now=workspace.now)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        _say([ended], workspace.now, as_json=as_json)


def day_of(text: str) -> datetime:
    """Return the midnight in UTC at which a day begins."""
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC)
    except ValueError as error:
        raise typer.BadParameter(f"--until is a day such as 2026-12-31, not {text}") from error


def _refuse_unknown(control_id: str, root: Any) -> None:
    """Raise BadParameter for a control that is not there: its waiver would cover nothing, without a word."""
    from billing_adapters.reconciliation.controls import all_controls
    from tallybook.reconciling import CONTROLS_FOLDER

    controls, _ = all_controls(root / CONTROLS_FOLDER)
    if control_id not in {one.control_id for one in controls}:
        raise typer.BadParameter(f"there is no control {control_id}; `tallybook controls` lists them")


def _state(one: Waiver, now: datetime) -> str:
    if one.ended_at is not None:
        return f"ended {iso_utc(one.ended_at)} by {one.ended_by}"
    return "over" if one.expires_at <= now else "holds"


def _json(one: Waiver, now: datetime) -> dict[str, Any]:
    from billing_adapters.reconciliation.report_json import plain

    return {**plain(one), "holds": _state(one, now) == "holds"}


def _say(found: list[Waiver], now: datetime, *, as_json: bool) -> None:
    if as_json:
        print_json({"waivers": [_json(one, now) for one in found]})
    else:
        _print(found, now)


def _print(found: list[Waiver], now: datetime) -> None:
    columns = [("waiver", "left"), ("control", "left"), ("of", "left"), ("up to", "right"), ("until", "left"),
               ("approved by", "left"), ("state", "left"), ("why", "left")]  # fmt: skip
    rows = [
        (
            one.waiver_id,
            one.control_id,
            "one finding"
            if one.dedupe_key
            else ", ".join(part for part in (one.tenant_id, one.meter, one.reason) if part) or "all",
            _ceiling(one),
            iso_utc(one.expires_at),
            one.approved_by,
            _state(one, now),
            one.why,
        )
        for one in found
    ]
    out.print(table("", columns, rows))


def _ceiling(one: Waiver) -> str:
    if one.amount_max is not None:
        return f"{trimmed(one.amount_max)} {one.currency}"
    return "" if one.quantity_max is None else f"{trimmed(one.quantity_max)} units"
