"""The command line: the steps of the data's way, one command each.

Enters: words of an operator. Leaves: data on stdout (tables, or with --json one JSON document), progress and sentences on
stderr, and an exit code: 0 done, 1 a break or finding, 2 bad input or usage (nothing changed), 3 our fault.
Refuses: to compute anything. Every command is one call of `tallybook.Workspace`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from metering.clock import iso_utc
from metering.numbers import trimmed
from tallybook import show
from tallybook.cli_delivery import delivery
from tallybook.cli_documents import documents
from tallybook.cli_entitlements import entitlements
from tallybook.cli_marketplace import marketplace_app
from tallybook.cli_provider import provider_app
from tallybook.cli_questions import questions
from tallybook.cli_reconciling import reconciling
from tallybook.cli_run import running
from tallybook.cli_shell import (
    DONE,
    FINDING,
    FormatsOption,
    JsonOption,
    PeriodOption,
    State,
    err,
    open_workspace,
    out,
    print_json,
    progress,
    report,
)

app = typer.Typer(
    name="tallybook",
    help="Meter what tenants use, price it, invoice it, and prove that nothing leaked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _common(
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", envvar="TALLYBOOK_WORKSPACE", help="The folder of the workspace.")
    ] = Path("tallybook-data"),
) -> None:
    State.root = workspace


@app.command()
def init() -> None:
    """Make a workspace: settings, catalog folder, journal, lake, books. What is there already stays."""
    from tallybook.workspace import EXAMPLE_CATALOG, Workspace

    with Workspace.init(State.root) as workspace:
        root = workspace.layout.root
        example = workspace.layout.catalog / EXAMPLE_CATALOG
    err.print(f"Workspace ready at {root}", highlight=False, soft_wrap=True)
    err.print(f"Next: copy {example} to catalog.yaml, change it, and run `tallybook apply`.", highlight=False)


@app.command()
def apply(as_json: JsonOption = False) -> None:
    """Load catalog/*.yaml (meters, plans, accounts, subscriptions) into the books and print what changed."""
    with open_workspace() as workspace:
        applied = workspace.apply()
    changes = [
        {"kind": change.kind, "key": change.key, "what": change.what, "detail": change.detail}
        for change in applied.changes
    ]
    if as_json:
        print_json({"revision": applied.revision, "changes": changes})
    else:
        out.print(show.changes(applied.revision, applied.changes))


@app.command(name="import")
def import_files(
    files: Annotated[list[Path], typer.Argument(help="CSV, JSON lines (.jsonl) or Parquet; .gz of the first two.")],
    as_json: JsonOption = False,
) -> None:
    """Store usage events from files. Columns: tenant_id, meter, quantity, event_time, optionally idempotency_key;
    every other column is an attribute. The same file twice adds nothing; a bad row becomes a dead letter."""
    with open_workspace() as workspace, progress("importing") as bar:
        done = workspace.import_files(files, progress=bar)
    if as_json:
        print_json({"files": [{name: getattr(one, name) for name in one.__slots__} for one in done]})
        return
    out.print(show.imported(done))
    if any(one.dead_letters for one in done):
        err.print("Refused rows are dead letters with a reason; `tallybook reconcile` counts them.", highlight=False)


@app.command()
def ship(
    watch: Annotated[bool, typer.Option("--watch", help="Go on shipping until interrupted, as a side-car.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Move recorded events from the journal into the lake, exactly once."""
    with open_workspace() as workspace:
        if watch:
            workspace.ship_forever()
        shipped = workspace.ship()
    if as_json:
        print_json({name: getattr(shipped, name) for name in shipped.__slots__})
    else:
        out.print(show.shipped(shipped))
    raise typer.Exit(FINDING if shipped.quarantined or shipped.refused else DONE)


@app.command()
def maintain(as_json: JsonOption = False) -> None:
    """Keep the lake's files few, look for duplicates in what is new, and account for the leases of dead processes.

    Run it hourly or daily on each host.
    """
    from metering.duplicates import find_duplicates

    with open_workspace() as workspace, progress("maintaining") as _:
        done = workspace.maintain()
        duplicates = find_duplicates(workspace.lake)
        leases = workspace.account_leases()
    if as_json:
        found = {"duplicates": duplicates.rows, "conflicts": duplicates.conflicts}
        print_json(
            {name: getattr(done, name) for name in done.__slots__} | found | {"leases": show.leases_json(leases)}
        )
        return
    rows = [
        ("data files", f"{done.files_before:,}", f"{done.files_after:,}"),
        ("commits", f"{done.commits_before:,}", f"{done.commits_after:,}"),
    ]
    out.print(show.table("", [("", "left"), ("before", "right"), ("after", "right")], rows))
    err.print(f"{done.rewritten:,} small files rewritten, {done.deleted:,} unused files deleted.", highlight=False)
    err.print(
        f"{duplicates.rows:,} usage events repeat an idempotency key and count once, {duplicates.conflicts:,} of them say "
        "something else: `tallybook reconcile` names those.",
        highlight=False,
    )
    for sentence in show.leases(leases):
        err.print(sentence, highlight=False)


@app.command()
def usage(
    period: PeriodOption,
    by: Annotated[list[str] | None, typer.Option("--by", help="Split by this attribute; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What every tenant used in a period, priced or not."""
    with open_workspace() as workspace:
        rows = workspace.usage(period, by=by or ())
    if not as_json:
        out.print(show.usage(rows, by or ()))
        return
    print_json(
        {
            "usage": [
                {
                    "tenant_id": row.tenant_id,
                    "meter": row.meter,
                    "unit": row.unit,
                    "period_start": iso_utc(row.period.start),
                    "period_end": iso_utc(row.period.end),
                    "quantity": trimmed(row.quantity),
                    "event_count": row.event_count,
                    **({"attributes": row.attributes} if by else {}),
                    "subscription_id": row.subscription_ids[0] if row.subscription_ids else None,
                }
                for row in rows
            ]
        }
    )


@app.command()
def invoice(
    period: PeriodOption,
    final: Annotated[
        bool, typer.Option("--final", help="Book and number the invoices; without it they are drafts.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to publish the files; final runs default to WORKSPACE/out.")
    ] = None,
    formats: FormatsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Invoice a period. Drafts book nothing; --final closes the period, books, numbers and publishes the files."""
    with open_workspace() as workspace:
        with progress("rating") as _:
            invoiced = workspace.invoice(period, final=final)
        published = (
            workspace.publish(period, folder, formats=formats) if (final or folder) and invoiced.invoices else None
        )
    if as_json:
        from rating.invoice import as_json as invoice_json

        print_json({"invoices": [invoice_json(one) for one in invoiced.invoices]})
    else:
        out.print(show.invoices(invoiced.invoices))
    _say_how_it_went(period, invoiced, final)
    if published is not None:
        err.print(f"Files: {published}", highlight=False, soft_wrap=True)


@app.command()
def invoices(
    period: Annotated[str | None, typer.Option("--period", "-p", help="Only invoices of this period.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Show the lines of each invoice too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List invoices and their lines."""
    with open_workspace() as workspace:
        found = workspace.invoices(period)
    if as_json:
        from rating.invoice import as_json as invoice_json

        print_json({"invoices": [invoice_json(one) for one in found]})
        return
    out.print(show.invoices(found))
    if lines:
        for one in found:
            out.print(show.invoice_lines(one))


@app.command()
def verify(
    invoice_id: Annotated[str | None, typer.Argument(help="An invoice by id or number; without it, all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every final invoice (the default).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Recompute invoices from the snapshots they pin and compare them byte for byte with the books."""
    if invoice_id is not None and everything:
        raise typer.BadParameter("give an invoice or --all, not both")
    with open_workspace() as workspace, progress("verifying") as _:
        verdicts = workspace.verify(invoice_id)
    differing = sum(not one.matches for one in verdicts)
    if as_json:
        rows = [{name: getattr(one, name) for name in one.__slots__} for one in verdicts]
        print_json({"verified": rows, "matching": len(verdicts) - differing, "differing": differing})
    else:
        out.print(show.verified(verdicts))
    raise typer.Exit(FINDING if differing else DONE)


app.add_typer(documents)
app.add_typer(delivery)
app.add_typer(running)
app.add_typer(reconciling)
app.add_typer(questions)
app.add_typer(entitlements)
app.add_typer(provider_app)
app.add_typer(marketplace_app)


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to build the demo's workspace; replaced if it is a demo.")
    ] = None,
    events: Annotated[int, typer.Option("--events", min=10_000, help="How many usage events to record.")] = 1_000_000,
) -> None:
    """A month of a made-up company, recorded by real processes (one is killed), invoiced, reconciled and explained."""
    from tallybook.demo.story import run_demo

    raise typer.Exit(FINDING if not run_demo(folder or Path("tallybook-demo"), events=events, out=out) else DONE)


@app.command()
def settings(as_json: JsonOption = False) -> None:
    """The settings in force, and where each comes from: a variable, the file, or the default. Secrets are not shown."""
    from metering.layout import Layout
    from tallybook.settings_shown import shown_settings

    rows = shown_settings(Layout.of(State.root))
    if as_json:
        print_json({"settings": [{name: getattr(row, name) for name in row.__slots__} for row in rows]})
    else:
        columns = [("setting", "left"), ("value", "left"), ("from", "left")]
        out.print(show.table("", columns, [(row.name, row.value, row.source) for row in rows]))


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check this machine and workspace: versions, clocks, disks, stores, catalog, keys, what waits and until when, what runs."""
    from tallybook.doctor import examine

    checks = examine(State.root)
    if as_json:
        print_json({"checks": [{name: getattr(check, name) for name in check.__slots__} for check in checks]})
    else:
        out.print(show.checks(checks))
    raise typer.Exit(FINDING if any(check.result == "fail" for check in checks) else DONE)


def main() -> None:
    """Run the command line and turn errors into sentences and exit codes."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        err.print("Interrupted. Every step is idempotent: run the same command again.")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last boundary: every error becomes a sentence and an exit code
        sys.exit(report(error))


def _say_how_it_went(period: str, invoiced: Any, final: bool) -> None:
    if not final:
        err.print("Drafts book nothing. `tallybook invoice --final` books them.", highlight=False)
    elif invoiced.was_there:
        err.print(f"{period} was final already; late usage is booked with the next period.", highlight=False)
    elif not invoiced.is_complete:
        err.print(
            f"{period} is still open: this books what is due so far; run it again after its end for the rest.",
            highlight=False,
        )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUTF8", "1")
    main()
