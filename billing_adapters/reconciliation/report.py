"""What finance opens: one reconciliation with everything that is said of it, as data. All forms of it are made from this.

Enters: the statement of a period, findings with their life, how every control ran, the documents and what became of them.
Leaves: a Report, its totals per currency, its waterfalls, ages, tops and coverage. Refuses: to net over- and under-billing,
to add currencies, and to count one leak twice: totals are sums over findings that stand for a bucket of their own; those
whose control looks at units of another control's bucket (`bucket` '') are shown and not added.

Amounts are exact decimals; whoever shows them rounds for the eye. Pure: no clock, no database.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.reconciliation.statement import MISSING, UNEXPLAINED
from metering.numbers import exact_difference, exact_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from billing_adapters.finding_life import Waiver
    from billing_adapters.findings import Finding, Run
    from billing_adapters.reconciliation.statement import Statement

# Findings in these statuses are money that nobody has dealt with yet; waived and recovered ones have totals of their own.
UNSETTLED = ("open", "acknowledged", "expired")
# Upper ends, inclusive, in whole days; the last is open.
AGES: tuple[tuple[str, int | None], ...] = (
    ("0-1 day", 1),
    ("2-7 days", 7),
    ("8-30 days", 30),
    ("31-60 days", 60),
    ("over 60 days", None),
)
TIME_LEFT: tuple[tuple[str, int | None], ...] = (
    ("under 1 day", 1),
    ("under 7 days", 7),
    ("under 30 days", 30),
    ("30 days or more", None),
)
DEADLINE_PASSED, NO_DEADLINE = "passed", "no deadline known"
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Document:
    """One final document of the period and what became of it. `amount_of_period`: its lines for the period, no other's.

    `delivery` is delivered, pending, parked, waived or unsent; `payment` the provider's word, '' where it is not known.
    """

    invoice_id: str
    number: str
    document_type: str
    account_id: str
    currency: str
    total: Decimal
    amount_of_period: Decimal
    issued_at: datetime | None
    delivery: str
    adapters: tuple[str, ...] = ()
    payment: str = ""
    paid: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """The three numbers of a currency, and what is beside them. Never netted, never over currencies."""

    currency: str
    lost: Decimal
    at_risk: Decimal
    over_billed: Decimal
    timing: Decimal
    waived: Decimal
    recovered: Decimal
    recover_by: datetime | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a waterfall. `kind`: level (a sum that flows on), explained, finding, or unexplained.

    A level's `figure` is what is left; that of the others what leaves there (below zero: what comes in).
    """

    bucket: str
    kind: str
    figure: Decimal


