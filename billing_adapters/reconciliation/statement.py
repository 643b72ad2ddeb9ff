"""The conservation statement as data: its buckets, what they leave unexplained, its findings, its verdict.

Enters: the sum of every bucket, as the SQL counted it. Leaves: a Statement with the unexplained remainder of every line.
Refuses: to net. Each meter is an account of its own; differences of two meters, or of two signs, never cancel out.

Three equations of usage, each closed in itself:
    recorded     = stored + duplicate + dead_lettered + in_flight + missing        rows and quantity, UTC dates
    stored       = rated + voided + unknown_tenant + no_subscription + unpriced_meter + late_usage_refused
                                                                                   rows and quantity, UTC dates
    rated_value  = invoiced + carried + not_finalised + waiting_corrections + late_frozen
                                                                                   exact money, billing periods
and four of documents, from paper to payment (`COLLECTION_EQUATIONS`, `against_provider`), in money, per currency:
    net          = invoiced + carried + credits_applied
    invoiced     = confirmed + pending + failed + waived + not_sent + rounding + tax              per adapter
    confirmed    = provider + timing + provider_difference                                        per adapter
    provider     = paid + open + credit_notes + refunds + disputes + written_off + to_balance + provider_fee
Meter '' stands for no meter: a flat fee, a name that could not be read, a segment of unknown content. None is the total.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.numbers import exact_difference, exact_sum, trimmed
from metering.periods import add_months

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    import pyarrow as pa

    from metering.periods import WallPeriod

UNEXPLAINED = "unexplained"
MISSING = "missing"
# The left side of each equation, and the buckets that must add up to it, in the order of the statement.
EQUATIONS: dict[str, tuple[str, ...]] = {
    "recorded": ("stored", "duplicate", "dead_lettered", "in_flight", MISSING),
    "stored": ("rated", "voided", "unknown_tenant", "no_subscription", "unpriced_meter", "late_usage_refused"),
    "rated_value": ("invoiced", "carried", "not_finalised", "waiting_corrections", "late_frozen"),
}
MONEY_EQUATION = "rated_value"
# The same of documents, from what is on paper to what was collected, per currency; those past the first per adapter as well.
COLLECTION_EQUATIONS: dict[str, tuple[str, ...]] = {
    "net": ("invoiced", "carried", "credits_applied"),
    "invoiced": ("confirmed", "pending", "failed", "waived", "not_sent", "rounding", "tax"),
    "confirmed": ("provider", "timing", "provider_difference"),
    "provider": (
        "paid",
        "open",
        "credit_notes",
        "refunds",
        "disputes",
        "written_off",
        "to_balance",
        "provider_fee",
    ),
}
# Evidence that is gone, contradicts itself or was not looked at: no statement is conserved beside one of these.
BREAKING_CONTROLS = frozenset({"SEQUENCE_GAP", "BATCH_TOTALS", "ROUNDING_RESIDUAL", "CONTROL_NOT_RUN"})

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ConservationRow:
    """One bucket of one equation: of a meter, or of all (`meter` None). Money has an amount, the others rows and quantity.

    The left side of an equation is the bucket of its own name. Quantities are units of the meter; amounts are exact.
    `adapter`: of which provider the row speaks, None where of none.
    """

    equation: str
    meter: str | None
    bucket: str
    rows: int | None
    quantity: Decimal | None
    amount: Decimal | None
    currency: str | None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A judged difference of one control. `finding_id` is the same whenever the same thing is found again.

    `rows` is None where nobody can say how many. The words of `finding_class` are CLASSES. What it is worth is a part of the
    row of BREAK with the same id (`reconciliation.tables`): amounts are exact, in `currency`; `estimate_basis` says how they
    were found, and is '' where nobody could say.
    """

    finding_id: str
    control_id: str
    finding_class: str
    tenant_id: str | None
    meter: str | None
    reason: str
    rows: int | None
    quantity_difference: Decimal | None
    detail: str
    subject: str = ""
    owner: str = ""
    bucket: str = ""
    amount_low: Decimal | None = None
    amount_likely: Decimal | None = None
    amount_high: Decimal | None = None
    currency: str | None = None
    estimate_basis: str = ""
    recover_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class Unexplained:
    """What is in no bucket: the sum of the differences of every meter, without their signs."""

    rows: int
    quantity: Decimal
    amount: Mapping[str, Decimal]

    @property
    def is_zero(self) -> bool:
        return not self.rows and not self.quantity and not any(self.amount.values())


