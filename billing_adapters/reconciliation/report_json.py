"""A report as plain JSON values, every number as text: the stable form for programs, and what all other forms must agree with.

Enters: a Report. Leaves: a dict. Refuses: to round, and to leave out a finding; a missing figure is null.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.finding_life import STATUSES, severity_of, totals_by_status
from billing_adapters.reconciliation.kpis import detection_lag, kpis
from billing_adapters.reconciliation.report import (
    ages,
    by_control,
    coverage,
    time_left,
    top,
    totals,
    waterfall_of_events,
    waterfall_of_money,
    waterfalls_of_meters,
)
from billing_adapters.reconciliation.statement import as_json as statement_json
from metering.clock import iso_utc
from metering.numbers import trimmed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing_adapters.findings import Finding
    from billing_adapters.reconciliation.report import Report, Waterfall

# How a field of ours is called in files and JSON, where Python cannot call it so.
_NAMES = {"finding_class": "class"}


def report_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values. Keys stay; further ones may be added."""
    statement = statement_json(report.statement)
    run = report.run
    return {
        "verdict": statement["verdict"],
        "period": report.period,
        "run": plain(run),
        "previous_run_id": None if report.before is None else report.before.run_id,
        "conservation": statement["conservation"],
        "unexplained": statement["unexplained"],
        "totals": {currency: plain(one) for currency, one in totals(report).items()},
        "kpis": [{**plain(one), "percent": one.percent} for one in kpis(report)],
        "detection_lag": _lag(report),
        "included_use": [
            {"currency": currency, "meter": meter, "quantity": trimmed(units)}
            for (currency, meter), units in sorted(report.included.items())
        ],
        "findings_by_status": _by_status(report),
        "unsettled_without_amount": sum(one.amount_likely is None for one in report.unsettled),
        "findings": [finding_json(one, report) for one in report.findings],
        "new": list(report.new),
        "cleared": list(report.cleared),
        "reopened": list(report.reopened),
        "controls": [control_json(one, report) for one in report.runs],
        "coverage": {**plain(coverage(report)), "due": coverage(report).due},
        "waterfall": {
            "usage_events": _bars(waterfall_of_events(report)),
            "amount": {currency: _bars(waterfall_of_money(report, currency)) for currency in report.currencies},
            "quantity": {meter: _bars(one) for meter, one in waterfalls_of_meters(report).items()},
        },
        "by_control": [plain(one) for one in by_control(report)],
        "ageing": {currency: _spread(ages(report, currency)) for currency in report.currencies},
        "time_left": {currency: _spread(time_left(report, currency)) for currency in report.currencies},
        "top_tenants": {
            currency: [{**row, "billed": _billed(report, row["name"], currency)} for row in rows]
            for currency, rows in ((one, _spread(top(report, one, "tenant_id"))) for one in report.currencies)
        },
        "top_meters": {currency: _spread(top(report, currency, "meter")) for currency in report.currencies},
        "documents": [plain(one) for one in report.documents],
        "waivers": [plain(one) for one in report.waivers],
    }


def finding_json(one: Finding, report: Report) -> dict[str, Any]:
    """Return one finding, its severity and its history."""
    severity = severity_of(one.finding_class, one.amount_likely, one.recover_by, report.run.as_of)
    values = plain(one)
    history = values.pop("history")
    return {**values, "found_at": values["first_seen"], "severity": severity, "history": history}


def control_json(run: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Return how a control ran, with what its head says of it."""
    head = report.heads.get(run["control_id"])
    said = ("compares", "catches", "act", "money", "within")
    values = {name: _value(value) for name, value in run.items() if name != "parameters"}
    about = {name: getattr(head, name, None) for name in said}
    return {
        **values,
        "parameters": orjson.loads(run["parameters"]),
        **about,
        "class": getattr(head, "finding_class", None),
    }


def plain(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values: numbers and times as text."""
    names = [one.name for one in fields(value)]
    return {_NAMES.get(name, name): _value(getattr(value, name)) for name in names}


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return trimmed(value)
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    if isinstance(value, dict):
        return {name: _value(one) for name, one in value.items()}
    return plain(value) if hasattr(value, "__dataclass_fields__") else value


def _by_status(report: Report) -> dict[str, int]:
    counted = totals_by_status(one.status for one in report.findings)
    return {status: counted[status] for status in STATUSES}


def _bars(waterfall: Waterfall) -> list[dict[str, Any]]:
    return [plain(bar) for bar in waterfall.bars]


def _spread(rows: list[tuple[str, int, Decimal]]) -> list[dict[str, Any]]:
    return [{"name": name, "findings": count, "amount_likely": trimmed(amount)} for name, count, amount in rows]


def _billed(report: Report, tenant: str, currency: str) -> str | None:
    amount = report.billed.get((tenant, currency))
    return None if amount is None else trimmed(amount)


def _lag(report: Report) -> dict[str, Any] | None:
    """Return how long findings took to be found, in seconds as exact fractions (`7/2`), and in words."""
    lag = detection_lag(report)
    if lag is None:
        return None
    said = dict(zip(("median", "most"), lag.in_words, strict=True))
    return {"findings": str(lag.findings), "median_s": str(lag.median_s), "most_s": str(lag.most_s), **said}
