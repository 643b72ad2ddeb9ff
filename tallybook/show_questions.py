"""How answers look on a terminal. Enters: what a question returned. Leaves: rich tables. Refuses: to change a number."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from billing_adapters.file_adapter.formats import neutralise
from metering.clock import iso_utc
from metering.numbers import plain
from rating.iso4217 import minor_units
from rating.lint import SEVERITIES, Finding
from rating.rounding import round_amount
from rating.whatif import WhatIf, percent_of, rows_as_json
from tallybook.show import grouped, invoice_lines, money, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    import pyarrow as pa

    from tallybook.preview import Preview
    from tallybook.questions import PlacedFinding

LARGEST = 10


def what_if(answer: WhatIf) -> RenderableType:
    """Return the comparison: plans, the prices that make the difference, and the tenants most concerned."""
    plans, prices, tenants = (one.to_pylist() for one in (answer.plans, answer.prices, answer.tenants))
    less = [row for row in tenants if row["difference"] < 0]
    more = [row for row in tenants if row["difference"] > 0][::-1]
    parts = [_replacements(answer), _plans(plans), _prices(prices)]
    parts += [_tenants(title, rows) for title, rows in (("pay less", less), ("pay more", more)) if rows]
    parts.append(
        f"{len(tenants) - len(less) - len(more):,} of {len(tenants):,} tenants pay the same. Nothing was booked."
    )
    return Group(*parts)


def findings(found: Sequence[PlacedFinding]) -> RenderableType:
    """Return what lint found, the worst first, with what it came to on history."""
    if not found:
        return "Nothing looks wrong."
    rows = [
        (
            one.finding.severity,
            one.finding.code,
            "\n".join(filter(None, (_subject(one.finding), one.place))),
            one.finding.message,
            "" if one.finding.tenants is None else f"{one.finding.tenants:,}",
            "" if one.finding.amount is None else f"{money(one.finding.amount)} {one.finding.currency}",
        )
        for one in found
    ]
    columns = [("", "left"), ("code", "left"), ("where", "left"), ("what, and what to do", "left")]
    by_severity = [(severity, sum(one.finding.severity == severity for one in found)) for severity in SEVERITIES]
    counts = [f"{count:,} {severity}{'' if count == 1 else 's'}" for severity, count in by_severity]
    return Group(table("", [*columns, ("tenants", "right"), ("amount", "right")], rows), ", ".join(counts))


def _subject(finding: Finding) -> str:
    if finding.plan is None:
        return f"meter {finding.meter}"
    return f"{finding.plan} version {finding.version}" + (f", {finding.price_id}" if finding.price_id else "")


def preview(found: Preview) -> RenderableType:
    """Return a tenant's usage so far and the draft of its account."""
    rows = [
        (
            one.subscription_id,
            one.days,
            one.description + (f" {one.group_key}" if one.group_key else ""),
            grouped(one.quantity),
            one.unit or "",
            f"{one.event_count:,}",
            money(one.amount),
            one.currency,
        )
        for one in found.usage
    ]
    columns = [("subscription", "left"), ("period (end open)", "left"), ("what", "left"), ("quantity", "right")]
    columns += [("unit", "left"), ("events", "right"), ("worth so far", "right"), ("", "left")]
    parts = [table(f"{found.tenant_id} at {iso_utc(found.as_of)}", columns, rows)]
    if not found.invoices:
        parts.append("Earlier invoices booked all of it: nothing more is due now.")
    for one in found.invoices:
        parts.append(invoice_lines(one))
        mine = found.tenant_total(one)
        if mine != one.total:
            parts.append(f"{money(mine)} of the {money(one.total)} {one.currency} are for tenant {found.tenant_id}")
    return Group(*parts)


def csv_text(rows: pa.Table) -> str:
    """Return a comparison as CSV with a header; numbers in full, text that no spreadsheet runs as a formula."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows.column_names)
    texts = {field.name for field in rows.schema if str(field.type) == "string"}
    for row in rows_as_json(rows):
        writer.writerow(neutralise(value) if name in texts else value for name, value in row.items())
    return file.getvalue()


def _replacements(answer: WhatIf) -> RenderableType:
    rows = [
        (f"{one.plan} version {one.version}", f"{one.new_plan} version {one.new_version}", f"{one.subscriptions:,}")
        for one in answer.replacements
    ]
    return table("", [("in place of", "left"), ("what if", "left"), ("subscriptions", "right")], rows)


def _plans(plans: Sequence[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            f"{row['plan']} version {row['plan_version']}",
            f"{row['tenants']:,}",
            f"{row['tenants_paying_less']:,}",
            f"{row['tenants_paying_more']:,}",
            f"{row['tenants_unchanged']:,}",
            *_amounts(row),
        )
        for row in plans
    ]
    columns = [("plan", "left"), ("tenants", "right"), ("pay less", "right"), ("pay more", "right"), ("same", "right")]
    return table("Revenue per plan", [*columns, *_AMOUNT_COLUMNS], rows)


def _prices(prices: Sequence[dict[str, Any]]) -> RenderableType:
    differing = [row for row in prices if row["difference"] or row["tenants"]]
    if not differing:
        return "No price makes a difference."
    rows = [(row["plan"], row["price_id"], f"{row['tenants']:,}", *_amounts(row)) for row in differing]
    columns = [("plan", "left"), ("price", "left"), ("tenants", "right"), *_AMOUNT_COLUMNS]
    return table("Which prices make the difference", columns, rows)


def _tenants(title: str, tenants: Sequence[dict[str, Any]]) -> RenderableType:
    rows = [(row["tenant_id"], row["account_id"], *_amounts(row)) for row in tenants[:LARGEST]]
    shown = f"the largest {len(rows)} of {len(tenants):,}" if len(tenants) > len(rows) else f"{len(rows)}"
    return table(f"Tenants that {title}: {shown}", [("tenant", "left"), ("account", "left"), *_AMOUNT_COLUMNS], rows)


_AMOUNT_COLUMNS = [("today", "right"), ("what if", "right"), ("difference", "right"), ("%", "right"), ("", "left")]


def _amounts(row: dict[str, Any]) -> tuple[str, ...]:
    old, new, difference = (_paper(row[name], row["currency"]) for name in ("old_amount", "new_amount", "difference"))
    percent = percent_of(row["old_amount"], row["difference"])
    return money(old), money(new), signed(difference), "" if percent is None else signed(percent), row["currency"]


def _paper(amount: Decimal, currency: str) -> Decimal:
    # No digit is lost: amounts were rounded to these places when each line was rated.
    return round_amount(amount, minor_units(currency))


def signed(amount: Decimal) -> str:
    """Return an amount with its sign, plus too: +4.00, -36.00, 0.00."""
    text = money(amount)
    return f"+{text}" if amount > 0 else text if amount else plain(abs(amount))