@dataclass(frozen=True, slots=True)
class Statement:
    """The conservation statement of one period. Rows: per equation the totals, then meter by meter.

    `breaks` (BREAK) holds what `findings` say, with every column; `runs` (CONTROL_RUN) says how every control ran.
    """

    period: WallPeriod
    rows: tuple[ConservationRow, ...]
    findings: tuple[Finding, ...]
    breaks: pa.Table
    runs: pa.Table

    @property
    def unexplained(self) -> Unexplained:
        """Return what no bucket explains. A finding, whatever its size."""
        # Documents have no meter: each of their rows is an account of its own.
        remainders = [
            row
            for row in self.rows
            if row.bucket == UNEXPLAINED and (row.meter is not None or row.equation in COLLECTION_EQUATIONS)
        ]
        money = [row for row in self.rows if row.currency is not None]
        return Unexplained(
            rows=sum(abs(row.rows or 0) for row in remainders),
            quantity=exact_sum([(row.quantity or _ZERO).copy_abs() for row in remainders]),
            amount={
                currency: exact_sum(
                    [(row.amount or _ZERO).copy_abs() for row in remainders if row.currency == currency]
                )
                for currency in sorted({row.currency for row in money if row.currency is not None})
            },
        )

    @property
    def is_conserved(self) -> bool:
        """Return whether nothing is missing, nothing unexplained, and no evidence contradicts itself."""
        return (
            self.unexplained.is_zero
            and not any(row.rows or row.quantity for row in self.rows if row.bucket == MISSING)
            and not any(finding.control_id in BREAKING_CONTROLS for finding in self.findings)
        )

    @property
    def verdict(self) -> str:
        return "conserved" if self.is_conserved else "breaks"

    def row(
        self,
        equation: str,
        bucket: str,
        meter: str | None = None,
        currency: str | None = None,
        adapter: str | None = None,
    ) -> ConservationRow | None:
        """Return one row, or None where the statement has none; `meter` None is the total."""
        wanted = (equation, meter, bucket, currency, adapter)
        return next(
            (row for row in self.rows if (row.equation, row.meter, row.bucket, row.currency, row.adapter) == wanted),
            None,
        )


def count_rows(equation: str, counted: Iterable[tuple[str, str, int, Decimal]]) -> list[ConservationRow]:
    """Return the rows of an equation of rows and quantity from (meter, bucket, rows, quantity), unexplained included.

    All buckets of every meter are there, also those that are 0, so that a statement always has the same shape.
    """
    sums: dict[str, dict[str, tuple[int, Decimal]]] = {}
    for meter, bucket, rows, quantity in counted:
        before = sums.setdefault(meter, {}).get(bucket, (0, _ZERO))
        sums[meter][bucket] = before[0] + rows, exact_sum([before[1], quantity])
    accounts: list[tuple[str | None, dict[str, tuple[int, Decimal]]]] = [(None, _total_of_counts(sums))]
    accounts += sorted(sums.items())
    listed = []
    for meter_or_all, account in accounts:
        names = EQUATIONS[equation]
        left = account.get(equation, (0, _ZERO))
        parts = [account.get(name, (0, _ZERO)) for name in names]
        rest = left[0] - sum(part[0] for part in parts), exact_difference(left[1], *(part[1] for part in parts))
        figures = zip((equation, *names, UNEXPLAINED), (left, *parts, rest), strict=True)
        listed += [
            ConservationRow(equation, meter_or_all, bucket, rows, quantity, None, None)
            for bucket, (rows, quantity) in figures
        ]
    return listed


def money_rows(summed: Iterable[tuple[str, str, str, Decimal]]) -> list[ConservationRow]:
    """Return the rows of the equation of money from (meter, currency, bucket, amount), unexplained included.

    Currencies are never added: there is one total per currency.
    """
    sums: dict[str, dict[str, dict[str, Decimal]]] = {}
    for meter, currency, bucket, amount in summed:
        account = sums.setdefault(currency, {}).setdefault(meter, {})
        account[bucket] = exact_sum([account.get(bucket, _ZERO), amount])
    names = EQUATIONS[MONEY_EQUATION]
    listed = []
    for currency, meters in sorted(sums.items()):
        total = {
            bucket: exact_sum([account.get(bucket, _ZERO) for account in meters.values()])
            for bucket in (MONEY_EQUATION, *names)
        }
        accounts: list[tuple[str | None, dict[str, Decimal]]] = [(None, total), *sorted(meters.items())]
        for meter_or_all, account in accounts:
            left = account.get(MONEY_EQUATION, _ZERO)
            parts = [account.get(name, _ZERO) for name in names]
            rest = exact_difference(left, *parts)
            figures = zip((MONEY_EQUATION, *names, UNEXPLAINED), (left, *parts, rest), strict=True)
            listed += [
                ConservationRow(MONEY_EQUATION, meter_or_all, bucket, None, None, amount, currency)
                for bucket, amount in figures
            ]
    return listed


