"""Plans, and who is on which: plan versions, billing accounts, subscriptions, as the catalog files write them.

Enters: texts of the catalog files. Leaves: frozen models. A time is either a date, which means its midnight in the
plan's time zone, or an instant in UTC; the end of a subscription is open: `[from, to)`.
Refuses: unknown currencies and time zones, times without an offset, a price id that stands twice.
Source: DESIGN section 5; billing periods, price models sections 5.1 and 5.2.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, date, datetime, time
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from entitlements.features import Entitlement
from metering.catalog import CatalogModel, Place, Text, Whole, name_of, refuse, refuse_at, unique
from metering.periods import wall_to_instant
from rating.iso4217 import MINOR_UNITS
from rating.prices import Price

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
PlanName = Annotated[str, *name_of("plan")]
TenantName = Annotated[str, *name_of("tenant")]
AccountId = Annotated[str, *name_of("account")]
SubscriptionId = Annotated[str, *name_of("subscription")]
CatalogTime = Annotated[
    When, PlainValidator(_read_when), PlainSerializer(when_text, return_type=str, when_used="json"), _when_schema()
]
CatalogAnchor = Annotated[
    Anchor,
    PlainValidator(_read_anchor),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "description": "calendar, subscription or a date such as 2026-01-15"}),
]


class BillingPeriod(CatalogModel):
    """How long a billing period is and where it begins; always a wall time in the plan's time zone."""

    every: Literal["day", "week", "month", "quarter", "year"] = Field(default="month", description="its length")
    anchor: CatalogAnchor = Field(
        default="calendar", description="calendar (the 1st, Monday, 1 January), subscription (its start), or a date"
    )
    timezone: ZoneName = Field(default="UTC", description="an IANA time zone, such as Europe/Paris")


class Plan(CatalogModel):
    """One version of the terms of sale. It never changes once a subscription uses it: write version N+1 instead."""

    name: PlanName = Field(description="the name of the plan, the same for all its versions")
    version: Whole = Field(description="1, 2, 3 ...; terms that are in use stay, new terms get the next version")
    currency: Currency = Field(description="the currency of all its prices, such as USD")
    billing_period: BillingPeriod = Field(
        default_factory=BillingPeriod, description="how long, from where, in which zone"
    )
    prices: tuple[Price, ...] = Field(default=(), description="what is charged; none: the plan is free")
    entitlements: tuple[Entitlement, ...] = Field(default=(), description="what the tenant may use")
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @model_validator(mode="after")
    def _check_repeats(self) -> Self:
        mistakes: list[tuple[Place, str]] = []
        ids = [price.id for price in self.prices]
        features = [entitlement.feature for entitlement in self.entitlements]
        for at, price_id in enumerate(ids):
            if price_id in ids[:at]:
                mistakes.append((("prices", at, "id"), f"{price_id!r} is the id of two prices; rename one of them"))
        for at, feature in enumerate(features):
            if feature in features[:at]:
                mistakes.append(
                    (
                        ("entitlements", at, "feature"),
                        f"{feature!r} has two entitlements in this plan; keep one of them",
                    )
                )
        if mistakes:
            refuse(mistakes)
        return self


class Account(CatalogModel):
    """A billing account: who pays, for one tenant or many. A tenant belongs to one account only."""

    id: AccountId = Field(description="the stable identity of the account")
    name: Text = Field(description="the name on the invoice")
    currency: Currency | None = Field(default=None, description="if given, all its plans must be in this currency")
    tenants: Annotated[tuple[TenantName, ...], AfterValidator(unique)] = Field(
        default=(), description="the tenants it pays for"
    )


def _also_until(schema: dict[str, Any]) -> None:
    schema["properties"]["until"] = schema["properties"]["to"]


class Subscription(CatalogModel):
    """A tenant is on a plan version over `[starts_at, ends_at)`; in the files `from` and `to` (or `until`).

    It is ended by `to`, never deleted. Without `account` the account pays that lists the tenant.
    """

    model_config = ConfigDict(json_schema_extra=_also_until)

    id: SubscriptionId = Field(description="the stable identity of the subscription")
    tenant: TenantName = Field(description="who uses")
    plan: PlanName = Field(description="the name of the plan")
    version: Whole = Field(description="the version of the plan")
    starts_at: CatalogTime = Field(alias="from", description="the first instant, a date or an instant with offset")
    ends_at: CatalogTime | None = Field(
        default=None,
        validation_alias=AliasChoices("to", "until"),
        serialization_alias="to",
        description="the first instant after it (open end); left out, it goes on",
    )
    account: AccountId | None = Field(default=None, description="who pays, if not the account that lists the tenant")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        same_kind = type(self.starts_at) is type(self.ends_at)
        if self.ends_at is not None and same_kind and self.ends_at <= self.starts_at:
            refuse_at(
                "to",
                message=f"{when_text(self.ends_at)} is not after from, {when_text(self.starts_at)}; "
                "the end is open, so write the first day that no longer counts",
            )
        return self
