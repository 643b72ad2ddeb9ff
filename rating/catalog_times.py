"""Times, zones, anchors and currencies as the catalog files write them.

Enters: texts. Leaves: dates and instants in UTC, names of zones and currencies that exist. A date means its midnight in
the time zone of a plan; which plan is known only later, so both kinds of time stay apart until `instant_of`.
Refuses: times without an offset, unknown zones and currencies, years in which no usage event can lie.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, date, datetime, time
from functools import cache
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

from metering.periods import wall_to_instant
from rating.iso4217 import MINOR_UNITS

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
# Zones that mean something else on every machine, or nothing at all.
_ZONES_REFUSED = frozenset({"localtime", "Factory", "posixrules"})

# Usage events have times in these years; a subscription outside them would never see one.
_YEAR_MIN, _YEAR_MAX = 1970, 2199

When = date | datetime
Anchor = Literal["calendar", "subscription"] | date


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - _ZONES_REFUSED)


def _read_zone(value: object) -> str:
    if not isinstance(value, str) or value not in _zone_names():
        raise ValueError(f"{value!r} is not a time zone; write an IANA name such as UTC or Europe/Paris")
    return value


def _read_currency(value: object) -> str:
    if not isinstance(value, str) or value not in MINOR_UNITS:
        raise ValueError(f"{value!r} is not a currency of ISO 4217; write its three capitals, such as USD or EUR")
    return value


def _read_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is not a day of the calendar; write YYYY-MM-DD") from None


def _read_anchor(value: object) -> Anchor:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if value == "calendar" or value == "subscription":  # noqa: PLR1714 (narrows the type)
        return value
    if isinstance(value, str) and _DATE.fullmatch(value) and value.isascii():
        return _read_date(value)
    raise ValueError(f"{value!r} is not an anchor; write calendar, subscription or a date such as 2026-01-15")


def _read_when(value: object) -> When:
    when = _parse_when(value)
    if not _YEAR_MIN <= when.year <= _YEAR_MAX:
        raise ValueError(f"{value} is not in {_YEAR_MIN} to {_YEAR_MAX}; correct the year")
    return when


def _parse_when(value: object) -> When:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and value.isascii() and _DATE.fullmatch(value):
        return _read_date(value)
    if isinstance(value, str) and value.isascii() and _INSTANT.fullmatch(value):
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(f"{value} is not an instant of the calendar; correct the date, time or offset") from None
    raise ValueError(
        f"{str(value)[:60]!r} is not a time; write a date such as 2026-01-01 (midnight in the plan's time zone) "
        "or an instant with its offset such as 2026-01-01T09:00:00+01:00"
    )


def when_text(when: When) -> str:
    """Return a date as 2026-01-01 and an instant as 2026-01-01T00:00:00Z, as a catalog file may write it."""
    if isinstance(when, datetime):
        return when.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    return when.isoformat()


def instant_of(when: When, zone: str) -> datetime:
    """Return the UTC instant that a date (its midnight in `zone`) or an instant means.

    A midnight that the clocks skip is the first instant after the gap, a repeated one its first occurrence
    (price models section 5.2).
    """
    if isinstance(when, datetime):
        return when.astimezone(UTC)
    return wall_to_instant(datetime.combine(when, time()), zone)


def _when_schema(*words: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "description": " or ".join((*words, "2026-01-01", "2026-01-01T09:00:00Z"))}
    )


ZoneName = Annotated[str, BeforeValidator(_read_zone)]
Currency = Annotated[str, BeforeValidator(_read_currency), WithJsonSchema({"enum": sorted(MINOR_UNITS)})]
CatalogTime = Annotated[
    When, PlainValidator(_read_when), PlainSerializer(when_text, return_type=str, when_used="json"), _when_schema()
]
CatalogAnchor = Annotated[
    Anchor,
    PlainValidator(_read_anchor),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "description": "calendar, subscription or a date such as 2026-01-15"}),
]
