"""An invoice line taken apart, as a tree of steps: what `rating.explain` makes and what terminals, JSON and Arrow show.

Enters: steps and events, already worked out. Leaves: the same tree as plain JSON values and as Arrow tables.
Refuses: to compute or to round. Quantities and exact amounts keep every digit; amounts have the digits of their currency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metering.clock import iso_utc
from metering.numbers import plain, trimmed
from rating.invoice import Charge, Invoice, InvoiceLine, line_as_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from decimal import Decimal

    import pyarrow as pa

# What the parts of a charge are called on paper; a part that is not here is called by its own name.
PARTS = {
    "unit": "usage",
    "flat": "flat amount",
    "included": "included quantity",
    "fixed": "fixed amount per event",
    "limit": "raised or cut to the limit per event",
    "peak": "highest quantity of the period",
    "percent_of": "percent of other prices",
    "amount_tier": "off a part of the amount",
    "line_limit": "raised or cut to the limit of the line",
    "bucket_overage": "beyond what is promised per bucket",
    "bucket_shortfall": "missing of what is promised per bucket",
    "cell": "cell",
    "minimum": "what is missing of the minimum",
}

# What follows the price, in its order, by the word before the id: `discount:welcome`. All else is a component of the price.
ADJUSTMENTS = {"discount": "discount {}", "overage": "beyond the commitment {}", "maximum": "above the maximum {}"}


def is_of_price(part: str) -> bool:
    """Return whether a part of a charge is of the price itself, not of what follows it."""
    return part.partition(":")[0] not in ADJUSTMENTS


@dataclass(frozen=True, slots=True)
class Step:
    """One step from usage to the amount on paper. What does not apply to a step is None, or empty text.

    `step` names it: aggregate, weights, aggregate_other, combination, floor, conversion, included, unpriced, tiers_from,
    tiers_reached, base, owed, covered_before, covered, price, cell, component, discount, used_before, overage, maximum, worth,
    rounded, booked_before, amount. `exact_amount` is what the step adds, unrounded; of `base` what another price comes to; of
    `used_before` what earlier billing periods had of a commitment; of `price` and `worth` it is the sum so
    far. `amount` is money on paper, there from `rounded` on, and what a minimum is worked out from. `children` are its parts, and
    add up to it.
    """

    step: str
    text: str
    quantity: Decimal | None = None
    unit: str | None = None
    unit_price: Decimal | None = None
    exact_amount: Decimal | None = None
    amount: Decimal | None = None
    cell_key: str = ""
    tier: int | None = None
    part: str = ""
    children: tuple[Step, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: exact decimals as text; what does not apply is left out."""
        body: dict[str, Any] = {"step": self.step, "text": self.text}
        if self.quantity is not None:
            body["quantity"] = trimmed(self.quantity)
        if self.unit is not None:
            body["unit"] = self.unit
        if self.unit_price is not None:
            body["unit_price"] = trimmed(self.unit_price)
        if self.exact_amount is not None:
            body["exact_amount"] = trimmed(self.exact_amount)
        if self.amount is not None:
            body["amount"] = plain(self.amount)
        if self.step == "component":
            body |= {"tier": self.tier, "part": self.part, "cell_key": self.cell_key}
        if self.children:
            body["children"] = [child.to_json() for child in self.children]
        return body


