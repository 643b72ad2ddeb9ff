"""The form of a quantity as AWS takes it, of an hour or an increment: digits, allocations, and what spoils a record.

Enters: a quantity that is cut to its decimals already, and shares of it. Leaves: fields of a record, or the sentence that says
why AWS would refuse it. Refuses: nothing by itself; the intent is parked with the sentence, before it can spoil a batch.
Source: reference/providers.md, sections 2.1 and 2.2.
"""

from __future__ import annotations

import hashlib
import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.numbers import exact_sum, plain, trimmed
from rating.allocation import allocate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Shares = tuple[tuple[Mapping[str, str], Decimal], ...]

DECIMALS_MAX = 6
TAGS_MAX, ALLOCATIONS_MAX = 5, 2500
# AWS takes a request of less than 1 MB with all its keys; the rest of a request is small.
WIRE_BYTES_MAX = 990_000
# What allocations may fill of it, so that the rest of the record has room.
_ALLOCATED_BYTES_MAX = 900_000
_NO_TAG_CHARACTER = re.compile(r"[^a-zA-Z0-9+ \-=._:/@]")
_TAG_VALUE_CHARACTERS = 256
_QUANTITY = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")
_LONGEST = Decimal("9999999999.999999")
_WHOLE_MAX = 2_147_483_647
_TAG_KEY = re.compile(r"[a-zA-Z0-9+ \-=._:/@]{1,100}")
_TAG_VALUE = re.compile(r"[a-zA-Z0-9+ \-=._:/@]{1,256}")


def check_decimals(decimals: int, decimals_of: Mapping[str, int] | None) -> None:
    """Raise ValueError for settings that name more decimals than AWS takes, of all dimensions or of one."""
    if not all(0 <= places <= DECIMALS_MAX for places in (decimals, *(decimals_of or {}).values())):
        raise ValueError(f"AWS takes up to {DECIMALS_MAX} decimals")


def decimals_for(dimension: str, decimals: int, decimals_of: Mapping[str, int] | None) -> int:
    """Return how many decimals a dimension takes: its own where settings name them, else those of all dimensions."""
    return (decimals_of or {}).get(dimension, decimals)


def quantity_field(name: str, quantity: Decimal, decimals: int) -> dict[str, Any]:
    """Return the one field that says a quantity: a whole number where the dimension takes no decimals, else decimal text."""
    if decimals == 0:
        return {name: int(quantity)}
    return {f"{name}AsDecimal": trimmed(quantity)}


def allocations(
    quantity: Decimal, shares: Sequence[tuple[Mapping[str, str], Decimal]], decimals: int
) -> list[dict[str, Any]]:
    """Split what is sent, not what was used: the parts must add up to it exactly."""
    parts = allocate(quantity, [weight for _, weight in shares], decimals)
    return [
        {
            **quantity_field("AllocatedUsageQuantity", part, decimals),
            **({"Tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]} if tags else {}),
        }
        for (tags, _), part in zip(shares, parts, strict=True)
    ]


def is_tag_key(text: str) -> bool:
    """Does AWS take this for the key of a tag?"""
    return _TAG_KEY.fullmatch(text) is not None


def tag_value(text: str) -> str:
    """Return a text as AWS takes it for the value of a tag: as it is, or readable as far as may be, with a hash behind.

    The hash keeps apart what would look the same: `Zürich` is `Z_rich-4251685e`.
    """
    if _TAG_VALUE.fullmatch(text):
        return text
    mark = "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return _NO_TAG_CHARACTER.sub("_", text)[: _TAG_VALUE_CHARACTERS - len(mark)] + mark


def within_limits(shares: Sequence[tuple[Mapping[str, str], Decimal]]) -> Shares:
    """Return shares as far as one record has room for, the first ones first; all others are one share without tags."""
    kept: list[tuple[Mapping[str, str], Decimal]] = []
    untagged, filled = Decimal(0), 0
    for tags, weight in shares:
        ((longest),) = allocations(_LONGEST, [(tags, weight)], DECIMALS_MAX)
        filled += wire_bytes(longest)
        # One place is for what has no tags.
        if tags and len(kept) < ALLOCATIONS_MAX - 1 and filled <= _ALLOCATED_BYTES_MAX:
            kept.append((tags, weight))
        else:
            untagged = exact_sum([untagged, weight])
    return (*kept, ({}, untagged)) if untagged else tuple(kept)


def wire_bytes(record: Mapping[str, Any]) -> int:
    """Return how long a record is on the wire: as botocore writes JSON, with a space after each colon and comma."""
    # The comma and space to the next record.
    return len(json.dumps(record)) + 2


def refusal_of(dimension: str, quantity: Decimal, decimals: int, shares: Shares) -> str | None:
    """Return why AWS would refuse a record, None if it would not."""
    if not 1 <= len(dimension) <= 255:
        return "a dimension has 1 to 255 characters"
    if not _QUANTITY.fullmatch(trimmed(quantity)) or (decimals == 0 and quantity > _WHOLE_MAX):
        return f"{plain(quantity)} {dimension} is more than AWS takes of an hour; give the dimension a larger unit"
    if len(shares) > ALLOCATIONS_MAX:
        return f"an hour has up to {ALLOCATIONS_MAX} allocations, not {len(shares)}"
    if len({tuple(sorted(tags.items())) for tags, _ in shares}) < len(shares):
        return "two allocations of an hour have the same tags"
    for tags, _ in shares:
        if len(tags) > TAGS_MAX:
            return f"an allocation has up to {TAGS_MAX} tags, not {len(tags)}"
        for key, value in tags.items():
            if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
                return f"AWS takes no tag {key!r}: {value!r}; letters, digits, space and + - = . _ : / @ only"
    return None
