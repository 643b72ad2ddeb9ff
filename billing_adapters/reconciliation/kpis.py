"""The figures by which a reconciliation is judged from month to month, each with the two figures that it is made of.

Enters: a Report. Leaves: shares of usage events, of controls, and of money per currency. Refuses: averages of shares, a share
of nothing, figures of other companies, and what it has no figures for: without a witness there is no capture rate.

    capture rate            what was metered, of what a witness counted, tenant by tenant and meter by meter
    loss rate               usage events that are missing / usage events that producers promised
    reject rate             dead letters / usage events that producers promised
    rating yield            usage events that a price selects / usage events that are stored, each once
    unbilled rate           subscriptions that owe something and are on no invoice / those that owe something or are on one
    control coverage        controls that ran on fresh inputs / controls that were due
    statements verified     providers whose list was read and where no finding needs anybody / providers that are delivered to
    leakage                 lost and at risk, not recovered / the same and what was invoiced
    recovered, recoverable  what was recovered; what is at risk / what was invoiced
    realisation             what was invoiced / what the same usage is worth at list prices
    delivery completeness   what providers confirmed / what was invoiced, where an adapter delivers
    collection rate         what was paid in full / what was delivered
    late usage share        charged for billing periods that were over before / all that closes of the period charged

And how long it took from what happened until it was found (`detection_lag`): a time, no share.

Source: the catalogue of controls, section 10. Shares are exact pairs; whoever shows them rounds for the eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from billing_adapters.reconciliation.report import coverage, totals, waterfall_of_money
from billing_adapters.reconciliation.statement import MISSING
from rating.rounding import exact_sum, round_fraction

if TYPE_CHECKING:
    from billing_adapters.reconciliation.report import Report

_ZERO = Decimal(0)
_HUNDREDTH = Decimal("0.01")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Kpi:
    """One share. `part` and `whole` are money of `currency`, or usage events or controls where it is None.

    `is_leak`: the smaller the better.
    """

    name: str
    part: Decimal
    whole: Decimal
    currency: str | None
    is_leak: bool = False

    @property
    def percent(self) -> str:
        """Return the share in words, to a hundredth of a percent; what is not quite nothing, or not quite all, says so."""
        share = round_fraction(Fraction(self.part) * 100 / Fraction(self.whole), 2)
        if share == 0 and self.part:
            return f"under {_HUNDREDTH} %"
        if share == 100 and self.part != self.whole:
            return f"over {100 - _HUNDREDTH} %" if self.part < self.whole else f"over {share} %"
        return f"{share} %"


def kpis(report: Report) -> list[Kpi]:
    """Return the shares of a report, those of usage first, then those of each currency. None has a whole of 0 or less."""
    listed = [*_of_usage(report), *(one for currency in report.currencies for one in _of_money(report, currency))]
    return [one for one in listed if one.whole > 0]


def _of_usage(report: Report) -> list[Kpi]:
    recorded = _rows(report, "recorded", "recorded")
    found = coverage(report)
    captured = report.shares.get(("capture rate", None), (_ZERO, _ZERO))
    unbilled = report.shares.get(("unbilled rate", None), (_ZERO, _ZERO))
    disputed = {one.adapter for one in report.unsettled if one.finding_class not in {"INFO", "TIMING"}}
    verified = sum(was_read and adapter not in disputed for adapter, was_read in report.statements.items())
    return [
        Kpi("capture rate", *captured, None),
        Kpi("loss rate", _rows(report, "recorded", MISSING), recorded, None, is_leak=True),
        Kpi("reject rate", _rows(report, "recorded", "dead_lettered"), recorded, None, is_leak=True),
        Kpi("rating yield", _rows(report, "stored", "rated"), _rows(report, "stored", "stored"), None),
        Kpi("unbilled rate", *unbilled, None, is_leak=True),
        Kpi("control coverage", Decimal(found.passed + found.breaks), Decimal(found.due), None),
        Kpi("statements verified", Decimal(verified), Decimal(len(report.statements)), None),
    ]


def _rows(report: Report, equation: str, bucket: str) -> Decimal:
    row = report.statement.row(equation, bucket)
    return _ZERO if row is None else Decimal(row.rows or 0)


def _of_money(report: Report, currency: str) -> list[Kpi]:
    numbers = totals(report)[currency]
    bars = {bar.bucket: bar.figure for bar in waterfall_of_money(report, currency).bars if bar.kind == "level"}
    invoiced = bars.get("invoiced", _ZERO)
    leak = exact_sum([numbers.lost, numbers.at_risk])
    listed = [
        Kpi("leakage", leak, exact_sum([invoiced, leak]), currency, is_leak=True),
        Kpi("recovered", numbers.recovered, invoiced, currency),
        Kpi("recoverable", numbers.at_risk, invoiced, currency, is_leak=True),
    ]
    if "list_value" in bars:
        listed.append(Kpi("realisation", invoiced, bars["list_value"], currency))
    delivered = [row for row in report.statement.rows if (row.equation, row.currency) == ("invoiced", currency)]
    if delivered:
        sums = {
            bucket: exact_sum([row.amount or _ZERO for row in delivered if row.bucket == bucket])
            for bucket in ("invoiced", "confirmed")
        }
        listed.append(Kpi("delivery completeness", sums["confirmed"], sums["invoiced"], currency))
    if "delivered" in bars:
        listed.append(Kpi("collection rate", bars["collected"], bars["delivered"], currency))
    late = report.shares.get(("late usage share", currency), (_ZERO, _ZERO))
    listed.append(Kpi("late usage share", *late, currency, is_leak=True))
    return listed


@dataclass(frozen=True, slots=True)
class Lag:
    """How long findings took from what happened until a run found it, in exact seconds. `findings`: of how many it is known."""

    findings: int
    median_s: Fraction
    most_s: Fraction

    @property
    def in_words(self) -> tuple[str, str]:
        """Return the median, and within what 95 of 100 were found, as a person says it."""
        return _duration(self.median_s), _duration(self.most_s)


def detection_lag(report: Report) -> Lag | None:
    """Return the lag over all findings of the period whose time is known; None where there is none. Ahead of the clock is 0.

    `most_s` is the smallest lag that at least 95 of 100 findings do not exceed: one that was seen, nothing in between.
    """
    lags = sorted(
        max(Fraction((one.first_seen - one.occurred_at) // _MICROSECOND, 1_000_000), Fraction(0))
        for one in report.findings
        if one.occurred_at is not None
    )
    if not lags:
        return None
    half = len(lags) // 2
    median = lags[half] if len(lags) % 2 else (lags[half - 1] + lags[half]) / 2
    return Lag(len(lags), median, lags[(95 * len(lags) + 99) // 100 - 1])


def _duration(seconds: Fraction) -> str:
    """Return a time in its greatest unit, to a tenth."""
    for name, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{round_fraction(seconds / length, 1)} {name}"
    return f"{round_fraction(seconds, 1)} seconds"
