"""A report as a workbook, and as CSV and Parquet: the same tables, typed, the same bytes for the same report.

Enters: a Report. Leaves: files, each written whole beside its place and then renamed. Refuses: floats, text that a
spreadsheet would run, digits that a cell cannot hold (they are text there); see `file_adapter.workbook`.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from billing_adapters.file_adapter.columns import arrow_schema
from billing_adapters.file_adapter.formats import FORMATS
from billing_adapters.file_adapter.workbook import About, Sheets, made_workbook, written
from billing_adapters.finding_life import severity_of
from billing_adapters.reconciliation.kpis import detection_lag, kpis
from billing_adapters.reconciliation.report import (
    coverage,
    totals,
    waterfall_of_events,
    waterfall_of_money,
    waterfalls_of_meters,
)
from billing_adapters.reconciliation.report_json import plain
from billing_adapters.reconciliation.report_page import verdict_of
from billing_adapters.reconciliation.report_shapes import (
    CONTROL_LOG,
    FINDINGS,
    HISTORY,
    PARAMETERS,
    REGISTER,
    ROLL_FORWARDS,
    SHEETS,
    TIE_OUTS,
    WATERFALL,
)
from billing_adapters.reconciliation.statement import MONEY_EQUATION, UNEXPLAINED
from billing_adapters.reconciliation.words import KPIS
from metering.clock import iso_utc
from metering.numbers import exact_difference, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import FileShape
    from billing_adapters.reconciliation.report import Report

Row = dict[str, Any]
# What the files of `write_tables` are called.
FILES = {"findings": FINDINGS, "finding_history": HISTORY, "control_log": CONTROL_LOG, "tie_outs": TIE_OUTS}
_ZERO = Decimal(0)


def tables(report: Report) -> dict[str, pa.Table]:
    """Return the tables of a report by the names of their shapes; rows in the order of a shape's key."""
    import pyarrow as pa

    made = {}
    for shape in SHEETS:
        rows = [{"run_id": report.run.run_id, **row} for row in _ROWS[shape.name](report)]
        made[shape.name] = pa.Table.from_pylist(rows, schema=arrow_schema(shape))
    return made


def write_report_workbook(report: Report, file: BinaryIO) -> None:
    """Write the workbook: Summary, then a sheet per table. Decimals are number cells, or text where they are too long."""
    about = _about(report)
    made = tables(report)
    with made_workbook(file, f"Reconciliation {report.period}", about) as book:
        _summary(book, report)
        for shape in SHEETS:
            Sheets(book, shape, about).write_rows(made[shape.name])


