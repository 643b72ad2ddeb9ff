"""AWS Marketplace's feeds for sellers, read for reconciliation: what was metered, by day, and what was invoiced, by event.

Enters: CSV files as AWS puts them into the seller's bucket, which file has which columns (`FeedShape`: data, so that another
report is another shape, not other code), and which agreement is whose. Leaves: the tables below. Refuses: files without the
columns they must have, numbers that are no plain decimals, days that cannot be read (ProviderListRefused, with file and line).
Source: reference/providers.md, section 2.7. UTF-8, RFC 4180, UTC.

PROVIDER_QUANTITIES one row per (account, dimension, UTC day)   sum over regions and offers; the unit price where there is one
INVOICED            one row per (invoice, currency)             what became of its money, by part; parts sum to all events

A feed is bi-temporal: rows of one key are versions of one fact, the newest counts, and one that is deleted does not. The file of
a month grows every day and is read whole. Quantities have 2 decimals in the daily feed and unit prices 6: compare with a
tolerance. Whose use it was is said by its agreement; what belongs to no buyer of ours keeps AWS's own id: seen, not lost.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from billing_adapters.errors import ProviderListRefused
from billing_adapters.provider_list import DOCUMENTS, QUANTITIES, provider_table
from metering.numbers import exact_sum, trimmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

ADAPTER = "aws_marketplace"
DAY = timedelta(days=1)
Row = dict[str, str]
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?")
# What a billing event is, by the end of its type and its action; the set of types is open, so the rest is `other`.
PARTS = ("net", "tax", "fee", "refunded", "credited", "forgiven", "disbursed", "other")
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class FeedShape:
    """Which column of a usage report says what. `key` names a fact; `newest` sorts its versions, as text.

    `deleted`: the column, and the values that say that a fact is gone (none: any value). A column that is "" is not there: of a
    report without a `key` every line is a fact of its own, so that each of its files is read once.
    """

    day: str
    dimension: str
    quantity: str
    key: str = ""
    newest: tuple[str, ...] = ()
    deleted: tuple[str, tuple[str, ...]] = ("", ())
    unit_price: str = ""
    agreement: str = ""
    buyer: str = ""

    @property
    def columns(self) -> set[str]:
        """Return the columns that a file must have."""
        named = {self.key, *self.newest, self.deleted[0], self.day, self.dimension, self.quantity}
        return (named | {self.unit_price, self.agreement, self.buyer}) - {""}


# The daily usage feed, `usage_v1`.
DAILY_USAGE = FeedShape(
    key="usage_feed_id",
    newest=("valid_from", "update_date", "insert_date"),
    deleted=("delete_date", ()),
    day="usage_date",
    dimension="dimension_key",
    quantity="usage_quantity",
    unit_price="usage_rate_per_unit_in_pricing_currency",
    agreement="agreement_id",
    buyer="end_user_account_id",
)
# The data subscription, folder `marketplace_daily_usage_report`: estimates until the month is closed, and real account ids.
SUBSCRIBED_USAGE = FeedShape(
    key="internal_usage_line_item_id",
    newest=("row_modified_date",),
    deleted=("row_type", ("DELETE",)),
    day="usage_date",
    dimension="dimension_key",
    quantity="usage_quantity",
    agreement="agreement_id",
    buyer="end_user_aws_account_id",
)
SHAPES: Mapping[str, FeedShape] = {"daily_usage": DAILY_USAGE, "subscribed_usage": SUBSCRIBED_USAGE}
_BILLING = {
    "billing_event_id", "valid_from", "action", "transaction_type", "amount", "currency", "invoice_id", "invoice_date",
    "end_user_account_id", "usage_period_start_date", "usage_period_end_date",
}  # fmt: skip


@dataclass(slots=True)
class _Day:
    """What is summed of one account, dimension and day."""

    quantities: list[Decimal] = field(default_factory=list)
    prices: set[Decimal] = field(default_factory=set)
    ids: list[str] = field(default_factory=list)


def read_usage(paths: Sequence[Path], accounts: Mapping[str, str], shape: FeedShape = DAILY_USAGE) -> pa.Table:
    """Return PROVIDER_QUANTITIES of usage reports, by day. `accounts`: our billing account by agreement, or by buyer's id."""
    days: defaultdict[tuple[str, str, date], _Day] = defaultdict(_Day)
    if not shape.key:
        _refuse_repeats(paths)
    for place, row in _facts(paths, shape.columns, shape.key, shape.newest, shape.deleted):
        refs = [row[name] for name in (shape.agreement, shape.buyer) if name and row[name]]
        account = next((accounts[one] for one in refs if one in accounts), None) or (refs or ["unknown"])[0]
        found = days[account, row[shape.dimension], _day(place, row, shape.day)]
        found.quantities.append(_number(place, row, shape.quantity))
        found.ids.append(row[shape.key] if shape.key else place)
        if shape.unit_price and row[shape.unit_price]:
            found.prices.add(_number(place, row, shape.unit_price))
    rows = []
    for (account, name, day), one in sorted(days.items()):
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        rows.append(
            {
                "adapter": ADAPTER,
                "account_id": account,
                "name": name,
                "start": start,
                "end": start + DAY,
                "quantity": exact_sum(one.quantities),
                "unit_price": next(iter(one.prices)) if len(one.prices) == 1 else None,
                "status": "reported",
                "provider_id": one.ids[0] if shape.key and len(one.ids) == 1 else None,
            }
        )
    return provider_table(QUANTITIES, rows)


