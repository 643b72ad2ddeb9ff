"""The conservation statement for a person at a terminal: figures in columns, names as plain text.

Enters: a Statement. Leaves: a rich renderable. Refuses: to leave out a total, a missing row or an unexplained one; of
single meters the buckets that hold nothing are not printed.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from billing_adapters.reconciliation.statement import (
    COLLECTION_EQUATIONS,
    EQUATIONS,
    MISSING,
    UNEXPLAINED,
    period_text,
)
from billing_adapters.reconciliation.words import EQUATION_TITLES, bucket_name
from metering.numbers import trimmed
from rating.rounding import exact_sum

if TYPE_CHECKING:
    from rich.console import RenderableType

    from billing_adapters.reconciliation.statement import ConservationRow, Finding, Statement

_NO_METER = {"recorded": "(meter not known)", "stored": "(meter not known)", "rated_value": "(no meter: flat fees)"}


def render(statement: Statement) -> RenderableType:
    """Return the statement as tables: the verdict, three equations with totals first, and the findings."""
    verdict = Text(f"Conservation statement {period_text(statement.period)}: ")
    verdict.append(statement.verdict, style="bold green" if statement.is_conserved else "bold red")
    parts: list[RenderableType] = [verdict]
    parts += [
        _equation_table(equation, [row for row in statement.rows if row.equation == equation])
        for equation in (*EQUATIONS, *COLLECTION_EQUATIONS)
        if any(row.equation == equation for row in statement.rows)
    ]
    if statement.findings:
        parts.append(_finding_table(statement.findings))
    return Group(*parts)


def _equation_table(equation: str, rows: list[ConservationRow]) -> Table:
    is_money = any(row.currency is not None for row in rows)
    table = Table(title=EQUATION_TITLES[equation], title_justify="left", title_style="bold", expand=False)
    table.add_column("meter", overflow="fold")
    table.add_column("bucket", no_wrap=True)
    for heading in ("amount", "currency") if is_money else ("rows", "quantity"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if not _is_shown(row):
            continue
        is_left = row.bucket == equation
        if is_left and table.row_count:
            table.add_section()
        figures = (_number(row.amount), row.currency or "") if is_money else (_number(row.rows), _number(row.quantity))
        table.add_row(
            Text(_meter_name(row)) if is_left else Text(""),
            Text(("" if is_left else "  ") + bucket_name(row.bucket), style=_style(row)),
            *(Text(figure, style=_style(row)) for figure in figures),
        )
    return table


def _is_shown(row: ConservationRow) -> bool:
    always = row.meter is None or row.bucket in {row.equation, UNEXPLAINED}
    return always or bool(row.rows or row.quantity or row.amount)


def _meter_name(row: ConservationRow) -> str:
    if row.equation in COLLECTION_EQUATIONS:
        return row.adapter or "all documents"
    if row.meter is None:
        return "all meters"
    return row.meter or _NO_METER[row.equation]


def _style(row: ConservationRow) -> str:
    if row.bucket in {MISSING, UNEXPLAINED} and (row.rows or row.quantity or row.amount):
        return "bold red"
    return "bold" if row.bucket == row.equation else ""


def _finding_table(findings: tuple[Finding, ...]) -> Table:
    """Return one row per (control, meter, reason); where several tenants are in it, their number. JSON has each of them."""
    groups: dict[tuple[str, str, str | None, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.finding_class, finding.control_id, finding.meter, finding.reason)
        groups.setdefault(key, []).append(finding)
    table = Table(title=f"Findings: {len(findings):,}", title_justify="left", title_style="bold", expand=False)
    for heading in ("class", "control", "meter", "reason", "tenant"):
        table.add_column(heading, overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("quantity", justify="right", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for (finding_class, control_id, meter, reason), members in groups.items():
        first = members[0]
        tenant = first.tenant_id or "?" if len(members) == 1 else f"{len(members):,} tenants"
        quantities = [finding.quantity_difference for finding in members if finding.quantity_difference is not None]
        rows = [finding.rows for finding in members if finding.rows is not None]
        table.add_row(
            *map(Text, (finding_class, control_id, meter or "?", reason, tenant)),
            _number(sum(rows) if rows else None),
            _number(exact_sum(quantities) if quantities else None),
            Text(first.detail if len(members) == 1 else f"first {first.tenant_id or '?'}: {first.detail}"),
        )
    return table


def _number(number: int | Decimal | None) -> str:
    if number is None:
        return "?"
    text = trimmed(number) if isinstance(number, Decimal) else str(number)
    whole, point, places = text.partition(".")
    return f"{int(whole):,}{point}{places}" if whole != "-0" else text
