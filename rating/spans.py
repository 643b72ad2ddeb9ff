"""Billing spans: one row per subscription and billing period, laid out in columns.

Enters: which subscription was on which plan from when to when. Leaves: `BillingSpans`, a sequence of `BillingSpan` that holds
columns and makes objects only for who asks for one; the tables `billing_span` and `span` of the engine.
Refuses: to look at usage. A million subscriptions are three columns of text and one of numbers: nearly all share their
*stretch*, which is all the rest of a span (plan, period, the part of it that is served).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

from metering.usage import Span
from rating.phases import OVERRIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from datetime import datetime

    import pyarrow as pa

    from metering.periods import Period
    from rating.plans import Plan


@dataclass(frozen=True, slots=True)
class BillingSpan:
    """One billing period of one subscription. `service` is the part of it in which the subscription ran.

    `is_current`: the period is the one being invoiced; the others are here because they were invoiced before.
    """

    span_id: int
    subscription_id: str
    tenant_id: str
    account_id: str
    plan: str
    plan_version: int
    currency: str
    period: Period
    service: Period
    is_current: bool
    # Two sides of a comparison may be rated in one engine; what is shared within a side is not shared between them.
    side: int = 0
    has_overrides: bool = False
    # When the subscription began to be on its plan version; none: with the service period.
    since: datetime | None = None

    @property
    def plan_key(self) -> str:
        """Return the key of its terms: the plan version, and the subscription if it has overrides."""
        key = plan_key(self.plan, self.plan_version)
        return f"{key}{OVERRIDDEN}{self.subscription_id}" if self.has_overrides else key


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a billing span has in common with those of other subscriptions; `plan_key` as that of the span."""

    plan: str
    plan_version: int
    plan_key: str
    currency: str
    period: Period
    service: Period
    is_current: bool
    side: int = 0
    has_overrides: bool = False
    since: datetime | None = None


@dataclass(slots=True)
class BillingSpans(Sequence[BillingSpan]):
    """Billing spans in columns; `stretch` holds, per span, its place in `stretches`. The number of a span is its place."""

    subscriptions: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    stretch: list[int] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)

    @classmethod
    def of(cls, spans: Sequence[BillingSpan]) -> BillingSpans:
        """Return spans in columns, in the order and under the numbers that they have. Raises ValueError for gaps in these."""
        if isinstance(spans, BillingSpans):
            return spans
        found = cls()
        places: dict[Stretch, int] = {}
        for place, span in enumerate(spans):
            if span.span_id != place:
                raise ValueError(f"span {span.span_id} stands at place {place}; number them from 0")
            stretch = Stretch(
                span.plan, span.plan_version, span.plan_key, span.currency, span.period, span.service, span.is_current,
                span.side, span.has_overrides, span.since,
            )  # fmt: skip
            number = places.setdefault(stretch, len(places))
            found.append(span.subscription_id, span.tenant_id, span.account_id, number)
        found.stretches = list(places)
        return found

    def append(self, subscription_id: str, tenant_id: str, account_id: str, stretch: int) -> None:
        """Add a span; `stretch` is the place of its stretch."""
        self.subscriptions.append(subscription_id)
        self.tenants.append(tenant_id)
        self.accounts.append(account_id)
        self.stretch.append(stretch)

    def take(self, places: Iterable[int]) -> BillingSpans:
        """Return some of the spans, numbered anew in the order given."""
        places = list(places)
        # Only the stretches that are used: one with overrides costs a plan of its own.
        used: dict[int, int] = {}
        stretch = [used.setdefault(self.stretch[place], len(used)) for place in places]
        return BillingSpans(
            [self.subscriptions[place] for place in places],
            [self.tenants[place] for place in places],
            [self.accounts[place] for place in places],
            stretch,
            [self.stretches[number] for number in used],
        )

    def of_accounts(self, accounts: Collection[str]) -> BillingSpans:
        """Return the spans of some billing accounts, numbered anew."""
        return self.take(place for place, account in enumerate(self.accounts) if account in accounts)

    def __add__(self, others: BillingSpans) -> BillingSpans:
        shift = len(self.stretches)
        return BillingSpans(
            self.subscriptions + others.subscriptions, self.tenants + others.tenants, self.accounts + others.accounts,
            self.stretch + [shift + number for number in others.stretch], self.stretches + others.stretches,
        )  # fmt: skip

    def with_stretches(self, change: Callable[[Stretch], Stretch]) -> BillingSpans:
        """Return the same spans on changed stretches."""
        changed = [change(stretch) for stretch in self.stretches]
        return BillingSpans(self.subscriptions, self.tenants, self.accounts, self.stretch, changed)

    def __len__(self) -> int:
        return len(self.stretch)

    @overload
    def __getitem__(self, place: int) -> BillingSpan: ...
    @overload
    def __getitem__(self, place: slice) -> BillingSpans: ...
    def __getitem__(self, place: int | slice) -> BillingSpan | BillingSpans:
        if isinstance(place, slice):
            return self.take(range(len(self))[place])
        return self._at(range(len(self))[place])

    def __iter__(self) -> Iterator[BillingSpan]:
        return (self._at(place) for place in range(len(self)))

    def _at(self, place: int) -> BillingSpan:
        on = self.stretches[self.stretch[place]]
        return BillingSpan(
            place, self.subscriptions[place], self.tenants[place], self.accounts[place], on.plan, on.plan_version,
            on.currency, on.period, on.service, on.is_current, on.side, on.has_overrides, on.since,
        )  # fmt: skip

    def table(self) -> pa.Table:
        """Return BILLING_SPAN: one row per span, every column of it but `side` and `has_overrides`, and its plan key."""
        import pyarrow as pa

        on, text, places = self.stretches, pa.string(), pa.array(self.stretch, pa.int64())
        shared = {
            "plan": pa.array([one.plan for one in on], text),
            "plan_version": pa.array([one.plan_version for one in on], pa.int64()),
            "plan_key": pa.array([one.plan_key for one in on], text),
            "currency": pa.array([one.currency for one in on], text),
            "period_start": _instants(one.period.start for one in on),
            "period_end": _instants(one.period.end for one in on),
            "service_start": _instants(one.service.start for one in on),
            "service_end": _instants(one.service.end for one in on),
            "is_current": pa.array([one.is_current for one in on], pa.bool_()),
            "since": _instants(one.since or one.service.start for one in on),
        }
        columns = {
            "span_id": pa.array(range(len(self)), pa.int64()),
            "subscription_id": pa.array(self.subscriptions, text),
            "tenant_id": pa.array(self.tenants, text),
            "account_id": pa.array(self.accounts, text),
        }
        return pa.table(columns | {name: column.take(places) for name, column in shared.items()})


