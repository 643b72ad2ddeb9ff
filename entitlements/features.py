"""What a plan entitles a tenant to: features, switched on, configured or limited by a quota.

Enters: texts of the catalog files. Leaves: frozen `Feature` and `Entitlement`.
Refuses: keys that do not belong to the type of the entitlement, quotas that are not plain decimal numbers, values that
are not of their type, and a limit that is hard and lets everything through.

Two questions are kept apart. `overage` says what happens beyond the quota: it is allowed (and rated), or blocked. `limit`
says how sharply that is judged: a soft limit is as fresh as the last refresh of the view, a hard one is never exceeded.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from metering.catalog import (
    Boolean,
    CatalogModel,
    MeterName,
    Place,
    Text,
    exact,
    name_of,
    plain_decimal,
    refuse,
)

if TYPE_CHECKING:
    from entitlements.decisions import Value

FeatureName = Annotated[str, *name_of("feature")]
Quota = Annotated[Decimal, *exact(digits=29, places=9, minimum=Decimal(0))]
Reset = Literal["billing_period", "never", "day", "week", "month", "quarter", "year"]
Overage = Literal["allowed", "blocked"]
Limit = Literal["soft", "hard"]
OnOutage = Literal["open", "closed"]
ValueType = Literal["boolean", "integer", "decimal", "text"]

PRIORITY_MAX = 1000
# Between what is given first (0) and what is kept for last (1000). A quota burns before what was bought on top of it: a
# reset makes it full again anyway.
QUOTA_PRIORITY_DEFAULT = 50
PRIORITY_DEFAULT = 100

_QUOTA_KEYS = (
    "quota", "reset", "reset_anchor", "overage", "limit", "priority", "rollover_min", "rollover_max", "keep_overage",
)  # fmt: skip
# Which keys an entitlement of a type may have beside `feature` and `type`.
_KEYS = {
    "boolean": frozenset({"enabled", "on_outage"}),
    "static": frozenset({"value", "value_type", "on_outage"}),
    "metered": frozenset({"meter", "on_outage", *_QUOTA_KEYS}),
}


def _read_priority(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or int(text) > PRIORITY_MAX:
        raise ValueError(
            f"{text[:20]!r} is not a priority; write a whole number from 0 to {PRIORITY_MAX}, 0 burns first"
        )
    return int(text)


Priority = Annotated[int, BeforeValidator(_read_priority)]


class Feature(CatalogModel):
    """Something that plans may entitle to. Declaring features is optional; once one is declared, all used must be."""

    name: FeatureName = Field(description="the name that entitlements refer to")
    description: Text | None = Field(default=None, description="a sentence for the reader")


class Entitlement(CatalogModel):
    """The right to use a feature: `boolean` (has it), `static` (a configured value) or `metered` (a quota).

    `quota` is in units of the meter per `reset`; left out, the use is metered and unlimited. `reset` and `overage` are
    set for metered entitlements only (billing_period; allowed, or blocked where the limit is hard, unless said otherwise).
    """

    feature: FeatureName = Field(description="the feature that may be used")
    type: Literal["boolean", "static", "metered"] = Field(description="boolean, static or metered")
    enabled: Boolean | None = Field(default=None, description="boolean only: false takes the feature away")
    value: Text | None = Field(default=None, description="static only: the configured value, as text")
    value_type: ValueType | None = Field(default=None, description="static only: what the value is; text unless said")
    meter: MeterName | None = Field(default=None, description="metered only: the meter whose usage draws on the quota")
    quota: Quota | None = Field(default=None, description="metered only: units per reset; left out, unlimited")
    reset: Reset | None = Field(default=None, description="metered only: when the quota starts anew")
    reset_anchor: Literal["calendar", "subscription"] | None = Field(
        default=None, description="metered only: whether day to year follow the calendar or the subscription's start"
    )
    overage: Overage | None = Field(default=None, description="metered only: what happens beyond the quota")
    limit: Limit | None = Field(default=None, description="metered only: soft (as fresh as the view) or hard (leases)")
    priority: Priority | None = Field(
        default=None, description="metered only: 0 to 1000, lower burns first; 50 unless said"
    )
    rollover_min: Quota | None = Field(
        default=None, description="metered only: the least that a reset leaves of the quota"
    )
    rollover_max: Quota | None = Field(
        default=None, description="metered only: the most that a reset leaves of the quota"
    )
    keep_overage: Boolean | None = Field(
        default=None, description="metered only: whether what was over-used is taken from the next quota"
    )
    on_outage: OnOutage | None = Field(
        default=None, description="what a check answers when nothing fresh is known: open lets it through"
    )

    @property
    def is_hard(self) -> bool:
        return self.limit == "hard"

    @property
    def stops(self) -> bool:
        """Return whether use beyond the quota is refused."""
        return self.overage == "blocked"

    @property
    def opens_on_outage(self) -> bool:
        """Return what is answered while nothing fresh is known; a limit that is not to be exceeded stays shut."""
        return not self.is_hard if self.on_outage is None else self.on_outage == "open"

    @property
    def typed_value(self) -> Value | None:
        """Return the static value as what it is declared to be."""
        return None if self.value is None else read_value(self.value, self.value_type or "text")

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        allowed = _KEYS[self.type]
        mistakes: list[tuple[Place, str]] = [
            ((key,), f"a {self.type} entitlement has no {key}; remove it or change the type")
            for key in ("enabled", "value", "value_type", "meter", *_QUOTA_KEYS)
            if key not in allowed and getattr(self, key) is not None
        ]
        if self.type == "static":
            mistakes += _mistakes_of_value(self.value, self.value_type or "text")
        if self.type == "metered":
            mistakes += self._mistakes_of_quota()
        if mistakes:
            refuse(mistakes)
        if self.type == "metered":
            self.__dict__["reset"] = self.reset or "billing_period"
            self.__dict__["overage"] = self.overage or ("blocked" if self.is_hard else "allowed")
        return self

    def _mistakes_of_quota(self) -> list[tuple[Place, str]]:
        mistakes: list[tuple[Place, str]] = []
        if self.meter is None:
            mistakes.append(((), "a metered entitlement needs its meter; write meter: <name of a meter>"))
        if self.quota is None:
            mistakes += [
                ((key,), f"without a quota the use is unlimited and {key} says nothing; write a quota or remove it")
                for key in ("limit", "priority", "rollover_min", "rollover_max", "keep_overage")
                if getattr(self, key) is not None
            ]
        if self.is_hard and self.overage == "allowed":
            mistakes.append(
                (("overage",), "a hard limit lets nothing through beyond it; write blocked, or limit: soft")
            )
        low, high = self.rollover_min, self.rollover_max
        if low is not None and high is not None and low > high:
            mistakes.append((("rollover_min",), f"{low} is more than rollover_max, {high}; write a smaller number"))
        elif low is not None and high is None:
            mistakes.append(
                (("rollover_min",), "there is no rollover_max to go with it; write the most that may be left")
            )
        if self.reset_anchor is not None and self.reset in {None, "billing_period", "never"}:
            what = (
                "only day, week, month, quarter and year have an anchor of their own; remove it or write reset: month"
            )
            mistakes.append((("reset_anchor",), what))
        return mistakes


def read_value(text: str, value_type: ValueType) -> Value:
    """Return the value that a text writes. Raises ValueError where it does not write one of that type."""
    if value_type == "text":
        return text
    if value_type == "boolean":
        if text not in {"true", "false"}:
            raise ValueError(f"{text!r} is not a boolean; write true or false")
        return text == "true"
    number = plain_decimal(text, digits=29, places=9)
    if value_type == "decimal":
        return number
    if number != number.to_integral_value():
        raise ValueError(f"{text} is not a whole number; write value_type: decimal, or a whole number")
    return int(number)


def _mistakes_of_value(text: str | None, value_type: ValueType) -> list[tuple[Place, Any]]:
    if text is None:
        return [((), "a static entitlement needs its value; write value: <text>")]
    try:
        read_value(text, value_type)
    except ValueError as refused:
        return [(("value",), str(refused))]
    return []
