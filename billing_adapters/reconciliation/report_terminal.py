"""A report for a person at a terminal: the verdict, the three numbers, the waterfalls, findings by control, what was looked at.

Enters: a Report. Leaves: a rich renderable, short. Refuses: to leave out a currency or a control with findings; the page, the
workbook and JSON have the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from billing_adapters.pages import count as grouped
from billing_adapters.reconciliation.kpis import detection_lag, kpis
from billing_adapters.reconciliation.report import (
    by_control,
    coverage,
    totals,
    waterfall_of_events,
    waterfall_of_money,
)
from billing_adapters.reconciliation.report_page import control_title, shown, verdict_of
from billing_adapters.reconciliation.words import CLASSES, bucket_name
from metering.clock import iso_utc

if TYPE_CHECKING:
    from rich.console import RenderableType

    from billing_adapters.reconciliation.report import Report, Waterfall

_STYLES = {"level": "bold", "explained": "", "finding": "yellow", "unexplained": "bold red"}
# What of the key figures of usage a terminal says; all of them are in the other forms.
_SAID = frozenset({"capture rate", "loss rate", "unbilled rate", "late usage share", "statements verified"})
_SIGNS = {"level": "", "explained": "- ", "finding": "! ", "unexplained": "# "}


def report_table(report: Report) -> RenderableType:
    """Return the report as a few tables."""
    verdict = Text(f"Reconciliation {report.period}: ")
    verdict.append(verdict_of(report), style="bold green" if report.statement.is_conserved else "bold red")
    parts: list[RenderableType] = [verdict, _numbers(report)] if report.currencies else [verdict]
    parts.append(_waterfall(waterfall_of_events(report), None))
    parts += [_waterfall(waterfall_of_money(report, currency), currency) for currency in report.currencies]
    if report.unsettled:
        parts.append(_controls(report))
    parts.append(Text(_looked_at(report)))
    return Group(*parts)


def _numbers(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("currency")
    for heading in ("lost", "at risk", "over-billed", "waived", "recovered"):
        table.add_column(heading, justify="right")
    table.add_column("leakage", justify="right")
    table.add_column("first recover by")
    leakage = {one.currency: one.percent for one in kpis(report) if one.name == "leakage"}
    for currency, one in totals(report).items():
        amounts = (one.lost, one.at_risk, one.over_billed, one.waived, one.recovered)
        until = "" if one.recover_by is None else iso_utc(one.recover_by)
        sums = [shown(amount, currency) for amount in amounts]
        table.add_row(currency, *sums, leakage.get(currency, ""), until)
    return table


def _waterfall(waterfall: Waterfall, currency: str | None) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, title=waterfall.unit, title_justify="left")
    table.add_column("bucket", min_width=38)
    table.add_column("figure", justify="right")
    for bar in waterfall.bars:
        figure = bar.figure if bar.kind == "level" else -bar.figure
        text = grouped(figure) if currency is None else shown(figure, currency)
        style = _STYLES[bar.kind]
        sign = "+ " if bar.kind == "explained" and bar.figure < 0 else _SIGNS[bar.kind]
        table.add_row(Text(sign + bucket_name(bar.bucket), style=style), Text(text, style=style))
    return table


def _controls(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Findings", title_justify="left", title_style="bold")
    for heading in ("control", "class", "who acts"):
        table.add_column(heading)
    for heading in ("findings", "units", "likely"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for line in by_control(report):
        table.add_row(
            Text(control_title(line.control_id)),
            Text(CLASSES.get(line.finding_class, (line.finding_class,))[0]),
            Text(line.owner),
            f"{line.count:,}",
            "" if line.quantity is None else grouped(line.quantity),
            shown(line.likely, line.currency) if line.currency else "no amount",
            Text(line.currency + (" (within another)" if line.is_within else "")),
        )
    return table


def _looked_at(report: Report) -> str:
    found = coverage(report)
    said = f"{found.passed + found.breaks} of {found.due} controls that were due have run"
    said += f"; {found.not_possible} are not possible yet (`tallybook controls` says what they need)."
    figures = ", ".join(f"{one.name} {one.percent}" for one in kpis(report) if one.name in _SAID)
    lag = detection_lag(report)
    if lag is not None:
        figures += f"{', ' if figures else ''}detection lag {lag.in_words[0]} (median)"
    return f"{said}\n{figures[:1].upper()}{figures[1:]}." if figures else said