@dataclass(frozen=True, slots=True)
class Waterfall:
    """How a left side becomes what is left of it. `unit` is a currency, or `usage events`."""

    unit: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One reconciliation. `heads` are controls by id; `runs` rows of CONTROL_RUN; `before` the run before this one.

    `list_values`: amounts per (currency, bucket) of `list_value.sql`, before and after what is taken off prices.
    `included`: units per (currency, meter) that prices ask nothing for. `shares`: part and whole of key figures that are counted
    in tables, by name and currency. `statements`: by adapter, whether the list of its provider was read for the period.
    `billed`: amount on final documents per (tenant, currency), for shares of a bill. `floor`: findings that are likely worth
    less are listed as one line per control, never left out.
    """

    run: Run
    period: str
    statement: Statement
    findings: tuple[Finding, ...]
    heads: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    new: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    before: Run | None = None
    found_before: Mapping[str, int] = field(default_factory=dict)
    waivers: tuple[Waiver, ...] = ()
    documents: tuple[Document, ...] = ()
    billed: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)
    floor: Decimal = _ZERO
    list_values: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)
    included: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)
    shares: Mapping[tuple[str, str | None], tuple[Decimal, Decimal]] = field(default_factory=dict)
    statements: Mapping[str, bool] = field(default_factory=dict)

    @property
    def unsettled(self) -> list[Finding]:
        """Return the findings that nobody has dealt with yet."""
        return [one for one in self.findings if one.status in UNSETTLED]

    @property
    def currencies(self) -> list[str]:
        """Return every currency that has a figure, in alphabetical order."""
        known = {row.currency for row in self.statement.rows} | {one.currency for one in self.findings}
        return sorted(one for one in known | {one.currency for one in self.documents} if one)


def totals(report: Report) -> dict[str, Totals]:
    """Return the three numbers of each currency: sums over findings that stand for a bucket of their own."""
    return {currency: _totals_of(report, currency) for currency in report.currencies}


def _totals_of(report: Report, currency: str) -> Totals:
    mine = [one for one in report.findings if one.currency == currency and one.bucket]

    def total(is_wanted: Callable[[Finding], bool]) -> Decimal:
        return exact_sum([one.amount_likely or _ZERO for one in mine if is_wanted(one)])

    def unsettled(finding_class: str) -> Decimal:
        return total(lambda one: one.status in UNSETTLED and one.finding_class == finding_class)

    deadlines = [
        one.recover_by for one in report.unsettled
        if one.currency == currency and one.finding_class == "AT_RISK" and one.recover_by is not None
    ]  # fmt: skip
    return Totals(
        currency=currency,
        lost=unsettled("LOST"),
        at_risk=unsettled("AT_RISK"),
        over_billed=unsettled("OVERBILL"),
        timing=unsettled("TIMING"),
        waived=total(lambda one: one.status == "waived"),
        recovered=exact_sum([one.settled_amount or _ZERO for one in mine if one.status == "recovered"]),
        recover_by=min(deadlines, default=None),
    )


# --- waterfalls -------------------------------------------------------------------------------------------------------

# Buckets that are no leak by themselves: what is in them is accounted for.
_EXPLAINED = frozenset({"duplicate", "voided", "in_flight", "carried", "not_finalised", "waiting_corrections",
                        "late_frozen", "pending", "unsent", "unpaid", "waived"})  # fmt: skip
_FLOW = {"recorded": "stored", "stored": "rated", "rated_value": "invoiced"}


def waterfall_of_events(report: Report) -> Waterfall:
    """Return how recorded usage events become rated ones. Events, not units: units of different meters do not add up."""
    rows = [row for row in report.statement.rows if row.meter is None and row.currency is None]
    figures = {(row.equation, row.bucket): Decimal(row.rows or 0) for row in rows}
    return Waterfall("usage events", tuple(_bars(figures, ("recorded", "stored"))))


def waterfall_of_money(report: Report, currency: str) -> Waterfall:
    """Return how what the period is worth becomes what was collected, in one currency, exact."""
    rows = [row for row in report.statement.rows if row.meter is None and row.currency == currency]
    figures = {(row.equation, row.bucket): row.amount or _ZERO for row in rows}
    bars = _bars(figures, ("rated_value",)) or [Bar("rated_value", "level", _ZERO), Bar("invoiced", "level", _ZERO)]
    after = _after_invoicing(report, currency, bars[-1].figure)
    return Waterfall(currency, (*_before_rating(report, currency, bars[0].figure), *bars, *after))


def _before_rating(report: Report, currency: str, rated: Decimal) -> list[Bar]:
    """Return how list value becomes rated value; nothing where nothing is taken off, or the two are not of one run."""
    values = {bucket: amount for (of, bucket), amount in report.list_values.items() if of == currency}
    taken = [
        Bar(bucket, "explained", amount.copy_negate())
        for bucket, amount in sorted(values.items())
        if bucket != "list_value"
    ]
    taken = [bar for bar in taken if bar.figure]
    if not taken or exact_sum(values.values()) != rated:
        return []
    return [Bar("list_value", "level", values.get("list_value", _ZERO)), *taken]


def waterfalls_of_meters(report: Report) -> dict[str, Waterfall]:
    """Return how the quantity of each meter becomes rated quantity, in units of the meter."""
    made = {}
    for meter in sorted({row.meter for row in report.statement.rows if row.meter and row.quantity is not None}):
        rows = [row for row in report.statement.rows if row.meter == meter and row.currency is None]
        figures = {(row.equation, row.bucket): row.quantity or _ZERO for row in rows}
        made[meter] = Waterfall(meter, tuple(_bars(figures, ("recorded", "stored"))))
    return made


def _bars(figures: Mapping[tuple[str, str], Decimal], equations: Sequence[str]) -> list[Bar]:
    bars: list[Bar] = []
    for equation in equations:
        mine = {bucket: figure for (of, bucket), figure in figures.items() if of == equation}
        if not mine:
            continue
        if not bars:
            bars.append(Bar(equation, "level", mine[equation]))
        flows_to = _FLOW[equation]
        bars += [
            Bar(bucket, _kind(bucket), figure)
            for bucket, figure in mine.items()
            if figure and bucket not in {equation, flows_to}
        ]
        bars.append(Bar(flows_to, "level", mine.get(flows_to, _ZERO)))
    return bars


def _kind(bucket: str) -> str:
    if bucket in {UNEXPLAINED, MISSING}:
        return "unexplained"
    return "explained" if bucket in _EXPLAINED else "finding"


def _after_invoicing(report: Report, currency: str, invoiced: Decimal) -> list[Bar]:
    """Return what became of what was invoiced: by the delivery and payment of the documents that its lines are on."""
    mine = [one for one in report.documents if one.currency == currency]
    by_delivery: dict[str, list[Decimal]] = {}
    for one in mine:
        by_delivery.setdefault(one.delivery, []).append(one.amount_of_period)
    sums = {state: exact_sum(amounts) for state, amounts in by_delivery.items()}
    delivered = sums.pop("delivered", _ZERO)
    # What the statement counts as invoiced and no document of the list carries would vanish here; it is said.
    rest = exact_difference(invoiced, delivered, *sums.values())
    if not rest and sums.keys() <= {"unsent"} and not delivered:
        # Where no adapter is set up there is nothing more to say; documents are published as files.
        return []
    bars = [Bar(state, _kind(state), figure) for state, figure in sorted(sums.items()) if figure]
    if rest:
        bars.append(Bar(UNEXPLAINED, "unexplained", rest))
    bars.append(Bar("delivered", "level", delivered))
    paid = exact_sum([one.amount_of_period for one in mine if one.delivery == "delivered" and is_paid(one)])
    if delivered != paid:
        bars.append(Bar("unpaid", "explained", exact_difference(delivered, paid)))
    return [*bars, Bar("collected", "level", paid)]


def is_paid(document: Document) -> bool:
    """Return whether a document is paid in full, as far as its provider said."""
    return document.paid is not None and document.paid >= document.total


# --- page two ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ControlLine:
    """The findings of one control in one currency ('' where they have none). Sums are of what nobody dealt with yet."""

    control_id: str
    finding_class: str
    owner: str
    currency: str
    count: int
    before: int | None
    quantity: Decimal | None
    low: Decimal
    likely: Decimal
    high: Decimal
    is_within: bool


def by_control(report: Report) -> list[ControlLine]:
    """Return unsettled findings per control, class and currency: largest amount first, then those without one."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for one in report.unsettled:
        groups.setdefault((one.control_id, one.finding_class, one.currency or ""), []).append(one)
    several = {control_id for control_id, count in Counter(key[0] for key in groups).items() if count > 1}
    lines = [_line(report, *key, members) for key, members in groups.items()]
    # A run counts per control: what a control found before cannot be said of one of its lines.
    lines = [replace(line, before=None) if line.control_id in several else line for line in lines]
    return sorted(lines, key=lambda line: (not line.currency, line.currency, -line.likely, line.control_id))


