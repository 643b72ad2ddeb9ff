"""What a plan entitles a tenant to: features, switched on, configured or limited by a quota.

Enters: texts of the catalog files. Leaves: frozen `Feature` and `Entitlement`.
Refuses: keys that do not belong to the type of the entitlement, and quotas that are not plain decimal numbers.
This release keeps the catalogue of entitlements; it does not answer checks yet.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from metering.catalog import CatalogModel, MeterName, Place, Text, exact, name_of, refuse

FeatureName = Annotated[str, *name_of("feature")]
Quota = Annotated[Decimal, *exact(digits=29, places=9, minimum=Decimal(0))]
Reset = Literal["billing_period", "never", "day", "week", "month", "year"]
Overage = Literal["allowed", "blocked"]

# Which keys an entitlement of a type may have beside `feature` and `type`.
_KEYS = {
    "boolean": frozenset[str](),
    "static": frozenset({"value"}),
    "metered": frozenset({"meter", "quota", "reset", "overage"}),
}


class Feature(CatalogModel):
    """Something that plans may entitle to. Declaring features is optional; once one is declared, all used must be."""

    name: FeatureName = Field(description="the name that entitlements refer to")
    description: Text | None = Field(default=None, description="a sentence for the reader")


class Entitlement(CatalogModel):
    """The right to use a feature: `boolean` (has it), `static` (a configured value) or `metered` (a quota).

    `quota` is in units of the meter per `reset`; left out, the use is metered and unlimited. `reset` and `overage` are
    set for metered entitlements only (billing_period and allowed, unless said otherwise).
    """

    feature: FeatureName = Field(description="the feature that may be used")
    type: Literal["boolean", "static", "metered"] = Field(description="boolean, static or metered")
    value: Text | None = Field(default=None, description="static only: the configured value, as text")
    meter: MeterName | None = Field(default=None, description="metered only: the meter whose usage draws on the quota")
    quota: Quota | None = Field(default=None, description="metered only: units per reset; left out, unlimited")
    reset: Reset | None = Field(default=None, description="metered only: when the quota starts anew")
    overage: Overage | None = Field(default=None, description="metered only: what happens beyond the quota")

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        allowed = _KEYS[self.type]
        mistakes: list[tuple[Place, str]] = [
            ((key,), f"a {self.type} entitlement has no {key}; remove it or change the type")
            for key in ("value", "meter", "quota", "reset", "overage")
            if key not in allowed and getattr(self, key) is not None
        ]
        if self.type == "static" and self.value is None:
            mistakes.append(((), "a static entitlement needs its value; write value: <text>"))
        if self.type == "metered" and self.meter is None:
            mistakes.append(((), "a metered entitlement needs its meter; write meter: <name of a meter>"))
        if mistakes:
            refuse(mistakes)
        if self.type == "metered":
            self.__dict__["reset"] = self.reset or "billing_period"
            self.__dict__["overage"] = self.overage or "allowed"
        return self