def _refuse_repeats(paths: Sequence[Path]) -> None:
    """Refuse a file that is given twice, under whatever name: without keys its lines would be added up twice."""
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as refused:
            raise ProviderListRefused(f"{path} cannot be read: {refused}") from refused
        if digest in seen:
            raise ProviderListRefused(
                f"{path} is {seen[digest]} once more; its report has no keys, so give each file once"
            )
        seen[digest] = path


@cache
def invoiced_schema() -> pa.Schema:
    """Return INVOICED: amounts of `currency`, signed as AWS writes them (the fee is below zero). Times UTC, ends open."""
    import pyarrow as pa

    text, instant, exact = pa.string(), pa.timestamp("us", tz="UTC"), pa.decimal128(38, 12)
    return pa.schema(
        [
            pa.field("invoice_id", text, nullable=False),
            pa.field("currency", text, nullable=False),
            pa.field("buyer", text),
            pa.field("invoiced_at", instant),
            pa.field("usage_start", instant),
            pa.field("usage_end", instant),
            pa.field("events", pa.int64(), nullable=False),
            *(pa.field(name, exact, nullable=False) for name in PARTS),
        ]
    )


def read_billing(paths: Sequence[Path]) -> pa.Table:
    """Return INVOICED of the billing event feed. Every event is in exactly one part; the fee is read, never reckoned.

    Events without an invoice (pay-outs to the seller) are under the invoice ''.
    """
    import pyarrow as pa

    groups: defaultdict[tuple[str, str], list[tuple[str, Row]]] = defaultdict(list)
    for place, row in _facts(paths, _BILLING, "billing_event_id", ("valid_from",), ("", ())):
        groups[row["invoice_id"], row["currency"]].append((place, row))
    rows = []
    for (invoice, currency), events in sorted(groups.items()):
        amounts: defaultdict[str, list[Decimal]] = defaultdict(list)
        for place, row in events:
            amounts[part_of(row["action"], row["transaction_type"])].append(_number(place, row, "amount"))
        rows.append(
            {
                "invoice_id": invoice,
                "currency": currency,
                "buyer": next((row["end_user_account_id"] for _, row in events if row["end_user_account_id"]), None),
                "invoiced_at": _first(events, "invoice_date", min),
                "usage_start": _first(events, "usage_period_start_date", min),
                "usage_end": _open_end(_first(events, "usage_period_end_date", max)),
                "events": len(events),
                **{name: exact_sum(amounts[name]) for name in PARTS},
            }
        )
    return pa.Table.from_pylist(rows, schema=invoiced_schema())


def part_of(action: str, transaction_type: str) -> str:
    """Return which part of an invoice's money a billing event is: one of `PARTS`."""
    if action == "DISBURSED" or transaction_type.startswith("DISBURSEMENT"):
        return "disbursed"
    if action == "FORGIVEN":
        return "forgiven"
    if action != "INVOICED":
        return "other"
    if transaction_type.startswith("AWS_") and "TAX" not in transaction_type:
        # The fee, and what of it is given back.
        return "fee"
    if "TAX_SHARE" in transaction_type:
        return "tax" if transaction_type.startswith("SELLER_") else "other"
    if transaction_type.endswith("_REFUND"):
        return "refunded"
    if transaction_type.endswith("_CREDIT"):
        return "credited"
    return "net" if transaction_type == "SELLER_REV_SHARE" else "other"