def _line(report: Report, control_id: str, finding_class: str, currency: str, members: list[Finding]) -> ControlLine:
    units = {one.unit for one in members}
    quantities = [one.quantity_difference for one in members if one.quantity_difference is not None]

    def sum_of(name: str) -> Decimal:
        return exact_sum([getattr(one, name) or _ZERO for one in members])

    return ControlLine(
        control_id=control_id,
        finding_class=finding_class,
        owner=members[0].owner,
        currency=currency,
        count=len(members),
        before=None if report.before is None else report.found_before.get(control_id, 0),
        # Units of different meters do not add up.
        quantity=exact_sum(quantities) if quantities and len(units) == 1 else None,
        low=sum_of("amount_low"),
        likely=sum_of("amount_likely"),
        high=sum_of("amount_high"),
        is_within=not any(one.bucket for one in members),
    )


def _added(report: Report, currency: str) -> list[Finding]:
    """Return what nobody dealt with yet and what stands for a bucket of its own: what sums may be made of."""
    return [one for one in report.unsettled if one.currency == currency and one.bucket]


def ages(report: Report, currency: str) -> list[tuple[str, int, Decimal]]:
    """Return (age since first seen, findings, likely amount) of what nobody dealt with yet, in one currency."""
    mine = _added(report, currency)
    days = [(one, (report.run.as_of - one.first_seen).days) for one in mine]
    return _spread(AGES, [(one, age) for one, age in days], is_inclusive=True)


