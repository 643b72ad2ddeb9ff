"""How a figure is written down: its value, and its ratio against a named alternative of the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypedDict


class Figure(TypedDict):
    """One measured figure. `ratio` compares with the figure named `against` (None: it is an alternative itself)."""

    name: str
    value: float
    unit: str
    ratio: float | None
    against: str | None
    note: str


def figure(name: str, value: float, unit: str, other: float | None, against: str | None, note: str) -> Figure:
    """Return a figure; its ratio is to `other`, the value of what `against` names."""
    ratio = None if other is None else value / other
    return {"name": name, "value": value, "unit": unit, "ratio": ratio, "against": against, "note": note}


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of a call, after one that is not counted."""
    run()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def as_table(name: str, figures: Sequence[Figure]) -> str:
    """Return figures as plain text for a terminal."""
    rows = [_cells(figure) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:<{widths[3]}}".rstrip()
        for row in rows
    ]
    return "\n".join([name, *lines, ""])


def as_markdown(figures: Sequence[Figure]) -> str:
    """Return figures as a Markdown table."""
    lines = ["| what | value | ratio | note |", "|---|---:|---|---|"]
    lines += ["| " + " | ".join(_cells(figure)) + " |" for figure in figures]
    return "\n".join(lines) + "\n"


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    value = figure["value"]
    digits = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f} x {figure['against']}"
    return figure["name"], f"{digits} {figure['unit']}", ratio, figure["note"]
