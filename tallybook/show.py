"""How results look on a terminal. Enters: what a step returned. Leaves: rich tables. Refuses: to compute or to round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from metering.clock import iso_utc
from metering.numbers import plain, trimmed
from rating.explanation import PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rating.balances import BalanceState
    from rating.explanation import Explanation, OriginEvent
    from rating.invoice import Charge, Invoice
    from rating.run import Verified
    from tallybook.lease_accounts import LeaseAccounts

ROWS_MAX = 200


def table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[object]]) -> RenderableType:
    """Return a table; columns are (heading, "left" or "right"). Long ones end with a count of what is not shown."""
    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in columns:
        made.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows[:ROWS_MAX]:
        made.add_row(*(escape(str(value)) for value in row))
    if len(rows) > ROWS_MAX:
        return Group(made, f"... and {len(rows) - ROWS_MAX:,} more; --json prints all")
    return made


def grouped(number: Any) -> str:
    """Return digits in groups of three, all of them: 1234567.5 -> 1,234,567.5."""
    text = trimmed(number)
    whole, point, rest = text.partition(".")
    return f"{int(whole):,}{point}{rest}" if whole not in {"", "-", "-0"} else text


def money(amount: Any) -> str:
    """Return an amount with its minor digits and groups of three."""
    text = plain(amount)
    whole, point, rest = text.partition(".")
    sign = "-" if whole.startswith("-") else ""
    return f"{sign}{int(whole.lstrip('-')):,}{point}{rest}"


def changes(revision: int, changed: Sequence[Any]) -> RenderableType:
    """Return what `apply` changed."""
    if not changed:
        return f"Nothing changed; the books hold catalog revision {revision}."
    rows = [(change.what, change.kind, change.key, change.detail) for change in changed]
    return table(f"Catalog revision {revision}", [("", "left"), ("kind", "left"), ("name", "left"), ("", "left")], rows)


def imported(files: Sequence[Any]) -> RenderableType:
    """Return what `import` stored."""
    rows = [
        (
            one.path,
            f"{one.rows:,}",
            f"{one.stored:,}",
            f"{one.dead_letters:,}",
            "already there" if one.was_there else "",
        )
        for one in files
    ]
    columns = [("file", "left"), ("rows", "right"), ("usage events", "right"), ("dead letters", "right"), ("", "left")]
    return table("", columns, rows)


def shipped(done: Any) -> RenderableType:
    """Return what `ship` moved."""
    moved = f"Shipped {done.rows:,} rows in {done.segments:,} segments; {done.dead_letters:,} of them are dead letters."
    aside = [f"quarantined, damaged: {path}" for path in done.quarantined]
    held = [f"refused by this machine, tried again by the next run: {path}" for path in done.refused]
    return "\n".join([moved, *aside, *held])


def usage(rows: Sequence[Any], by: Sequence[str]) -> RenderableType:
    """Return what tenants used."""
    columns = [("tenant", "left"), ("meter", "left"), *((name, "left") for name in by)]
    columns += [("quantity", "right"), ("unit", "left"), ("events", "right"), ("subscription", "left")]
    body = [
        (
            row.tenant_id,
            row.meter,
            *(row.attributes.get(name) or "-" for name in by),
            grouped(row.quantity),
            row.unit,
            f"{row.event_count:,}",
            ", ".join(row.subscription_ids) or "none",
        )
        for row in rows
    ]
    return table("", columns, body)


def invoices(found: Sequence[Invoice], *, of: int | None = None) -> RenderableType:
    """Return invoices, one row each, and a total per currency. `of`: these are only the first of so many."""
    if not found:
        return "No invoices."
    is_prepaid = any(one.prepaid for one in found)
    rows = [
        (
            one.number or "draft",
            one.account_id,
            f"{one.period_start:%Y-%m-%d} to {one.period_end:%Y-%m-%d}",
            len(one.lines),
            money(one.total),
            *([money(one.amount_due)] if is_prepaid else []),
            one.currency,
            one.status if one.document_type == "invoice" else f"{one.status} {one.document_type.replace('_', ' ')}",
            one.invoice_id,
        )
        for one in found
    ]
    columns = [("number", "left"), ("account", "left"), ("period (end open)", "left"), ("lines", "right")]
    columns += [("total", "right"), *([("amount due", "right")] if is_prepaid else [])]
    columns += [("", "left"), ("status", "left"), ("invoice", "left")]
    totals: dict[str, Any] = {}
    for one in found:
        totals[one.currency] = totals.get(one.currency, 0) + one.total
    sums = ", ".join(f"{money(total)} {currency}" for currency, total in sorted(totals.items()))
    if of is not None:
        return Group(table("", columns, rows), f"... the {len(found)} greatest of {of:,} invoices")
    return Group(table("", columns, rows), f"{len(found):,} invoices, {sums}")


def balances(found: Sequence[BalanceState]) -> RenderableType:
    """Return prepaid balances, one row each."""
    if not found:
        return "No prepaid balances."
    names = ("granted", "burned", "expired", "left", "recognized")
    rows = [
        (one.balance_id, one.account_id, *(money(getattr(one, name)) for name in names), one.currency) for one in found
    ]
    columns = [("balance", "left"), ("account", "left"), *((name, "right") for name in names), ("", "left")]
    return table("", columns, rows)


def invoice_lines(one: Invoice) -> RenderableType:
    """Return the lines of one invoice."""
    rows = [
        (
            line.line_id,
            line.tenant_id,
            line.description + (f" {line.group_key}" if line.group_key else ""),
            line.kind,
            grouped(line.quantity),
            line.unit or "",
            money(line.amount),
        )
        for line in one.lines
    ]
    columns = [("line", "left"), ("tenant", "left"), ("what", "left"), ("kind", "left"), ("quantity", "right")]
    columns += [("unit", "left"), (one.currency, "right")]
    return table(f"{one.number or 'draft'}  {one.account_id}  {money(one.total)} {one.currency}", columns, rows)


def explanation(found: Explanation) -> RenderableType:
    """Return an invoice line taken apart."""
    line = found.line
    head = Table.grid(padding=(0, 2))
    facts = [
        ("line", line.line_id),
        ("invoice", f"{found.invoice.number or 'draft'} ({found.invoice.account_id}), {found.invoice.snapshot_id}"),
        (
            "what",
            f"{line.description}: {line.price_type} price {line.price_id} of {line.plan} version {line.plan_version}",
        ),
        ("tenant", f"{line.tenant_id}, subscription {line.subscription_id}"),
        ("service period", f"{iso_utc(line.service_start)} to {iso_utc(line.service_end)} (end open)"),
    ]
    if line.group_key:
        facts.append(("group", line.group_key))
    for name, value in facts:
        head.add_row(name, escape(value))
    parts: list[RenderableType] = [head, _steps(found)]
    if line.kind == "correction" or found.booked_before:
        parts.append(_charges("What this invoice books of it", line.charges, line.currency))
    if found.event_count:
        news = f"({found.new_event_count:,} new since the close before)"
        parts.append(_events(f"of {found.event_count:,} usage events {news}", found.events))
    if found.taken_back_count:
        parts.append(_events(f"of {found.taken_back_count:,} that were taken back and count no more", found.taken_back))
    return Group(*parts)


def verified(verdicts: Sequence[Verified]) -> RenderableType:
    """Return the verdict on each invoice that differs, and a count."""
    differing = [one for one in verdicts if not one.matches]
    matching = len(verdicts) - len(differing)
    count = f"{matching:,} of {len(verdicts):,} invoices are, byte for byte, what their snapshots give."
    if not differing:
        return count
    rows = [(one.number or one.invoice_id, one.difference) for one in differing]
    return Group(table("", [("invoice", "left"), ("difference", "left")], rows), count)


def checks(found: Sequence[Any]) -> RenderableType:
    """Return what the doctor saw."""
    rows = [(check.result, check.name, check.what, check.to_do) for check in found]
    return table("", [("", "left"), ("check", "left"), ("", "left"), ("what to do", "left")], rows)


def _charges(title: str, charges: Sequence[Charge], currency: str) -> RenderableType:
    rows = [
        (
            charge.cell_key,
            charge.tier,
            PARTS.get(charge.part, charge.part),
            grouped(charge.quantity),
            trimmed(charge.unit_price),
            grouped(charge.exact_amount),
        )
        for charge in charges
    ]
    columns = [("cell", "left"), ("tier", "right"), ("part", "left"), ("quantity", "right"), ("unit price", "right")]
    return table(title, [*columns, (f"exact {currency}", "right")], rows)


def _steps(found: Explanation) -> RenderableType:
    rows = [
        (
            "    " * depth + step.text,
            "" if step.quantity is None else grouped(step.quantity),
            step.unit or "",
            "" if step.unit_price is None else grouped(step.unit_price),
            "" if step.exact_amount is None else grouped(step.exact_amount),
            "" if step.amount is None else money(step.amount),
        )
        for _, _, depth, step in found.walk()
    ]
    columns = [("from usage to amount", "left"), ("quantity", "right"), ("unit", "left"), ("unit price", "right")]
    return table("", [*columns, ("exact", "right"), (found.line.currency, "right")], rows)


def _events(title: str, events: Sequence[OriginEvent]) -> RenderableType:
    rows = [
        (
            iso_utc(event.event_time),
            grouped(event.quantity),
            event.attributes or "",
            f"{event.producer_id[:14]} / {event.segment} / {event.row}",
            "new" if event.is_new else "",
        )
        for event in events
    ]
    columns = [("event time", "left"), ("quantity", "right"), ("attributes", "left")]
    columns += [("producer / segment / row", "left"), ("", "left")]
    return table(f"{len(rows)} {title}", columns, rows)


def leases(accounts: LeaseAccounts) -> list[str]:
    """Return what became of leases, in sentences; nothing where there was nothing to do."""
    said = []
    if accounts.settled or accounts.waiting:
        said.append(
            f"{accounts.settled:,} leases of dead processes settled, {accounts.waiting:,} wait for their usage."
        )
    said += [
        f"{one.key.tenant} used {grouped(one.metered)} of {one.key.feature} from {iso_utc(one.key.start)} on; "
        f"{grouped(one.granted)} were granted."
        for one in accounts.over_used
    ]
    return said


def leases_json(accounts: LeaseAccounts) -> dict[str, object]:
    """Return the same for JSON."""
    over_used = [
        {
            "tenant": one.key.tenant,
            "feature": one.key.feature,
            "window_start": iso_utc(one.key.start),
            "granted": trimmed(one.granted),
            "metered": trimmed(one.metered),
        }
        for one in accounts.over_used
    ]
    counts = {"settled": accounts.settled, "waiting": accounts.waiting, "windows": accounts.windows}
    return {**counts, "over_used": over_used}
