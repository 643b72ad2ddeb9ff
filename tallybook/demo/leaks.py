"""The leaks that the demo plants, and the witness that sees the one which no meter knows.

Enters: the number of usage events. Leaves: a gateway's count of requests by the hour, as a file; and what must be found.
Refuses: to read what was metered: the gateway counts what the company's customers did, whoever recorded it.

A path of the gateway has no meter call: 1,200 requests of one tenant were answered and never recorded. Its plan sells packages of
100 for 0.25, so that they are worth 3.00, whatever else it used. Nobody sells `experiments`; the settings list a run at 0.02.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from metering.clock import iso_utc
from rating.rounding import exact_sum
from tallybook.demo.workload import MONTH_S, START, requests_of, tenant_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from billing_adapters.findings import Finding
    from billing_adapters.reconciliation.report import Report

# The customers of one region, all on the same plan since January, behind one gateway.
REGION = range(120, 129)
NEVER_METERED = tenant_name(120)
HOURS, PER_HOUR, WORTH = 12, 100, Decimal("3.00")
UNSOLD, LISTED_AT = "experiments", Decimal("0.02")
SETTINGS = f"""# What nobody sells yet is listed at this price: reconciliation says what it is worth.
[list_prices.{UNSOLD}]
unit_price = "{LISTED_AT}"
currency = "USD"
"""


@dataclass(frozen=True, slots=True)
class Leak:
    """One planted leak, and what was found of it. `amount` is None where nobody can say it."""

    what: str
    control_id: str
    planted: Decimal
    found: Decimal
    amount: Decimal | None
    is_found: bool


def gateway_file(path: Path, events: int, others: Iterable[tuple[str, datetime]]) -> Path:
    """Write what the gateway of one region counted: requests per tenant and hour, those of a path without a meter call too.

    `others`: requests that a partner passed on, as (tenant, time).
    """
    tenants = {tenant_name(number) for number in REGION}
    requests = requests_of(REGION, events)
    counted = Counter(
        (tenant, at.replace(minute=0, second=0, microsecond=0))
        for tenant, at in (*requests, *others)
        if tenant in tenants
    )
    for hour in range(HOURS):
        counted[NEVER_METERED, START + timedelta(days=13, hours=hour)] += PER_HOUR
    # The last hour of the month is counted, too, and nothing came: so the count is whole.
    counted[NEVER_METERED, START + timedelta(seconds=MONTH_S, hours=-1)] += 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tenant_id", "meter", "bucket_start", "count"])
        writer.writerows(
            (tenant, "api_requests", iso_utc(hour), count) for (tenant, hour), count in sorted(counted.items())
        )
    return path


def judge(report: Report) -> list[Leak]:
    """Return what was planted beside what a report found of it."""
    of_witness = _of(report, "WITNESS_RATIO")
    planted = Decimal(HOURS * PER_HOUR)
    metered = report.statement.row("stored", "unpriced_meter", UNSOLD)
    unsold = Decimal(0) if metered is None else metered.quantity or Decimal(0)
    of_unsold = [one for one in _of(report, "UNPRICED_METER") if one.meter == UNSOLD]
    in_usd = [one for one in of_unsold if one.currency == "USD"]
    worth = exact_sum([one.amount_likely or Decimal(0) for one in in_usd])
    listed = exact_sum([(one.quantity_difference or Decimal(0)) * LISTED_AT for one in in_usd])
    seen, found = _units(of_witness), _units(of_unsold)
    amount = of_witness[0].amount_likely if len(of_witness) == 1 else None
    return [
        Leak(f"requests of {NEVER_METERED}, never metered", "WITNESS_RATIO", planted, seen, amount,
             (seen, amount) == (planted, WORTH)),
        Leak(f"{UNSOLD}, which no plan sells", "UNPRICED_METER", unsold, found, worth, (found, worth) == (unsold, listed)),
    ]  # fmt: skip


def _of(report: Report, control_id: str) -> list[Finding]:
    return [one for one in report.findings if one.control_id == control_id]


def _units(findings: Iterable[Finding]) -> Decimal:
    return exact_sum([one.quantity_difference or Decimal(0) for one in findings])