def time_left(report: Report, currency: str) -> list[tuple[str, int, Decimal]]:
    """Return (time left until `recover_by`, findings, likely amount) of what is at risk, in one currency."""
    mine = [one for one in _added(report, currency) if one.finding_class in {"AT_RISK", "LOST"}]
    dated = [(one, one.recover_by - report.run.as_of) for one in mine if one.recover_by is not None]
    passed = [one for one, left in dated if left.total_seconds() <= 0]
    ahead = [(one, left.days) for one, left in dated if left.total_seconds() > 0]
    undated = [one for one in mine if one.recover_by is None]
    listed = [(DEADLINE_PASSED, len(passed), _likely(passed)), *_spread(TIME_LEFT, ahead, is_inclusive=False)]
    return [*listed, (NO_DEADLINE, len(undated), _likely(undated))]


def _spread(
    edges: Sequence[tuple[str, int | None]], members: Sequence[tuple[Finding, int]], *, is_inclusive: bool
) -> list[tuple[str, int, Decimal]]:
    listed = []
    lower = -1
    for name, upper in edges:
        top = None if upper is None else upper if is_inclusive else upper - 1
        inside = [one for one, days in members if days > lower and (top is None or days <= top)]
        listed.append((name, len(inside), _likely(inside)))
        lower = lower if top is None else top
    return listed


def _likely(members: Iterable[Finding]) -> Decimal:
    return exact_sum([one.amount_likely or _ZERO for one in members])


def top(report: Report, currency: str, key: str, limit: int = 10) -> list[tuple[str, int, Decimal]]:
    """Return the (tenant_id or meter, findings, likely amount) with most at stake in one currency, lost or at risk."""
    groups: dict[str, list[Finding]] = {}
    for one in _added(report, currency):
        if one.finding_class in {"LOST", "AT_RISK"}:
            groups.setdefault(getattr(one, key) or "", []).append(one)
    listed = [(name, len(members), _likely(members)) for name, members in groups.items()]
    return sorted(listed, key=lambda row: (-row[2], row[0]))[:limit]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many controls there are, by what became of them; `stale` of those that did not run had old input."""

    passed: int
    breaks: int
    not_run: int
    not_possible: int
    stale: int

    @property
    def due(self) -> int:
        return self.passed + self.breaks + self.not_run


def coverage(report: Report) -> Coverage:
    """Return what ran, what was due and did not, and what is not set up."""
    results = [run["result"] for run in report.runs]
    stale = sum(any(one["is_stale"] for one in run["inputs"]) for run in report.runs)
    passed, breaks, not_run, not_possible = (
        results.count(name) for name in ("passed", "breaks", "not_run", "not_possible")
    )
    return Coverage(passed, breaks, not_run, not_possible, stale)
