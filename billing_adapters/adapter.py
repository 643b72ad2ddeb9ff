"""The one interface of delivery: what an adapter declares, what it is given, what it answers.

Enters: documents and totals of the books (`prepare`), then items of the outbox (`send`, `read_back`). Leaves: intents with the
literal bytes that are sent, and one answer per item. Refuses: to decide. An adapter says what the provider said, in the nine
words of `billing_adapters.outcomes`; what happens next is the outbox's.

Write one: docs/adapters.md. Prove one: `billing_adapters.testing.contract`. Be found: the entry point group
`tallybook.adapters`, a callable that takes the adapter's settings.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing_adapters.outcomes import Outcome
    from rating.invoice import Invoice
    from rating.tax import TaxedInvoice
    from rating.voids import Voided

Grain = Literal["invoice", "line", "event", "hour", "interval", "run"]


@dataclass(frozen=True, slots=True)
class Window:
    """When a provider takes something that was used at an instant. Ends are open: at `recover_by` it is too late.

    `oldest`: how long after it (None: for ever). `month_grace`: how long after the end of its month in `timezone`, if that is
    sooner. `future`: how far ahead of the provider's clock it may be.
    """

    oldest: timedelta | None = None
    month_grace: timedelta | None = None
    timezone: str = "UTC"
    future: timedelta = timedelta(0)

    def recover_by(self, used_at: datetime) -> datetime | None:
        """Return the instant from which the provider refuses it; None: never. AWS: 24 h, or 06:00 UTC on the 1st."""
        ends = [] if self.oldest is None else [used_at + self.oldest]
        if self.month_grace is not None:
            local = used_at.astimezone(ZoneInfo(self.timezone))
            first = datetime(local.year + local.month // 12, local.month % 12 + 1, 1, tzinfo=local.tzinfo)
            ends.append(first.astimezone(UTC) + self.month_grace)
        return min(ends, default=None)


@dataclass(frozen=True, slots=True)
class Numbers:
    """How a provider takes numbers. `decimals` None: the minor units of the currency, as whole numbers."""

    form: Literal["integer", "decimal_text"]
    decimals: int | None = None
    integer_digits: int = 38


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a provider can say afterwards. `can_prove_absence`: after `delay`, what it does not show is not there."""

    can_prove_absence: bool
    delay: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a provider can tell of all that it has (`billing_adapters.provider_list.Lister`).

    `tables`: which of documents, lines, quantities, payments. `settles`: after so long a figure is final. `is_double`: quantities
    come as doubles, good for nine digits. `needs_asking`: it answers per series, and lists nothing that nobody asks for.
    """

    tables: tuple[str, ...]
    settles: timedelta = timedelta(0)
    is_double: bool = False
    needs_asking: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """An adapter's provider, as data. `name` is that of the provider, `natural_key` names what it dedupes by.

    `repeat_same`: is the identical item, sent again under its key, harmless, and for how long (`key_lives`; None: for ever)?
    `repeat_other`: what the provider does with another value under a taken key. `zero`: what it does with nothing used.
    `downwards`, `upwards`: how something sent is corrected. `listing`: what the adapter's `list_held` tells; None: it has none.
    `calls_per_s` is the provider's own limit for one account.
    """

    name: str
    kinds: tuple[str, ...]
    grain: Grain
    natural_key: tuple[str, ...]
    numbers: Numbers
    zero: Literal["sent", "refused", "locks"]
    repeat_same: Literal["safe", "unsafe"]
    repeat_other: Literal["refused", "overwrites"]
    read_back: ReadBack | None
    downwards: tuple[str, ...]
    upwards: tuple[str, ...]
    window: Window = Window()
    key_lives: timedelta | None = None
    batch_items: int = 1
    batch_bytes: int | None = None
    calls_per_s: int = 10
    listing: Listing | None = None


@dataclass(frozen=True, slots=True)
class Lowered:
    """By how much a credit note lowers an invoice: an amount above zero, in the currency of both."""

    invoice_id: str
    number: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Document:
    """An invoice or credit note of the books, with what an adapter needs to know around it: a source of `prepare`.

    `lowers`: of a credit note, the invoices that it lowers. `carried`: what providers that take only coarser amounts did not
    get of earlier documents of this account and currency. `voided`: of a void document, when and in which order it was.
    `taxed`: its taxes, worked out by us; None: it has none.
    """

    invoice: Invoice
    account_name: str = ""
    lowers: tuple[Lowered, ...] = ()
    carried: Decimal = Decimal(0)
    voided: Voided | None = None
    taxed: TaxedInvoice | None = None

    @property
    def payable(self) -> Decimal:
        """Return what is asked for, with taxes on top of prices and less what was prepaid; below zero for a credit note."""
        return (
            self.invoice.amount_due
            if self.taxed is None
            else self.taxed.gross - (self.invoice.total - self.invoice.amount_due)
        )


@dataclass(frozen=True, slots=True)
class Intent:
    """What is to be at a provider. `payload` is the literal text that is sent, made once and kept.

    `content` is what makes it another thing than before (empty: the payload): of an invoice its own hash, so that another
    layout of the payload in a later release is not another invoice. `natural_key` is what the provider tells things apart
    by. Of one `lane` one item is under way at a time, by `rank`; an empty lane is the natural key itself. `series` names the
    ledger whose remainders are carried, `quantity` what this intent takes of it; of documents, what goes of `amount`.
    `refusal` says why it can never be sent; such an intent is parked at once, for a person to see.
    """

    kind: str
    natural_key: str
    payload: str
    account_id: str
    subject: str
    content: str = ""
    lane: str = ""
    rank: str = ""
    amount: Decimal | None = None
    currency: str | None = None
    quantity: Decimal | None = None
    series: str | None = None
    recover_by: datetime | None = None
    refusal: str | None = None

    @property
    def content_hash(self) -> str:
        return hashlib.sha256((self.content or self.payload).encode()).hexdigest()

    def delivery_id(self, adapter: str) -> str:
        """Return the key of the delivery: the same for whoever means the same thing by the same adapter."""
        parts = (adapter, self.kind, self.natural_key, self.content_hash)
        # Lengths keep ("a", "bc") apart from ("ab", "c").
        text = "".join(f"{len(part)}:{part}" for part in parts)
        return "dlv-" + hashlib.sha256(text.encode()).hexdigest()[:40]


# Under this name the progress of a delivery has how often the provider refused it later.
REFUSALS_KEPT = "refused_later"


@dataclass(frozen=True, slots=True)
class Item:
    """One delivery under way. `delivery_id` is what idempotency keys and metadata are derived from.

    `progress` is what the adapter kept of earlier attempts (provider ids), `is_resumed` says that there were some: look at
    what is there before you write. `enqueued_at`: nothing of it can be older at the provider.
    """

    delivery_id: str
    kind: str
    natural_key: str
    payload: str
    account_id: str
    subject: str
    enqueued_at: datetime
    is_resumed: bool = False
    progress: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    recover_by: datetime | None = None

    @property
    def sending_id(self) -> str:
        """Return the name of this sending: the delivery's id, and after late refusals how many there were.

        For providers that take a name once and validate later: what they refused is sent again under another name.
        """
        refused = self.progress.get(REFUSALS_KEPT)
        return self.delivery_id if refused is None else f"{self.delivery_id}.{refused}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider said of one item. `detail` is for people; `code` and `request_id` are the provider's own words."""

    outcome: Outcome
    detail: str = ""
    provider_id: str | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after_s: float = 0.0  # seconds