def collection_rows(
    equation: str, summed: Iterable[tuple[str, str, Decimal]], adapter: str | None = None
) -> list[ConservationRow]:
    """Return the rows of an equation of documents from (currency, bucket, amount), unexplained included.

    All buckets of every currency are there. A bucket that the equation does not know raises ValueError.
    """
    names = COLLECTION_EQUATIONS[equation]
    sums: dict[str, dict[str, Decimal]] = {}
    for currency, bucket, amount in summed:
        if bucket not in {equation, *names}:
            raise ValueError(f"{bucket} is no bucket of {equation}")
        account = sums.setdefault(currency, {})
        account[bucket] = exact_sum([account.get(bucket, _ZERO), amount])
    listed = []
    for currency, account in sorted(sums.items()):
        parts = {name: account.get(name, _ZERO) for name in (equation, *names)}
        rest = exact_difference(parts[equation], *(parts[name] for name in names))
        listed += [
            ConservationRow(equation, None, bucket, None, None, amount, currency, adapter)
            for bucket, amount in {**parts, UNEXPLAINED: rest}.items()
        ]
    return listed


def period_text(period: WallPeriod) -> str:
    """Return a period as people write it: `2026`, `2026-10`, `2026-10-05` or `START..END` with the end open."""
    start, end = period.start, period.end
    if (start.day, end) == (1, add_months(start, 1)):
        return f"{start:%Y-%m}"
    if (start.month, start.day, end) == (1, 1, add_months(start, 12)):
        return f"{start:%Y}"
    if end == start + timedelta(days=1):
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d}..{end:%Y-%m-%d}"


def as_json(statement: Statement) -> dict[str, Any]:
    """Return a statement as plain JSON values, every number as text; rows without a figure leave it out as null."""
    unexplained = statement.unexplained
    return {
        "verdict": statement.verdict,
        "period": period_text(statement.period),
        "conservation": [
            {
                "equation": row.equation,
                "meter": row.meter,
                "bucket": row.bucket,
                "rows": _text(row.rows),
                "quantity": _text(row.quantity),
                "amount": _text(row.amount),
                "currency": row.currency,
                **({} if row.adapter is None else {"adapter": row.adapter}),
            }
            for row in statement.rows
        ],
        "unexplained": {
            "rows": str(unexplained.rows),
            "quantity": trimmed(unexplained.quantity),
            "amount": {currency: trimmed(amount) for currency, amount in unexplained.amount.items()},
        },
        "findings": [
            {
                "finding_id": finding.finding_id,
                "control_id": finding.control_id,
                "class": finding.finding_class,
                "tenant_id": finding.tenant_id,
                "meter": finding.meter,
                "reason": finding.reason,
                "subject": finding.subject,
                "rows": _text(finding.rows),
                "quantity_difference": _text(finding.quantity_difference),
                "amount_low": _text(finding.amount_low),
                "amount_likely": _text(finding.amount_likely),
                "amount_high": _text(finding.amount_high),
                "currency": finding.currency,
                "estimate_basis": finding.estimate_basis,
                "recover_by": None if finding.recover_by is None else finding.recover_by.isoformat(),
                "owner": finding.owner,
                "detail": finding.detail,
            }
            for finding in statement.findings
        ],
        "controls": [
            {
                name: run[name]
                for name in ("control_id", "control_version", "result", "explanation", "breaks", "findings")
            }
            for run in statement.runs.to_pylist()
        ],
    }


def _total_of_counts(sums: Mapping[str, Mapping[str, tuple[int, Decimal]]]) -> dict[str, tuple[int, Decimal]]:
    buckets = sorted({bucket for account in sums.values() for bucket in account})
    return {
        bucket: (
            sum(account[bucket][0] for account in sums.values() if bucket in account),
            exact_sum([account[bucket][1] for account in sums.values() if bucket in account]),
        )
        for bucket in buckets
    }


def _text(number: int | Decimal | None) -> str | None:
    if number is None:
        return None
    return trimmed(number) if isinstance(number, Decimal) else str(number)