@dataclass(frozen=True, slots=True)
class OriginEvent:
    """One usage event behind a line, with where it came from. `is_new`: the close before had not seen it."""

    event_time: datetime
    recorded_at: datetime
    quantity: Decimal
    attributes: str | None
    idempotency_key: str | None
    producer_id: str
    segment: int
    row: int
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "event_time": iso_utc(self.event_time),
            "recorded_at": iso_utc(self.recorded_at),
            "quantity": trimmed(self.quantity),
            "attributes": self.attributes,
            "idempotency_key": self.idempotency_key,
            "producer_id": self.producer_id,
            "segment": self.segment,
            "row": self.row,
            "is_new": self.is_new,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """One line, taken apart: line -> steps -> components -> events.

    `tiers` are the components of what the whole period is worth, `line.charges` what this invoice books of them.
    `events` is a sample, those first that the close before had not seen; `event_count` counts all. `taken_back` is a
    sample of the events that count no more, because a later one voids or replaces them; `taken_back_count` counts these.
    """

    invoice: Invoice
    line: InvoiceLine
    steps: tuple[Step, ...]
    tiers: tuple[Charge, ...]
    booked_before: Decimal
    event_count: int
    new_event_count: int
    events: tuple[OriginEvent, ...]
    taken_back_count: int = 0
    taken_back: tuple[OriginEvent, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: numbers as text, times as ISO 8601 UTC."""
        return {
            "line": line_as_json(self.line),
            "invoice_id": self.invoice.invoice_id,
            "number": self.invoice.number,
            "account_id": self.invoice.account_id,
            "snapshot_id": self.invoice.snapshot_id,
            "catalog_revision": self.invoice.catalog_revision,
            "booked_before": plain(self.booked_before),
            "steps": [step.to_json() for step in self.steps],
            "tiers": [
                {
                    "cell_key": charge.cell_key,
                    "tier": charge.tier,
                    "part": charge.part,
                    "quantity": trimmed(charge.quantity),
                    "unit_price": trimmed(charge.unit_price),
                    "exact_amount": trimmed(charge.exact_amount),
                }
                for charge in self.tiers
            ],
            "event_count": self.event_count,
            "new_event_count": self.new_event_count,
            "events": [event.to_json() for event in self.events],
            "taken_back_count": self.taken_back_count,
            "taken_back": [event.to_json() for event in self.taken_back],
        }

    def to_arrow(self) -> pa.Table:
        """Return the steps in order, one row per (line, step or component). `parent` is the position of the step above.

        quantity decimal(38, 9) in units, unit_price decimal(24, 12), exact_amount decimal(38, 21), amount decimal(38, 12)
        in `currency`. Only rows without a parent follow one another; children add up to their parent.
        """
        import pyarrow as pa

        rows = [
            {
                "line_id": self.line.line_id,
                "position": position,
                "parent": parent,
                "step": step.step,
                "text": step.text,
                "cell_key": step.cell_key,
                "tier": step.tier,
                "part": step.part,
                "quantity": step.quantity,
                "unit": step.unit,
                "unit_price": step.unit_price,
                "exact_amount": step.exact_amount,
                "amount": step.amount,
                "currency": self.line.currency,
            }
            for position, parent, _, step in self.walk()
        ]
        return pa.Table.from_pylist(rows, schema=explanation_schema())

    def events_to_arrow(self) -> pa.Table:
        """Return the sample of events, one row per usage event, in the columns of USAGE_EVENT with line_id and is_new."""
        import pyarrow as pa

        rows = [
            {"line_id": self.line.line_id, **{name: getattr(event, name) for name in OriginEvent.__slots__}}
            for event in self.events
        ]
        return pa.Table.from_pylist(rows, schema=origin_event_schema())

    def walk(self) -> Iterator[tuple[int, int | None, int, Step]]:
        """Yield (position, position of the step above, depth, step) from top to bottom, as it is read."""
        position = 0
        open_steps: list[tuple[int | None, int, Step]] = [(None, 0, step) for step in reversed(self.steps)]
        while open_steps:
            parent, depth, step = open_steps.pop()
            yield position, parent, depth, step
            open_steps.extend((position, depth + 1, child) for child in reversed(step.children))
            position += 1


def explanation_schema() -> pa.Schema:
    """Return the schema of an explanation: one row per (line, step or component)."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("line_id", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("parent", pa.int32()),
            pa.field("step", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("cell_key", pa.string(), nullable=False),
            pa.field("tier", pa.int32()),
            pa.field("part", pa.string(), nullable=False),
            pa.field("quantity", pa.decimal128(38, 9)),
            pa.field("unit", pa.string()),
            pa.field("unit_price", pa.decimal128(24, 12)),
            pa.field("exact_amount", pa.decimal128(38, 21)),
            pa.field("amount", pa.decimal128(38, 12)),
            pa.field("currency", pa.string(), nullable=False),
        ]
    )


def origin_event_schema() -> pa.Schema:
    """Return the schema of the events behind a line: one row per usage event."""
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            pa.field("line_id", pa.string(), nullable=False),
            pa.field("event_time", instant, nullable=False),
            pa.field("recorded_at", instant, nullable=False),
            pa.field("quantity", pa.decimal128(38, 9), nullable=False),
            pa.field("attributes", pa.string()),
            pa.field("idempotency_key", pa.string()),
            pa.field("producer_id", pa.string(), nullable=False),
            pa.field("segment", pa.int64(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("is_new", pa.bool_(), nullable=False),
        ]
    )
