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
from tallybook.cli_shell import JsonOption, err, open_workspace, out, print_json

if TYPE_CHECKING:
    import pyarrow as pa

questions = typer.Typer()

FileOption = Annotated[
    Path | None, typer.Option("--out", help="Write the Arrow file here; without it it goes to standard output.")
]


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
