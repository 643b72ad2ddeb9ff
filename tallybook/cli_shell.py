"""What every command of the command line shares: the workspace, the two streams, progress, JSON, exit codes.

Enters: words of an operator and what a step returned. Leaves: data on stdout, progress and sentences on stderr.
Refuses: to know any one command; they are in `tallybook.cli` and `tallybook.cli_questions`.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from billing_adapters.file_adapter.columns import Format
from metering.clock import iso_utc
from metering.errors import CodedError, LakeDamaged, MeteringError, Retryable, Terminal
from metering.layout import Layout
from metering.numbers import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tallybook.workspace import Workspace

# Of decimal(38, 12).
AMOUNT_DIGITS_MAX, AMOUNT_PLACES_MAX = 26, 12
DONE, FINDING, BAD_INPUT, OUR_FAULT = 0, 1, 2, 3

# Piped into a file or a pager there is no width to ask for; a wide one keeps ids on one line.
PIPED_WIDTH = 160
out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
# Sentences name sections, [delivery.stripe]: nothing in brackets is markup unless it is said.
err = Console(stderr=True, markup=False, width=None if sys.stderr.isatty() else PIPED_WIDTH)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason; it stays in the books.")]
WhoOption = Annotated[str | None, typer.Option("--who", help="Who; without it, your user name.")]
PeriodOption = Annotated[
    str, typer.Option("--period", "-p", help="2026-10, 2026, 2026-10-05 or 2026-10-01..2026-11-01 (end open).")
]

FormatsOption = Annotated[
    list[Format] | None,
    typer.Option(
        "--format",
        help="May be repeated. Without it, those of the settings (by default all).",
    ),
]


class State:
    """What the options before the command said."""

    root: Path = Path("tallybook-data")


def report(error: Exception) -> int:
    """Say on stderr what went wrong and what to do; return the exit code."""
    code = exit_code_of(error)
    if code == OUR_FAULT and not isinstance(error, Retryable):
        said = "[bold]This is a fault of Tallybook, not yours.[/bold] Nothing was half done. What happened:"
        err.print(said, markup=True)
        told = _without_secrets("".join(traceback.format_exception(error)))
        err.print(told, markup=False, highlight=False, soft_wrap=True)
        return code
    message = _without_secrets(getattr(error, "message", str(error)))
    err.print(f"[bold red]{type(error).__name__}[/bold red]", markup=True, highlight=False)
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    return code


def _without_secrets(text: str) -> str:
    """Return what is to be said without the secrets of the settings, or, where these cannot be read, of the environment."""
    from tallybook.hiding import hide, secrets_around
    from tallybook.settings import load_settings

    try:
        return load_settings(Layout.of(State.root)).without_secrets(text)
    except CodedError:
        return hide(text, secrets_around())


def exit_code_of(error: Exception) -> int:
    """Return the exit code of an error: damage is a finding, what must be changed first is bad input, the rest is ours."""
    from rating.errors import InvariantViolated

    if isinstance(error, LakeDamaged):
        return FINDING
    if isinstance(error, InvariantViolated):
        return FINDING if "changed after it was booked" in error.message else OUR_FAULT
    if isinstance(error, Terminal | MeteringError) and not isinstance(error, Retryable):
        return BAD_INPUT
    return OUR_FAULT


@contextmanager
def open_workspace() -> Iterator[Workspace]:
    """Open the workspace that --workspace names."""
    from tallybook.workspace import Workspace

    with Workspace(State.root) as workspace:
        yield workspace


@contextmanager
def progress(what: str) -> Iterator[Any]:
    """Show progress on stderr, only where somebody is looking."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} rows"))
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda rows: bar.update(task, advance=rows)


def plain_amount(text: str, option: str) -> Decimal:
    """Return an amount of money as an operator wrote it, exact. Raises BadParameter for what is no plain decimal of 0 or more."""
    from metering.catalog import plain_decimal

    try:
        return plain_decimal(text, digits=AMOUNT_DIGITS_MAX, places=AMOUNT_PLACES_MAX, minimum=Decimal(0))
    except ValueError as refused:
        raise typer.BadParameter(f"{option}: {refused}") from refused


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=str) + b"\n")
    sys.stdout.buffer.flush()


def json_value(value: Any) -> Any:
    """Return a value of the books as JSON has it: instants as ISO 8601 in UTC, decimals as text."""
    if hasattr(value, "astimezone"):
        return iso_utc(value)
    return plain(value) if hasattr(value, "is_finite") else value
