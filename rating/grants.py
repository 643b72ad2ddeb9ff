"""What a tenant is entitled to beyond its plan: overrides of a subscription, and grants such as top-ups and add-ons.

Enters: texts of the catalog files. Leaves: frozen models. A date of an override is midnight in the time zone of the plan,
that of a grant midnight UTC. Both are ended by a time, never deleted.
Refuses: ends before beginnings, and a recurrence that would never come round.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from entitlements.contracts import Contract
from entitlements.features import PRIORITY_DEFAULT, Entitlement, FeatureName, Priority, Quota
from metering.catalog import CatalogModel, MeterName, Text, exact, name_of, refuse_at
from metering.periods import BillingCycle
from rating.catalog_times import CatalogTime, instant_of, when_text


class EntitlementOverride(Entitlement):
    """An entitlement of one subscription, over [from, to), in the place of its plan's for the same feature."""

    starts_at: CatalogTime | None = Field(
        default=None, alias="from", description="from when on; else as long as it runs"
    )
    ends_at: CatalogTime | None = Field(
        default=None,
        validation_alias=AliasChoices("to", "until"),
        serialization_alias="to",
        description="the first instant after it (open end)",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        start, end = self.starts_at, self.ends_at
        if start is not None and end is not None and type(start) is type(end) and end <= start:
            refuse_at("to", message=f"{when_text(end)} is not after from, {when_text(start)}; write a later end")
        return self


class TenantGrant(CatalogModel):
    """An amount of use for one tenant and feature: a top-up, an add-on, a gift. It is ended or voided, never deleted.

    What a reset of the quota leaves of it is min(rollover_max, max(rollover_min, balance)). Left out, all that is left of
    a grant that was given once stays until it expires, and nothing of one that recurs.
    """

    id: Annotated[str, *name_of("grant")] = Field(description="the stable identity of the grant")
    tenant: Annotated[str, *name_of("tenant")] = Field(description="who may use it")
    feature: FeatureName = Field(description="the metered feature that it adds to")
    amount: Annotated[Decimal, *exact(digits=29, places=9, above=Decimal(0))] = Field(
        description="how much, in units of the feature's meter"
    )
    priority: Priority = Field(default=PRIORITY_DEFAULT, description="0 to 1000, lower burns first")
    effective: CatalogTime = Field(description="from when on it can be used; a date is midnight UTC")
    expires: CatalogTime | None = Field(default=None, description="the first instant at which what is left is gone")
    voided: CatalogTime | None = Field(
        default=None, description="when it was taken back: what is left is gone, what was burned before stays burned"
    )
    recurs: Literal["day", "week", "month", "quarter", "year"] | None = Field(
        default=None, description="how often it becomes full again, counted from `effective`"
    )
    rollover_min: Quota | None = Field(default=None, description="the least that a reset leaves")
    rollover_max: Quota | None = Field(default=None, description="the most that a reset leaves")
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @property
    def starts_at(self) -> datetime:
        return instant_of(self.effective, "UTC")

    @property
    def ends_at(self) -> datetime | None:
        return None if self.expires is None else instant_of(self.expires, "UTC")

    @property
    def voided_at(self) -> datetime | None:
        return None if self.voided is None else instant_of(self.voided, "UTC")

    @property
    def recurrence(self) -> BillingCycle | None:
        """Return when it becomes full again: every day, month, year after it became effective."""
        return (
            None
            if self.recurs is None
            else BillingCycle(self.recurs, self.starts_at.astimezone(UTC).replace(tzinfo=None))
        )

    @property
    def left_at_most(self) -> Decimal:
        """Return the most that a reset leaves of it."""
        if self.rollover_max is not None:
            return self.rollover_max
        return self.amount if self.recurs is None else Decimal(0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ends_at is not None and self.ends_at <= self.starts_at:
            refuse_at("expires", message="it expires before it is effective; write a later time")
        if self.rollover_min is not None and self.rollover_min > self.left_at_most:
            refuse_at("rollover_min", message="it is more than rollover_max; write a smaller number, or a rollover_max")
        return self


class ProviderContract(CatalogModel):
    """What a provider, such as AWS Marketplace, sold of one dimension with a licence, over a term [from, to)."""

    id: Annotated[str, *name_of("contract")] = Field(description="the stable identity of the contract")
    tenant: Annotated[str, *name_of("tenant")] = Field(description="who may use it")
    licence: Annotated[str, *name_of("licence")] = Field(description="the provider's name of the licence")
    dimension: Annotated[str, *name_of("dimension")] = Field(description="the provider's name of what is counted")
    meter: MeterName = Field(description="the meter whose usage counts for the dimension")
    included: Quota = Field(description="units that the contract includes over its whole term")
    starts_at: CatalogTime = Field(alias="from", description="when the term begins; a date is midnight UTC")
    ends_at: CatalogTime | None = Field(
        default=None,
        validation_alias=AliasChoices("to", "until"),
        serialization_alias="to",
        description="the first instant after the term",
    )
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @property
    def contract(self) -> Contract:
        """Return it as what usage is netted against."""
        ends_at = None if self.ends_at is None else instant_of(self.ends_at, "UTC")
        return Contract(self.licence, self.dimension, instant_of(self.starts_at, "UTC"), ends_at, self.included)

    @model_validator(mode="after")
    def _check_term(self) -> Self:
        contract = self.contract
        if contract.ends_at is not None and contract.ends_at <= contract.starts_at:
            refuse_at("to", message="the term is over before it begins; write a later end")
        return self
