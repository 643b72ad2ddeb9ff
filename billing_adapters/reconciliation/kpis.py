"""The figures by which a reconciliation is judged from month to month, each with the two figures that it is made of.

Enters: a Report. Leaves: shares of usage events, of controls, and of money per currency. Refuses: averages of shares, a share
of nothing, figures of other companies, and what it has no figures for: without a witness there is no capture rate.

    loss rate               usage events that are missing / usage events that producers promised
    reject rate             dead letters / usage events that producers promised
    rating yield            usage events that a price selects / usage events that are stored, each once
    control coverage        controls that ran on fresh inputs / controls that were due
    leakage                 lost and at risk, not recovered / the same and what was invoiced
    recovered, recoverable  what was recovered; what is at risk / what was invoiced
    realisation             what was invoiced / what the same usage is worth at list prices
    delivery completeness   what providers confirmed / what was invoiced, where an adapter delivers
    collection rate         what was paid in full / what was delivered

Source: the catalogue of controls, section 10. Shares are exact pairs; whoever shows them rounds for the eye.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    return [
        Kpi("loss rate", _rows(report, "recorded", MISSING), recorded, None, is_leak=True),
        Kpi("reject rate", _rows(report, "recorded", "dead_lettered"), recorded, None, is_leak=True),
        Kpi("rating yield", _rows(report, "stored", "rated"), _rows(report, "stored", "stored"), None),
        Kpi("control coverage", Decimal(found.passed + found.breaks), Decimal(found.due), None),
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
    return listed
