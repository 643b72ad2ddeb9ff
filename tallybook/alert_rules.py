"""What somebody wants to hear of: a threshold of a quota, of units or of money, for all tenants or for some.

Enters: texts of the catalog files. Leaves: a frozen `AlertRule`. It is no term of sale: it may be changed and
removed at any time.
Refuses: a rule with no threshold or with several, and one that says neither feature nor money.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from entitlements.alerts import Threshold
from entitlements.features import FeatureName
from metering.catalog import CatalogModel, Text, exact, name_of, refuse_at
from rating.catalog_times import Currency

Positive = Annotated[Decimal, *exact(digits=29, places=9, above=Decimal(0))]


class AlertRule(CatalogModel):
    """One threshold: `percent` of the quota or `quantity` of a metered feature, or `amount` of a billing period.

    Reached means at or above it; raised once per tenant and window: between two resets, or a billing period.
    """

    id: Annotated[str, *name_of("alert")] = Field(description="the stable identity of the rule")
    feature: FeatureName | None = Field(default=None, description="the metered feature; none for an amount")
    tenants: tuple[Annotated[str, *name_of("tenant")], ...] = Field(default=(), description="whose; none: everybody's")
    percent: Positive | None = Field(
        default=None, description="of what there was since the last reset; may be over 100"
    )
    quantity: Positive | None = Field(default=None, description="units of the feature's meter since the last reset")
    amount: Positive | None = Field(default=None, description="money that the open billing period is worth so far")
    currency: Currency | None = Field(default=None, description="of the amount")
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @property
    def threshold(self) -> Threshold:
        """Return what is to be reached."""
        if self.percent is not None:
            return Threshold("percent", self.percent)
        if self.quantity is not None:
            return Threshold("quantity", self.quantity)
        return Threshold("amount", self.amount or Decimal(0), self.currency)

    def is_for(self, tenant: str) -> bool:
        """Return whether it looks at this tenant."""
        return not self.tenants or tenant in self.tenants

    @model_validator(mode="after")
    def _check(self) -> Self:
        said = [name for name in ("percent", "quantity", "amount") if getattr(self, name) is not None]
        if len(said) != 1:
            refuse_at(message="an alert has one threshold; write one of percent, quantity and amount")
        if said == ["amount"]:
            if self.feature is not None:
                refuse_at("feature", message="an amount is of the whole billing period; remove the feature")
            if self.currency is None:
                refuse_at("amount", message="an amount has a currency; write currency: USD, or what it is in")
        else:
            if self.feature is None:
                refuse_at(said[0], message=f"{said[0]} of what? write feature: <name of a metered feature>")
            if self.currency is not None:
                refuse_at("currency", message=f"a {said[0]} has no currency; remove it")
        return self