def documents_of(invoiced: pa.Table) -> pa.Table:
    """Return PROVIDER_DOCUMENTS of INVOICED: AWS's own invoices of our sales, which no delivery of ours made.

    Pay-outs and events that bill nothing are no documents. Raises ProviderListRefused for an invoice without its date.
    """
    rows = [row for row in invoiced.to_pylist() if row["invoice_id"]]
    for row in rows:
        if row["invoiced_at"] is None and (row["net"] or row["tax"]):
            billed = trimmed(exact_sum([row["net"], row["tax"]]))
            raise ProviderListRefused(
                f"{row['invoice_id']} has {billed} {row['currency']} and no invoice_date; read the feed's other files with it"
            )
    return provider_table(
        DOCUMENTS,
        [
            {
                "adapter": ADAPTER,
                "kind": "invoice",
                "provider_id": row["invoice_id"],
                "account_ref": row["buyer"],
                "currency": row["currency"],
                "net": row["net"],
                "tax": row["tax"],
                "total": exact_sum([row["net"], row["tax"]]),
                "lines": row["events"],
                "status": "invoiced",
                "created_at": row["invoiced_at"],
            }
            for row in rows
            if row["invoiced_at"] is not None
        ],
    )


# --- rows ---------------------------------------------------------------------------------------------------------------


def _facts(
    paths: Sequence[Path],
    columns: set[str],
    key: str,
    newest: Sequence[str],
    deleted: tuple[str, tuple[str, ...]],
) -> list[tuple[str, Row]]:
    """Return the newest version of every fact that is not deleted, with where it stands."""
    held: dict[str, tuple[tuple[str, ...], str, Row]] = {}
    for place, row in _rows(paths, columns):
        fact = row[key] if key else place
        if not fact:
            raise ProviderListRefused(f"{place}: {key} is empty")
        version = tuple(row[name] for name in newest)
        # Of one version read twice (the file of a month grows) the later line stands; it is the same.
        if fact not in held or held[fact][0] <= version:
            held[fact] = (version, place, row)
    name, values = deleted
    return [
        (place, row)
        for _, place, row in held.values()
        if not name or not (row[name] in values if values else row[name])
    ]


def _rows(paths: Iterable[Path], columns: set[str]) -> Iterator[tuple[str, Row]]:
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file, strict=True)
                head = [name.strip() for name in next(lines, [])]
                missing = sorted(columns - set(head))
                if missing:
                    raise ProviderListRefused(f"{path} lacks the columns {', '.join(missing)}; is it another report?")
                for line in lines:
                    place = f"{path}, line {lines.line_num}"
                    if len(line) != len(head):
                        raise ProviderListRefused(f"{place} has {len(line)} values for {len(head)} columns")
                    yield place, dict(zip(head, line, strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as refused:
            raise ProviderListRefused(f"{path} cannot be read as CSV: {refused}") from refused


def _number(place: str, row: Row, name: str) -> Decimal:
    if not _DECIMAL.fullmatch(row[name]):
        raise ProviderListRefused(f"{place}: {name} {row[name]!r} is not a plain decimal")
    return Decimal(row[name])


def _day(place: str, row: Row, name: str) -> date:
    return _instant(place, row, name).date()


def _instant(place: str, row: Row, name: str) -> datetime:
    try:
        read = datetime.fromisoformat(row[name])
    except ValueError:
        raise ProviderListRefused(f"{place}: {name} {row[name]!r} is no date") from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)


def _first(events: Sequence[tuple[str, Row]], name: str, choose: Any) -> datetime | None:
    return choose((_instant(place, row, name) for place, row in events if row[name]), default=None)  # type: ignore[no-any-return]


def _open_end(end: datetime | None) -> datetime | None:
    """Return the end as ours are, open: AWS writes the last second (or day) that is in it."""
    if end is None:
        return None
    return end + (DAY if (end.hour, end.minute, end.second) == (0, 0, 0) else timedelta(seconds=1))
