"""The command line's providers: what they say they have, read or imported, kept as evidence for reconciliation.

Enters: words of an operator. Leaves: which lists are kept. Refuses: to change anything at a provider.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from metering.clock import iso_utc
from tallybook.cli_shell import JsonOption, PeriodOption, open_workspace, out, print_json, progress
from tallybook.provider_side import import_list, lists, read_list

provider_app = typer.Typer(
    name="provider", help="What providers say they have, kept as evidence.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(help="The adapter, as its section [delivery.NAME] is called.")]


@provider_app.command()
def read(name: NameArgument, period: PeriodOption, as_json: JsonOption = False) -> None:
    """Ask a provider for all that it has that was made since a period began, and keep the list with its hash."""
    with open_workspace() as workspace, progress("reading") as _:
        kept = read_list(workspace, name, period)
    _print(kept, as_json=as_json)


@provider_app.command(name="import")
def import_(
    name: NameArgument,
    period: PeriodOption,
    documents: Annotated[Path | None, typer.Option("--documents", help="CSV or Parquet of documents.")] = None,
    lines: Annotated[Path | None, typer.Option("--lines", help="CSV or Parquet of lines.")] = None,
    quantities: Annotated[Path | None, typer.Option("--quantities", help="CSV or Parquet of usage.")] = None,
    payments: Annotated[Path | None, typer.Option("--payments", help="CSV or Parquet of payments.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Keep exports of a provider as its list for a period; no key is needed. Columns: docs/reconciliation.md."""
    given = {"documents": documents, "lines": lines, "quantities": quantities, "payments": payments}
    files = {table: path for table, path in given.items() if path is not None}
    if not files:
        raise typer.BadParameter("give at least one file: --documents, --lines, --quantities or --payments")
    with open_workspace() as workspace, progress("importing") as _:
        kept = import_list(workspace, name, period, files)
    _print(kept, as_json=as_json)


@provider_app.command(name="lists")
def lists_(as_json: JsonOption = False) -> None:
    """List what is kept of providers' lists, newest first."""
    with open_workspace() as workspace:
        kept = lists(workspace)
    _print(kept, as_json=as_json)


def _print(kept: Any, *, as_json: bool) -> None:
    rows = [
        {
            "list_id": one.list_id,
            "adapter": one.adapter,
            "source": one.source,
            "table": one.table_name,
            "rows": one.rows,
            "read_at": iso_utc(one.read_at),
            "path": one.path,
            "sha256": one.sha256,
        }
        for one in kept
    ]
    if as_json:
        print_json({"lists": rows})
        return
    table = Table("adapter", "table", "rows", "read at", "source", "sha256", expand=False)
    for row in rows:
        table.add_row(
            row["adapter"], row["table"], f"{row['rows']:,}", row["read_at"], row["source"], row["sha256"][:16]
        )
    out.print(table)
