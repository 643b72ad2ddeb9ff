"""The command line's questions: why a line says what it says, what if the prices were others, what looks wrong.

Enters: words of an operator. Leaves: answers as text, JSON, CSV or Arrow. Refuses: to book anything; every command here
can be run at any time, by anybody who may read.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallybook import show
from tallybook.cli_shell import DONE, FINDING, JsonOption, err, open_workspace, out, print_json, progress

if TYPE_CHECKING:
    import pyarrow as pa

questions = typer.Typer()

FileOption = Annotated[Path | None, typer.Option("--out", help="Write to this file; without it to standard output.")]


class ExplanationForm(StrEnum):
    """How an explanation is printed."""

    TEXT = "text"
    JSON = "json"
    ARROW = "arrow"


@questions.command()
def explain(
    line_id: str,
    form: Annotated[ExplanationForm, typer.Option("--as", help="How to print it.")] = ExplanationForm.TEXT,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why an invoice line says what it says: its steps and tiers, its usage, and a sample of its events with their origin."""
    with open_workspace() as workspace:
        explanation = workspace.explain(line_id)
    if form is ExplanationForm.ARROW:
        write_arrow(explanation.to_arrow(), file)
    elif as_json or form is ExplanationForm.JSON:
        print_json(explanation.to_json())
    else:
        out.print(show.explanation(explanation))


class AnswerForm(StrEnum):
    """How an answer with many rows is printed."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


class Rows(StrEnum):
    """What one row of a CSV or Arrow answer is about."""

    TENANT = "tenant"
    PLAN = "plan"
    PRICE = "price"
    LINE = "line"


@questions.command()
def whatif(
    first: Annotated[str, typer.Option("--from", help="The first period, such as 2026-01.")],
    last: Annotated[str, typer.Option("--to", help="The last period, such as 2026-12; it counts too.")],
    plan: Annotated[
        Path | None, typer.Option("--plan", help="A file with plans; each takes the place of the plan of its name.")
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            "--replace", help="OLD=NEW: put subscriptions of OLD on NEW (a plan, or plan/version). Repeatable."
        ),
    ] = None,
    form: Annotated[AnswerForm, typer.Option("--as", help="How to print it.")] = AnswerForm.TEXT,
    rows: Annotated[Rows, typer.Option("--rows", help="What a row of CSV or Arrow is about.")] = Rows.TENANT,
    file: FileOption = None,
) -> None:
    """What history would have brought in under other plans: per plan, price and tenant, who pays less and who more.

    Books nothing. All periods that end from FIRST to LAST are rated under the applied catalog and under the new plans,
    over the same usage; a period that is not over yet counts with what was used so far.
    """
    from tallybook import show_questions
    from tallybook.questions import ask_what_if, wall_of

    with open_workspace() as workspace, progress("rating"):
        wall = wall_of(first, last)
        answer = ask_what_if(workspace, plan, wall, _replacements(replace or []))
        is_over = wall.in_zone("UTC").end <= workspace.now
    table = {Rows.TENANT: answer.tenants, Rows.PLAN: answer.plans, Rows.PRICE: answer.prices, Rows.LINE: answer.lines}[
        rows
    ]
    if form is AnswerForm.ARROW:
        write_arrow(table, file)
    elif form is AnswerForm.CSV:
        write_text(show_questions.csv_text(table), file)
    elif form is AnswerForm.JSON:
        print_json(answer.to_json())
    else:
        out.print(show_questions.what_if(answer))
    if not is_over:
        err.print(f"{last} is not over yet: both sides count what was used so far, and whole fees.", highlight=False)


@questions.command()
def lint(
    first: Annotated[str | None, typer.Option("--from", help="The first period of history; else last month.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last period of history; it counts too.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What the catalog may say and probably does not mean, priced on history. Reads the files, applied or not.

    Exit code 1 if there is an error, 0 with warnings. The codes are explained in docs/lint.md.
    """
    from tallybook import show_questions
    from tallybook.questions import ask_lint, wall_of

    wall = wall_of(first or last or "", last or first or "") if first or last else None
    with open_workspace() as workspace, progress("rating"):
        found = ask_lint(workspace, wall)
    if as_json:
        print_json({"findings": [one.to_json() for one in found]})
    else:
        out.print(show_questions.findings(found))
    failing = {"error", "warning"} if strict else {"error"}
    raise typer.Exit(FINDING if any(one.finding.severity in failing for one in found) else DONE)


@questions.command()
def preview(tenant: str, as_json: JsonOption = False) -> None:
    """What a tenant is using in its current billing periods, and the invoice its account would get. Books nothing."""
    from tallybook import show_questions
    from tallybook.preview import preview as preview_of

    with open_workspace() as workspace:
        found = preview_of(workspace, tenant)
    if as_json:
        print_json(found.to_json())
        return
    out.print(show_questions.preview(found))
    err.print("What is recorded and not shipped yet is not in it; `tallybook ship` moves it.", highlight=False)


def _replacements(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not (old and equals and new) or old in found:
            raise typer.BadParameter(f"{word!r} is not OLD=NEW, once for each OLD; write --replace starter=pro")
        found[old] = new
    return found


def write_text(text: str, file: Path | None) -> None:
    """Write text to a file, or to standard output."""
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8", newline="")
        err.print(f"{file}", highlight=False, soft_wrap=True)


def write_arrow(table: pa.Table, file: Path | None) -> None:
    """Write a table as an Arrow IPC file, or as an Arrow stream on standard output."""
    import pyarrow as pa

    if file is None:
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
            writer.write_table(table)
        return
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    err.print(f"{table.num_rows:,} rows: {file}", highlight=False, soft_wrap=True)