def write_tables(report: Report, folder: Path, file_format: str) -> list[Path]:
    """Write findings, their history, the control log and tie-outs as `csv` or `parquet` files. Return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tables(report)
    paths = []
    for name, shape in FILES.items():
        path = folder / f"{name}.{file_format}"
        table = made[shape.name]
        write_whole(path, partial(_write_table, report, shape, table, file_format))
        paths.append(path)
    return paths


def _write_table(report: Report, shape: FileShape, table: pa.Table, file_format: str, file: BinaryIO) -> None:
    FORMATS[file_format](shape, table, file, _about(report))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place and put it there when it is whole: nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _about(report: Report) -> About:
    # The end of the period, never a clock: it stands in the properties of the workbook.
    created = datetime.combine(report.run.period_end, time(), UTC)
    return About(report.run.run_id, report.period, created, ())


def _summary(book: Any, report: Report) -> None:
    sheet = book.add_worksheet("Summary")
    bold, title = book.add_format({"bold": True}), book.add_format({"bold": True, "font_size": 16})
    number = book.add_format({"num_format": "#,##0.00_);(#,##0.00)"})
    sheet.set_column(0, 0, 34)
    sheet.set_column(1, 7, 18)
    sheet.hide_gridlines(2)
    sheet.set_landscape()
    sheet.set_paper(9)
    sheet.fit_to_pages(1, 0)
    written(sheet.write_string(0, 0, f"Reconciliation {report.period}", title))
    written(sheet.write_string(1, 0, verdict_of(report), bold))
    facts = [("As of (UTC)", iso_utc(report.run.as_of)), ("Prepared by", report.run.preparer)]
    facts += [("Reviewed by", report.run.reviewer or "not reviewed yet"), ("Run", report.run.run_id)]
    found = coverage(report)
    facts += [("Controls run, of those due", f"{found.passed + found.breaks} of {found.due}")]
    facts += [("Controls not possible yet", str(found.not_possible))]
    for row, (name, value) in enumerate(facts, start=3):
        written(sheet.write_string(row, 0, name, bold))
        written(sheet.write_string(row, 1, value, None))
    first = 4 + len(facts)
    heads = ("Currency", "Lost", "At risk", "Over-billed", "Timing", "Waived", "Recovered", "First recover_by (UTC)")
    for at, head in enumerate(heads):
        written(sheet.write_string(first, at, head, bold))
    for row, (currency, one) in enumerate(totals(report).items(), start=first + 1):
        written(sheet.write_string(row, 0, currency, None))
        amounts = (one.lost, one.at_risk, one.over_billed, one.timing, one.waived, one.recovered)
        for at, amount in enumerate(amounts, start=1):
            written(sheet.write_number(row, at, amount, number))
        written(sheet.write_string(row, 7, "" if one.recover_by is None else iso_utc(one.recover_by), None))
    _key_figures(book, sheet, report, first + 3 + len(totals(report)))


def _key_figures(book: Any, sheet: Any, report: Report, first: int) -> None:
    """Write each share with the two figures that it is made of. Shares are text: a cell would be a binary fraction."""
    bold, number = book.add_format({"bold": True}), book.add_format({"num_format": "#,##0.00_);(#,##0.00)"})
    for at, head in enumerate(("Key figure", "Currency", "Share", "Part", "Whole", "What it is")):
        written(sheet.write_string(first, at, head, bold))
    for row, one in enumerate(kpis(report), start=first + 1):
        for at, text in ((0, one.name), (1, one.currency or ""), (2, one.percent), (5, KPIS[one.name])):
            written(sheet.write_string(row, at, text, None))
        for at, figure in ((3, one.part), (4, one.whole)):
            written(sheet.write_number(row, at, figure, number))
    lag = detection_lag(report)
    if lag is not None:
        median, most = lag.in_words
        said = f"half of {lag.findings} findings took {median} at the most, 95 of 100 {most}"
        row = first + 2 + len(kpis(report))
        written(sheet.write_string(row, 0, "Detection lag", bold))
        written(sheet.write_string(row, 1, said, None))


# --- rows -------------------------------------------------------------------------------------------------------------


def _findings(report: Report) -> Iterator[Row]:
    names = [column.name for column in FINDINGS.columns]
    for one in sorted(report.findings, key=lambda one: one.finding_id):
        severity = severity_of(one.finding_class, one.amount_likely, one.recover_by, report.run.as_of)
        said = {"class": one.finding_class, "severity": severity, "run_id": report.run.run_id}
        row = {name: said[name] if name in said else getattr(one, name) for name in names}
        yield {**row, "evidence_sample": orjson.dumps(list(one.evidence_sample)).decode()}


def _history(report: Report) -> Iterator[Row]:
    for one in sorted(report.findings, key=lambda one: one.finding_id):
        for event in one.history:
            names = ("number", "at", "verb", "status", "by", "why")
            yield {
                "finding_id": one.finding_id,
                "class": event.finding_class,
                **{name: getattr(event, name) for name in names},
            }


def _waterfall(report: Report) -> Iterator[Row]:
    drawn: list[tuple[str, str | None, str | None, Any]] = [
        ("usage events", None, None, waterfall_of_events(report)),
        *(("meter", meter, None, one) for meter, one in waterfalls_of_meters(report).items()),
        *(("money", None, currency, waterfall_of_money(report, currency)) for currency in report.currencies),
    ]
    for unit, meter, currency, waterfall in drawn:
        for position, bar in enumerate(waterfall.bars, start=1):
            figure = {"exact_amount": bar.figure} if currency else {"quantity": bar.figure}
            about = {"unit": unit, "meter": meter, "currency": currency, "position": position}
            yield {**about, "bucket": bar.bucket, "kind": bar.kind, **figure}


def _tie_outs(report: Report) -> Iterator[Row]:
    for row in report.statement.rows:
        if row.bucket != row.equation:
            continue
        rest = report.statement.row(row.equation, UNEXPLAINED, row.meter, row.currency, row.adapter)
        yield {
            "equation": row.equation,
            "meter": "all meters" if row.meter is None else row.meter,
            "currency": row.currency,
            "adapter": row.adapter,
            "rows": row.rows,
            "quantity": row.quantity,
            "exact_amount": row.amount,
            "rows_explained": None if rest is None or row.rows is None else row.rows - (rest.rows or 0),
            "quantity_explained": _less(row.quantity, rest.quantity if rest else None),
            "exact_amount_explained": _less(row.amount, rest.amount if rest else None),
            "unexplained": ((rest.amount if row.currency else rest.quantity) if rest else None) or _ZERO,
        }


def _less(whole: Decimal | None, part: Decimal | None) -> Decimal | None:
    return None if whole is None else exact_difference(whole, part or _ZERO)


def _register(report: Report) -> Iterator[Row]:
    for one in sorted(report.documents, key=lambda one: one.invoice_id):
        yield {name: getattr(one, name) for name in one.__slots__} | {"adapters": ", ".join(one.adapters)}


def _roll_forwards(report: Report) -> Iterator[Row]:
    for row in report.statement.rows:
        if (row.equation, row.bucket) != (MONEY_EQUATION, MONEY_EQUATION) or row.meter is None:
            continue
        parts = {
            name: (found.amount or _ZERO) if found else _ZERO
            for name in ("invoiced", "carried")
            for found in [report.statement.row(MONEY_EQUATION, name, row.meter, row.currency)]
        }
        unbilled = exact_difference(row.amount or _ZERO, *parts.values())
        yield {"meter": row.meter, "currency": row.currency, "worth": row.amount, **parts, "unbilled": unbilled}


def _control_log(report: Report) -> Iterator[Row]:
    names = [column.name for column in CONTROL_LOG.columns]
    for run in sorted(report.runs, key=lambda run: str(run["control_id"])):
        inputs = orjson.dumps(run["inputs"], default=str).decode()
        yield {**{name: run[name] for name in names}, "inputs": inputs, "is_ours": "yes" if run["is_ours"] else "no"}


def _parameters(report: Report) -> Iterator[Row]:
    facts = {f"run.{name}": value for name, value in plain(report.run).items() if value is not None}
    facts |= {"findings.floor": trimmed(report.floor)}
    for run in report.runs:
        values = orjson.loads(run["parameters"])
        facts |= {f"{run['control_id']}.{name}": str(value) for name, value in values.items()}
    for name, value in sorted(facts.items()):
        yield {"name": name, "value": value}


_ROWS: dict[str, Callable[[Report], Iterator[Row]]] = {
    FINDINGS.name: _findings,
    HISTORY.name: _history,
    WATERFALL.name: _waterfall,
    TIE_OUTS.name: _tie_outs,
    REGISTER.name: _register,
    ROLL_FORWARDS.name: _roll_forwards,
    CONTROL_LOG.name: _control_log,
    PARAMETERS.name: _parameters,
}
