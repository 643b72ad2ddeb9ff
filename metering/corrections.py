"""Corrections: later events that void or replace an earlier one. Nothing is edited; the audit trail stays.

Enters: the name of an event, by idempotency key or by origin. Leaves: canonical JSON in the column `correction`:
    {"key":"resp_1","verb":"void"}                                   the event of this key, of the same tenant and meter
    {"producer_id":"p-..","row":5,"segment":12,"verb":"replace"}     the event of this origin, of the same tenant
Refuses: to name an event of another tenant, and to bring back what was once named: a void of a replacement leaves nothing.

A void counts as no event at all; a replacement counts as the event it says. In the journal the correction travels at the
end of the attributes, under a name that no attribute can have.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from metering.errors import BadEvent
from metering.events import check_key, check_name

Verb = Literal["void", "replace"]

# "~" begins no attribute name and sorts behind all of them.
_CARRIER = '"~correction":'


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an event came from: unique, and shown by `explain`."""

    producer_id: str
    segment: int
    row: int


def correction_text(verb: Verb, *, key: str | None = None, origin: Origin | None = None) -> str:
    """Return the canonical JSON of a correction. Raises BadEvent unless the event is named in exactly one way."""
    if (key is None) == (origin is None):
        raise BadEvent("bad_correction", f"name the event to {verb} by its key or by its origin, one of the two")
    named = {"key": check_key(key)} if key is not None else _named(origin)
    return json.dumps({**named, "verb": verb}, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def _named(origin: object) -> dict[str, Any]:
    """Return an origin as it is stored. Raises BadEvent for what no event can have as its origin."""
    if not isinstance(origin, Origin):
        raise BadEvent("bad_correction", f"{origin!r} is not an Origin(producer_id, segment, row)")
    for what, number, limit in (("segment", origin.segment, 2**63), ("row", origin.row, 2**31)):
        if type(number) is not int or not 0 <= number < limit:
            raise BadEvent("bad_correction", f"{what} {number!r} of an origin must be an int from 0 to {limit - 1}")
    return {
        "producer_id": check_name(origin.producer_id, "producer"),
        "row": origin.row,
        "segment": origin.segment,
    }


def join_correction(attributes: str | None, correction: str) -> str:
    """Return attributes and a correction as one JSON object, as the journal carries them."""
    inner = "" if attributes is None else attributes[1:-1] + ","
    return f"{{{inner}{_CARRIER}{correction}}}"


def split_correction(text: str | None) -> tuple[str | None, str | None]:
    """Return (attributes, correction) of a journal text; the correction is None in nearly all."""
    if text is None or _CARRIER not in text:
        return text, None
    inner, _, correction = text[1:-1].rpartition(_CARRIER)
    return (f"{{{inner[:-1]}}}" if inner else None), correction