@dataclass(frozen=True, slots=True)
class UsageSpans(Sequence[Span]):
    """The spans of billing as those of metering: what usage is asked for each of them. Columns, and objects if need be."""

    spans: BillingSpans
    plans: Mapping[str, Plan]

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, place: int) -> Span: ...
    @overload
    def __getitem__(self, place: slice) -> UsageSpans: ...
    def __getitem__(self, place: int | slice) -> Span | UsageSpans:
        if isinstance(place, slice):
            return UsageSpans(self.spans[place], self.plans)
        return self._asked(self.spans[place])

    def __iter__(self) -> Iterator[Span]:
        return map(self._asked, self.spans)

    def table(self) -> pa.Table:
        """Return SPAN of metering.questions: one row per span."""
        import pyarrow as pa

        on, text, places = self.spans.stretches, pa.string(), pa.array(self.spans.stretch, pa.int64())
        shared = {
            "selector_set": pa.array([one.plan_key for one in on], text),
            "service_start": _instants(one.service.start for one in on),
            "service_end": _instants(one.service.end for one in on),
            "timezone": pa.array([self.plans[one.plan_key].billing_period.timezone for one in on], text),
            "period_start": _instants(one.period.start for one in on),
            "period_end": _instants(one.period.end for one in on),
            "since": _instants(one.since or one.service.start for one in on),
        }
        columns = {
            "span_id": pa.array(range(len(self)), pa.int64()),
            "tenant_id": pa.array(self.spans.tenants, text),
        }
        return pa.table(columns | {name: column.take(places) for name, column in shared.items()})

    def _asked(self, span: BillingSpan) -> Span:
        zone, service, period = self.plans[span.plan_key].billing_period.timezone, span.service, span.period
        return Span(
            span.span_id, span.tenant_id, span.plan_key, service.start, service.end, zone, period.start, period.end, span.since
        )  # fmt: skip


def plan_key(name: str, version: int) -> str:
    """Return the key of a plan version, `pro/3`."""
    return f"{name}/{version}"


def _instants(times: Iterable[datetime]) -> pa.Array:
    import pyarrow as pa

    return pa.array(list(times), pa.timestamp("us", tz="UTC"))
