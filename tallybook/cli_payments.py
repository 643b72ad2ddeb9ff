"""The command line of payments: what providers say was paid, files of payments, and what of both is booked.

Enters: words of an operator, files. Leaves: tables or JSON. Refuses: half a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import iso_utc
from tallybook.cli_shell import JsonOption, json_value, open_workspace, out, print_json
from tallybook.show import money, table

if TYPE_CHECKING:
    from billing_adapters.settlements import Settlement

payments_app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@payments_app.callback()
def payments(context: typer.Context, as_json: JsonOption = False) -> None:
    """What providers say of payment, as their webhooks brought it back: one row per invoice there."""
    if context.invoked_subcommand is not None:
        return
    from billing_adapters.payments import KEPT, list_payments
    from tallybook.books import reading

    with open_workspace() as workspace, reading(workspace.books) as connection:
        rows = list_payments(connection)
    if as_json:
        print_json({"payments": [{name: json_value(getattr(one, name)) for name in KEPT} for one in rows]})
        return
    columns = [("invoice", "left"), ("adapter", "left"), ("there", "left"), ("status", "left"), ("due", "right"),
               ("paid", "right"), ("remaining", "right"), ("as of", "left")]  # fmt: skip
    lines = [
        (
            one.invoice_id or "not ours",
            one.adapter,
            one.provider_id,
            one.status,
            f"{money(one.amount_due)} {one.currency}",
            money(one.amount_paid),
            money(one.amount_remaining),
            iso_utc(one.read_at),
        )
        for one in rows
    ]
    out.print(table("", columns, lines))


@payments_app.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(help="CSV: payment_id, number, kind, amount, currency, paid_at.")],
    as_json: JsonOption = False,
) -> None:
    """Book a file of payments, refunds and write-offs, whole or not at all; what is booked already is not booked again."""
    from tallybook.settling import import_payments

    with open_workspace() as workspace:
        new = import_payments(workspace, path)
    if as_json:
        print_json({"booked": [_json("", one) for one in new]})
    else:
        out.print(f"booked {len(new):,} from {path}")


@payments_app.command("booked")
def booked(as_json: JsonOption = False) -> None:
    """What is booked of payment: one row per payment, refund or write-off; the next close publishes it."""
    from tallybook.settling import booked_payments

    with open_workspace() as workspace:
        rows = booked_payments(workspace)
    if as_json:
        print_json({"booked": [_json(number, one) for number, one in rows]})
        return
    columns = [("document", "left"), ("kind", "left"), ("amount", "right"), ("posted", "left"), ("said by", "left"),
               ("there", "left")]  # fmt: skip
    lines = [
        (number, one.kind, f"{money(one.amount)} {one.currency}", iso_utc(one.posted_at), one.adapter, one.provider_id)
        for number, one in rows
    ]
    out.print(table("", columns, lines))


def _json(number: str, one: Settlement) -> dict[str, Any]:
    row = {name: json_value(getattr(one, name)) for name in one.__slots__}
    return {**row, "number": number} if number else row
