"""A report as one HTML page: verdict, waterfall, what is lost, at risk and over-billed, findings down to their evidence.

Enters: a Report. Leaves: UTF-8 bytes of a page that is complete in itself, for screens and for A4.
Refuses: scripts, addresses of other servers, markup in names (every text is escaped; a content security policy forbids the
rest), and figures that JSON does not have: each stands in a `data` element or an attribute with its exact value.

Amounts are rounded to their currency for the eye; the exact value is in the page's markup and in all other forms. The same
report is the same bytes. Beyond DETAILS_MAX findings, and DETAILS_PER_CONTROL_MAX of one control, the details are left out; the
workbook and the CSV have all of them.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.finding_life import SEVERITIES, STATUSES, severity_of, totals_by_status
from billing_adapters.pages import count as grouped
from billing_adapters.pages import day_in_words, money, page_template
from billing_adapters.reconciliation.chart import Drawn, waterfall_svg
from billing_adapters.reconciliation.kpis import detection_lag, kpis
from billing_adapters.reconciliation.report import (
    UNSETTLED,
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
from billing_adapters.reconciliation.statement import MISSING, UNEXPLAINED
from billing_adapters.reconciliation.words import BASES, CLASSES, EQUATION_TITLES, KPIS, OWNERS, RESULTS, bucket_name
from billing_adapters.reconciliation.words import STATUSES as STATUS_MEANINGS
from metering.clock import iso_utc
from metering.numbers import trimmed
from rating.iso4217 import minor_units
from rating.rounding import round_amount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from jinja2 import Template
    from markupsafe import Markup

    from billing_adapters.findings import Finding
    from billing_adapters.reconciliation.report import Report, Waterfall
    from billing_adapters.reconciliation.statement import ConservationRow

DETAILS_MAX = 40
DETAILS_PER_CONTROL_MAX = 5
EVIDENCE_SHOWN = 8
LISTED_MAX = 12
# Not strftime: the month's name would follow the locale of whoever makes the page.
_LONG_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                "November", "December")  # fmt: skip
_SHORT_HASH = 12


def report_page(report: Report) -> bytes:
    """Return the page of a report."""
    told = _told(report)
    words: dict[str, Any] = {
        "title": f"Reconciliation {report.period}",
        "heading": heading_of(report),
        "report": report,
        "run": report.run,
        "days": f"{day_in_words(report.run.period_start)} \N{EN DASH} {day_in_words(report.run.period_end - timedelta(days=1))}",
        "is_conserved": report.statement.is_conserved,
        "verdict": verdict_of(report),
        "reasons": reasons_of(report),
        "currencies": [_currency(report, one) for one in report.currencies],
        "without_amount": sum(one.amount_likely is None for one in report.unsettled),
        "events": _chart(report, waterfall_of_events(report), "events", "How recorded usage events become rated ones"),
        "meters": _meters(report),
        "lag": detection_lag(report),
        "kpis_of_usage": [one for one in kpis(report) if one.currency is None],
        "ties": _ties(report),
        "coverage": coverage(report),
        "statuses": _statuses(report),
        "by_control": by_control(report),
        "new": _listed(report, report.new),
        "cleared": _listed(report, report.cleared),
        "reopened": _listed(report, report.reopened),
        "listed_max": LISTED_MAX,
        "evidence_shown": EVIDENCE_SHOWN,
        "details": [_detail(report, one) for one in told],
        "details_left_out": len(report.findings) - len(told),
        "remedies": _remedies(report),
        "control_log": [_logged(report, one) for one in report.runs],
        "waivers": report.waivers,
        "classes": CLASSES,
        "bases": BASES,
        "status_meanings": STATUS_MEANINGS,
        "results": RESULTS,
        "owners": OWNERS,
        "kpi_meanings": KPIS,
    }
    return _template().render(words).encode()


def heading_of(report: Report) -> str:
    """Return the period as people say it: October 2026, or its own text where it is no calendar month."""
    first, end = report.run.period_start, report.run.period_end
    is_month = first.day == 1 and end.day == 1 and (end - first).days <= 31
    return f"{_LONG_MONTHS[first.month - 1]} {first.year}" if is_month else report.period


# --- the verdict ------------------------------------------------------------------------------------------------------


def verdict_of(report: Report) -> str:
    """Return the verdict in one line."""
    if report.statement.is_conserved:
        return "Balanced: every usage event and every amount is in a named place."
    reasons = reasons_of(report)
    only_unproven = all(reason.endswith("did not run") for reason in reasons)
    return f"{'Not proven' if only_unproven else 'Does not balance'}: {'; '.join(reasons)}."


def reasons_of(report: Report) -> list[str]:
    """Return why a statement is not conserved, one clause each; nothing where it is."""
    if report.statement.is_conserved:
        return []
    unexplained = report.statement.unexplained
    missing = sum(row.rows or 0 for row in report.statement.rows if row.bucket == MISSING and row.meter is not None)
    clauses = [f"{missing:,} usage events are missing"] if missing else []
    if unexplained.rows or unexplained.quantity:
        clauses.append(f"{unexplained.rows:,} usage events, {grouped(unexplained.quantity)} units, are unexplained")
    clauses += [
        f"{shown(amount, currency)} {currency} is unexplained"
        for currency, amount in unexplained.amount.items()
        if amount
    ]
    not_run = coverage(report).not_run
    if not_run:
        clauses.append(f"{not_run} {'control that was' if not_run == 1 else 'controls that were'} due did not run")
    return clauses or ["evidence contradicts itself; see the findings below"]


# --- currencies and charts --------------------------------------------------------------------------------------------


def _currency(report: Report, currency: str) -> dict[str, Any]:
    numbers = totals(report)[currency]
    left = None if numbers.recover_by is None else _left(numbers.recover_by, report.run.as_of)
    waterfall = waterfall_of_money(report, currency)
    title = f"How what the period is worth becomes what was collected, in {currency}"
    tenants = [
        {"row": row, "share": _share(row[2], report.billed.get((row[0], currency)))}
        for row in top(report, currency, "tenant_id")
    ]
    return {
        "code": currency,
        "totals": numbers,
        "left": left,
        "chart": _chart(report, waterfall, currency.lower(), title, currency),
        "ages": ages(report, currency),
        "time_left": time_left(report, currency),
        "tenants": tenants,
        "meters": top(report, currency, "meter"),
        "has_findings": any(one.currency == currency for one in report.unsettled),
        "counts": _counts(report, currency),
        "included": [(meter, units) for (of, meter), units in sorted(report.included.items()) if of == currency],
        "kpis": [one for one in kpis(report) if one.currency == currency],
    }


def _counts(report: Report, currency: str) -> dict[str, int]:
    mine = [one for one in report.unsettled if one.currency == currency and one.bucket]
    return {name: sum(one.finding_class == name for one in mine) for name in ("LOST", "AT_RISK", "OVERBILL")}


def _chart(report: Report, waterfall: Waterfall, key: str, title: str, currency: str | None = None) -> Markup:
    def figure(number: Decimal) -> str:
        if currency is None:
            return grouped(number)
        # Less than the smallest coin is still something, and says so.
        is_hidden = number and not round_amount(number, minor_units(currency))
        return grouped(number) if is_hidden else shown(number, currency)

    def link(bucket: str) -> str | None:
        control_id = bucket.upper()
        return f"control-{control_id}" if any(run["control_id"] == control_id for run in report.runs) else None

    return waterfall_svg(waterfall, Drawn(key, title, bucket_name, figure, link))


def _meters(report: Report) -> list[dict[str, Any]]:
    made = []
    for meter, waterfall in waterfalls_of_meters(report).items():
        levels = {bar.bucket: bar.figure for bar in waterfall.bars if bar.kind == "level"}
        between = [bar for bar in waterfall.bars if bar.kind != "level"]
        made.append({"meter": meter, "levels": levels, "between": between})
    return made


def _ties(report: Report) -> list[dict[str, Any]]:
    """Return each equation of the statement in total: its left side, the places that it is in, and what is in none."""
    made = []
    for left in report.statement.rows:
        if left.bucket != left.equation or left.meter is not None:
            continue
        whose = (left.equation, None, left.currency, left.adapter)
        mine = [one for one in report.statement.rows if (one.equation, one.meter, one.currency, one.adapter) == whose]
        places = [(one.bucket, _figure(one)) for one in mine if one.bucket not in {left.equation, UNEXPLAINED}]
        rest = next((one for one in mine if one.bucket == UNEXPLAINED), None)
        made.append(
            {
                "title": EQUATION_TITLES[left.equation],
                "of": " ".join(part for part in (left.currency or "usage events", left.adapter) if part),
                "currency": left.currency,
                "left": _figure(left),
                "places": [(bucket, figure) for bucket, figure in places if figure],
                "rest": _figure(rest) if rest is not None else Decimal(0),
            }
        )
    return made


def _figure(row: ConservationRow) -> Decimal:
    """Return the figure of a bucket: usage events, or money."""
    return Decimal(row.rows or 0) if row.currency is None else row.amount or Decimal(0)


def _share(part: Decimal, whole: Decimal | None) -> str:
    """Return what a part is of a bill, in whole percent; nothing where there is no bill."""
    if whole is None or whole <= 0:
        return ""
    percent = round_amount(part * 100 / whole, 0)
    return f"{percent:f} %" if percent else "under 1 %"


def _statuses(report: Report) -> list[tuple[str, int]]:
    counted = totals_by_status(one.status for one in report.findings)
    return [(status, counted[status]) for status in STATUSES]


def _listed(report: Report, ids: tuple[str, ...]) -> list[Finding]:
    wanted = set(ids)
    return [one for one in report.findings if one.finding_id in wanted]


def _told(report: Report) -> list[Finding]:
    """Return the findings that are told one by one: those that need somebody first, of each control a few."""
    above = [one for one in report.findings if one.amount_likely is None or one.amount_likely >= report.floor]
    counted: Counter[str] = Counter()
    told = []
    for one in sorted(above, key=lambda one: one.status not in UNSETTLED):
        counted[one.control_id] += 1
        if counted[one.control_id] <= DETAILS_PER_CONTROL_MAX:
            told.append(one)
    return told[:DETAILS_MAX]


# --- details ----------------------------------------------------------------------------------------------------------


def _detail(report: Report, one: Finding) -> dict[str, Any]:
    head = report.heads.get(one.control_id)
    run = next((run for run in report.runs if run["control_id"] == one.control_id), None)
    waiver = next((waiver for waiver in report.waivers if waiver.waiver_id == one.waiver_id), None)
    return {
        "one": one,
        "title": control_title(one.control_id),
        "severity": severity_of(one.finding_class, one.amount_likely, one.recover_by, report.run.as_of),
        "severity_steps": SEVERITIES.index(
            severity_of(one.finding_class, one.amount_likely, one.recover_by, report.run.as_of)
        ),
        "compares": getattr(head, "compares", ""),
        "catches": getattr(head, "catches", ""),
        "act": getattr(head, "act", ""),
        "within": getattr(head, "within", None),
        "settings": _settings(run, head),
        "left": None if one.recover_by is None else _left(one.recover_by, report.run.as_of),
        "waiver": waiver,
    }


def _remedies(report: Report) -> list[tuple[str, str, list[str]]]:
    """Return (result, explanation, controls) of what could not run; controls that want for the same thing stand together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in report.runs:
        if run["result"] in {"not_run", "not_possible"}:
            groups.setdefault((run["result"], run["explanation"]), []).append(control_title(run["control_id"]))
    # What is due and did not run comes first; it is in the verdict.
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] != "not_run", group[1]))
    return [(*key, titles) for key, titles in ordered]


