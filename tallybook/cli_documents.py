"""The command line's documents beside the invoice of a period: what was found late, thresholds, prepaid balances.

Enters: words of an operator. Leaves: the documents that were booked, or the state of the balances.
Refuses: to book anything twice. Every command can be run at any time, by a scheduler, as often as one likes.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from metering.numbers import plain
from rating.voids import described
from tallybook import show
from tallybook.cli_shell import (
    FormatsOption,
    JsonOption,
    PeriodOption,
    err,
    open_workspace,
    out,
    print_json,
    progress,
)
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from tallybook.workspace import Invoiced

documents = typer.Typer()


@documents.command()
def correct(as_json: JsonOption = False) -> None:
    """Book what was found late for closed periods now, as credit notes and supplementary invoices.

    Without this command the same lines come with each account's next invoice.
    """
    with open_workspace() as workspace, progress("rating") as _:
        invoiced = workspace.correct()
    _print(invoiced, "Nothing was found late: the books agree with the lake.", as_json=as_json)


@documents.command()
def void(
    number: Annotated[str, typer.Argument(help="The number of the document, such as INV-00000007, or its id.")],
    why: Annotated[str, typer.Option("--why", help="The reason; it stays in the books and stands on the document.")],
    who: Annotated[str | None, typer.Option("--who", help="Who decides; by default the user of this machine.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a final document back, whole. Its number stays; what it had booked is billed again by the next close.

    `tallybook correct` bills it again at once, `tallybook deliver` voids it at the providers that have it.
    """
    by = who or getpass.getuser()
    if not why.strip() or not by.strip():
        raise typer.BadParameter("a document is voided by somebody and for a reason: --why '...' --who NAME")
    with open_workspace() as workspace:
        voided = workspace.void(number, who=by, why=why)
    if as_json:
        print_json({name: getattr(voided, name) for name in voided.__slots__})
    else:
        err.print(f"{number} is {described(voided)} ({voided.decided_by})", markup=False, highlight=False)


@documents.command()
def thresholds(as_json: JsonOption = False) -> None:
    """Invoice the open period of the accounts that reached one of their invoice_thresholds, and no other."""
    with open_workspace() as workspace, progress("rating") as _:
        invoiced = workspace.invoice_thresholds()
    _print(invoiced, "No account reached a threshold.", as_json=as_json)


@documents.command()
def publish(
    period: PeriodOption,
    folder: Annotated[Path | None, typer.Option("--out", help="Where to publish; by default WORKSPACE/out.")] = None,
    formats: FormatsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish the files of a period that is invoiced: final documents if there are any, else drafts.

    The same run is the same folder with the same bytes. What each file and column says: docs/files.md.
    """
    with open_workspace() as workspace, progress("publishing") as _:
        published = workspace.publish(period, folder, formats=formats)
    if as_json:
        print_json({"folder": str(published), "files": sorted(path.name for path in published.iterdir())})
    else:
        out.print(str(published), highlight=False, soft_wrap=True)


@documents.command("usage-detail")
def usage_detail(
    folder: Annotated[Path, typer.Argument(help="A published run with usage_detail.parquet.")],
    tenant: Annotated[str, typer.Option("--tenant", help="Whose usage events.")],
    to: Annotated[Path, typer.Option("--out", help="The CSV file to write.")],
    meter: Annotated[str | None, typer.Option("--meter", help="Only of this meter.")] = None,
) -> None:
    """Write one tenant's usage events of a published run as CSV: what became of each, and on which line it is billed."""
    from billing_adapters.file_adapter.usage_detail import FILE, write_slice
    from metering.durable import HashedFile

    if not (folder / FILE).exists():
        raise BadSettings(f"{folder} has no {FILE}; set usage_detail = true under [files], and publish again")
    with HashedFile(to.parent, to.suffix) as file:
        rows = write_slice(folder, cast("BinaryIO", file), tenant=tenant, meter=meter)
        file.settle(to)
    out.print(f"{rows:,} usage events of {tenant} in {to}", highlight=False, soft_wrap=True)


@documents.command()
def balances(
    account: Annotated[str | None, typer.Option("--account", help="Only the balances of this account.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Prepaid balances: granted, burned, expired, left, and the revenue that what was burned has earned."""
    with open_workspace() as workspace:
        found = [one for one in workspace.balances() if account in (None, one.account_id)]
    if as_json:
        amounts = ("granted", "burned", "expired", "left", "recognized")
        rows = [
            {name: plain(getattr(one, name)) if name in amounts else getattr(one, name) for name in one.__slots__}
            for one in found
        ]
        print_json({"balances": rows})
    else:
        out.print(show.balances(found))


def _print(invoiced: Invoiced, nothing: str, *, as_json: bool) -> None:
    if as_json:
        from rating.invoice import as_json as invoice_json

        print_json({"invoices": [invoice_json(one) for one in invoiced.invoices]})
    elif invoiced.invoices:
        out.print(show.invoices(invoiced.invoices))
    else:
        err.print(nothing, highlight=False)
