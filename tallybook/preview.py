"""What a tenant is using now: the current billing periods and the invoice they would make, live.

Enters: an open workspace and a tenant. Leaves: usage so far and drafts, computed for the tenant's account alone.
Refuses: to book or to keep the drafts, and to say what is not in the lake yet: ship first where seconds matter.

The drafts are those of `tallybook invoice`, for one account: rated as if the current periods ended with what was used so
far, what was booked before subtracted, corrections of closed periods included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metering.clock import iso_utc
from metering.engine import fetch
from metering.numbers import plain, trimmed
from metering.periods import Period, WallPeriod, zone
from rating.close import draft_close
from rating.errors import NotFound
from rating.invoice import Invoice, Prepaid, as_json, make_invoices
from rating.iso4217 import minor_units
from rating.ledger import burned_before
from rating.rounding import exact_sum, round_amount
from rating.run import earlier_periods, rated
from rating.spans import BillingSpan
from rating.terms import Terms, billing_spans, cycle_of, service_of
from tallybook.books import reading
from tallybook.catalog_history import load_last_revision_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb

    from rating.plans import Subscription
    from tallybook.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CurrentUsage:
    """One row per (subscription, price, group): what was used so far in the current period, and what it is worth."""

    subscription_id: str
    plan: str
    plan_version: int
    price_id: str
    description: str
    meter: str | None
    unit: str | None
    group_key: str
    period_start: datetime
    period_end: datetime
    timezone: str
    event_count: int
    quantity: Decimal
    amount: Decimal
    currency: str

    @property
    def days(self) -> str:
        """The period as dates of its own zone: its first day, and the first day after it."""
        local = [at.astimezone(zone(self.timezone)) for at in (self.period_start, self.period_end)]
        return f"{local[0]:%Y-%m-%d} to {local[1]:%Y-%m-%d}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: numbers as text, times as ISO 8601 UTC."""
        body: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return body | {
            "period_start": iso_utc(self.period_start),
            "period_end": iso_utc(self.period_end),
            "quantity": trimmed(self.quantity),
            "amount": plain(self.amount),
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """A tenant's current periods. `usage` is the tenant's; `invoices` are drafts of the account, one per currency."""

    tenant_id: str
    account_id: str
    as_of: datetime
    snapshot_id: str
    usage: tuple[CurrentUsage, ...]
    invoices: tuple[Invoice, ...]

    def tenant_total(self, invoice: Invoice) -> Decimal:
        """Return the tenant's part of a draft; an account may pay for several tenants."""
        digits = minor_units(invoice.currency)
        lines = [line.amount for line in invoice.lines if line.tenant_id == self.tenant_id]
        return round_amount(exact_sum(lines), digits)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "tenant_id": self.tenant_id,
            "account_id": self.account_id,
            "as_of": iso_utc(self.as_of),
            "snapshot_id": self.snapshot_id,
            "usage": [one.to_json() for one in self.usage],
            "invoices": [{**as_json(one), "tenant_total": plain(self.tenant_total(one))} for one in self.invoices],
        }


def preview(workspace: Workspace, tenant: str) -> Preview:
    """Return what a tenant used in its current billing periods, and the drafts of its account. Books nothing.

    Raises NotFound where no subscription of the tenant runs now.
    """
    catalog = load_last_revision_of(workspace.books, tenant)
    terms = catalog.terms()
    now = workspace.now
    account, running = _running(terms, tenant, now)
    payers = terms.payer_by_tenant()
    terms = replace(
        terms, subscriptions=[one for one in terms.subscriptions if (one.account or payers[one.tenant]) == account]
    )
    # The period that the drafts are filed under is the shortest that is running: the next to be invoiced.
    wall = min((_wall_now(terms, one, now) for one in running), key=lambda span: (span.end, span.start))
    files, snapshot = workspace.evidence()
    with reading(workspace.books) as connection:
        close = draft_close(connection, wall, as_of=now, snapshot=snapshot, catalog_revision=catalog.revision or 0)
        spans = spans_at(terms, now, earlier_periods(connection, close))
        close = replace(close, as_of=max(span.period.end for span in spans))
        prepaid = Prepaid.of(terms, burned_before(connection, close.position, account=account))
        with rated(connection, close, terms, files, spans=spans) as engine:
            usage = _usage(engine, terms, tenant)
            invoices = make_invoices(engine, close, "draft", prepaid)
    return Preview(tenant, account, now, snapshot.snapshot_id, usage, tuple(invoices))


def _running(terms: Terms, tenant: str, now: datetime) -> tuple[str, list[Subscription]]:
    """Return the account that pays for a tenant, and the subscriptions of the tenant that run now."""
    held = [one for one in terms.subscriptions if one.tenant == tenant]
    running = [one for one in held if now in service_of(one, terms.plan_of(one))]
    if not running:
        why = "its subscriptions do not run now" if held else "it has no subscription"
        raise NotFound(
            f"tenant {tenant} has nothing to preview at {iso_utc(now)}: {why}; `tallybook usage` shows what it used"
        )
    return running[0].account or terms.payer_by_tenant()[tenant], running


def _period_now(terms: Terms, subscription: Subscription, now: datetime) -> Period:
    return cycle_of(subscription, terms.plan_of(subscription)).period_at(now)


def _wall_now(terms: Terms, subscription: Subscription, now: datetime) -> WallPeriod:
    period = _period_now(terms, subscription, now)
    local = zone(terms.plan_of(subscription).billing_period.timezone)
    return WallPeriod(*(at.astimezone(local).replace(tzinfo=None) for at in (period.start, period.end)))


def spans_at(terms: Terms, now: datetime, closed: Sequence[WallPeriod] = ()) -> list[BillingSpan]:
    """Return the billing spans that hold an instant, and those of periods closed before, for corrections."""
    current: list[BillingSpan] = []
    for subscription in terms.subscriptions:
        alone = replace(terms, subscriptions=[subscription])
        found = billing_spans(alone, _wall_now(terms, subscription, now))
        current += [span for span in found if now in span.period and span.service.start <= now]
    known = {(span.subscription_id, span.period.start) for span in current}
    earlier = [
        span for span in billing_spans(terms, None, closed) if (span.subscription_id, span.period.start) not in known
    ]
    return [replace(span, span_id=number) for number, span in enumerate([*current, *earlier])]


def _usage(engine: duckdb.DuckDBPyConnection, terms: Terms, tenant: str) -> tuple[CurrentUsage, ...]:
    names = ", ".join(name for name in (*CurrentUsage.__slots__, "plan_key") if name != "timezone")
    statement = (
        f"SELECT {names} FROM worth WHERE tenant_id = $tenant AND is_current"
        " ORDER BY subscription_id, period_start, price_position, price_id, group_key"
    )
    rows = fetch(engine, statement, {"tenant": tenant}).to_pylist()
    for row in rows:
        row["timezone"] = terms.plans[row.pop("plan_key")].billing_period.timezone
        row["amount"] = round_amount(row["amount"], minor_units(row["currency"]))
    return tuple(CurrentUsage(**row) for row in rows)