def _settings(run: Mapping[str, Any] | None, head: Any) -> list[tuple[str, str, str]]:
    """Return the thresholds of a control: name, value, meaning."""
    if run is None:
        return []
    meanings = {one.name: one.meaning for one in getattr(head, "settings", ())}
    values = orjson.loads(run["parameters"])
    return [(name.replace("_", " "), _said(value), meanings.get(name, "")) for name, value in values.items()]


def _said(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _logged(report: Report, run: Mapping[str, Any]) -> dict[str, Any]:
    inputs = [{**one, "hash": (one["content_hash"] or "")[:_SHORT_HASH], "rows": one["rows"]} for one in run["inputs"]]
    head = report.heads.get(run["control_id"])
    return {
        **run,
        "title": control_title(run["control_id"]),
        "inputs": inputs,
        "settings": _settings(run, head),
        "compares": getattr(head, "compares", ""),
        "short": run["control_hash"][:_SHORT_HASH],
    }


def control_title(control_id: str) -> str:
    """Return the name of a control as people read it: UNPRICED_METER is Unpriced meter."""
    return control_id.replace("_", " ").capitalize()


# --- forms ------------------------------------------------------------------------------------------------------------


def shown(amount: Decimal, currency: str) -> str:
    """Return an amount for the eye: rounded to its currency, commas between thousands, a minus sign."""
    return money(round_amount(amount, minor_units(currency)))


def _instant(moment: datetime) -> str:
    return f"{day_in_words(moment)} {moment:%H:%M} UTC"


def _left(until: datetime, now: datetime) -> str:
    """Return how long is left, in the two units that say most."""
    left = until - now
    if left <= timedelta(0):
        return "passed"
    hours = int(left.total_seconds() // 3600)
    if hours >= 48:
        return f"{hours // 24} days left"
    return f"{hours} h {int(left.total_seconds() % 3600 // 60)} min left"


@cache
def _template() -> Template:
    filters: dict[str, Callable[..., Any]] = {
        "grouped": grouped,
        "shown": shown,
        "trimmed": trimmed,
        "instant": _instant,
        "day": day_in_words,
        "iso": iso_utc,
        "title_of": control_title,
        "bucket": bucket_name,
    }
    return page_template("billing_adapters.reconciliation", "report", filters)