@dataclass(frozen=True, slots=True)
class Found:
    """What reading back showed of one item.

    `same`: all of it is there, as we would send it. `other`: something else is there under its key. `absent`: nothing is.
    `partial`: some steps of it were done; `send` goes on from there. `unclear`: the provider cannot say, now or ever.
    `failed`: it could not be asked this time.
    """

    state: Literal["same", "other", "absent", "partial", "unclear", "failed"]
    detail: str = ""
    provider_id: str | None = None


class Desk(Protocol):
    """What an adapter may ask of the outbox while it sends. All of it is durable when it returns."""

    def spend(self, calls: int = 1) -> None:
        """Wait until the provider's rate allows so many calls. Call it before each. Raises LeaseLost, BudgetSpent."""

    def keep(self, delivery_id: str, **progress: str) -> None:
        """Keep what was reached (provider ids), so that whoever comes next need not search for it."""

    def linked(self, kind: str, our_id: str) -> str | None:
        """Return the provider's id of something of ours that many items share, such as the customer of an account."""

    def link(self, kind: str, our_id: str, provider_id: str) -> str:
        """Keep such an id unless there is one; return the one that is kept."""


class Adapter(Protocol):
    """A driver of one provider. It keeps no state; two of them at once must be harmless."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what the provider takes and how it behaves, as data."""

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return what of a source of the books this provider is to have; none if it takes no such thing.

        Pure: the same source gives the same bytes. Sources are `Document` and what the adapter documents.
        """

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        """Write the items, at most `batch_items` of them, and return one answer each, in order.

        What was resumed may be there in part: go on from it. Raises AdapterMisconfigured where rights, keys or addresses
        are wrong: that is no answer about an item, and stops the adapter. Anything else that it raises counts as UNKNOWN.
        """

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        """Return what is at the provider of each item, in order. Writes nothing. Raises as `send`."""
