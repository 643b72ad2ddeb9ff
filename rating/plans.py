"""Plans, and who is on which: plan versions, billing accounts, subscriptions, as the catalog files write them.

Enters: texts of the catalog files. Leaves: frozen models. A time is either a date, which means its midnight in the
plan's time zone, or an instant in UTC; the end of a subscription is open: `[from, to)`.
Refuses: unknown currencies and time zones, times without an offset, a price id that stands twice.
Source: DESIGN section 5; billing periods, price models sections 5.1 and 5.2.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    model_validator,
)

from entitlements.features import Entitlement
from metering.catalog import (
    AttributeName,
    CatalogModel,
    Days,
    Place,
    Text,
    Whole,
    exact,
    name_of,
    refuse,
    refuse_at,
    unique,
)
from rating.adjust import APPROVAL, Commitment, Discount, Maximum, Minimum, check_adjustments, is_pot, repeated
from rating.catalog_times import CatalogAnchor, CatalogTime, Currency, When, ZoneName, instant_of, when_text
from rating.dialect import DialectName, Switches, ends_of, refusals
from rating.grants import EntitlementOverride
from rating.included_from import check_included
from rating.parties import AccountTax, Address, SellerId
from rating.prices import Price, PriceId, WhenChanged
from rating.proration import Basis, basis_misfit
from rating.thresholds import InvoiceThresholds
from rating.tiers import tiers_may_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Account",
    "AccountId",
    "BillingPeriod",
    "CatalogTime",
    "Currency",
    "Plan",
    "PlanName",
    "Subscription",
    "SubscriptionId",
    "TenantName",
    "When",
    "instant_of",
    "when_text",
]

PlanName = Annotated[str, *name_of("plan")]
TenantName = Annotated[str, *name_of("tenant")]
AccountId = Annotated[str, *name_of("account")]
SubscriptionId = Annotated[str, *name_of("subscription")]
Quantity = Annotated[Decimal, *exact(digits=12, places=9, minimum=Decimal(0))]


class BillingPeriod(CatalogModel):
    """How long a billing period is and where it begins; always a wall time in the plan's time zone."""

    every: Literal["day", "week", "month", "quarter", "year"] = Field(default="month", description="its length")
    anchor: CatalogAnchor = Field(
        default="calendar", description="calendar (the 1st, Monday, 1 January), subscription (its start), or a date"
    )
    timezone: ZoneName = Field(default="UTC", description="an IANA time zone, such as Europe/Paris")
    proration: Basis = Field(default="instants", description="how the share of a part of a period is counted")

    @model_validator(mode="after")
    def _check_basis(self) -> Self:
        if misfit := basis_misfit(self.proration, self.every):
            refuse_at("proration", message=misfit)
        return self


class Plan(CatalogModel):
    """One version of the terms of sale. It never changes once a subscription uses it: write version N+1 instead."""

    name: PlanName = Field(description="the name of the plan, the same for all its versions")
    version: Whole = Field(description="1, 2, 3 ...; terms that are in use stay, new terms get the next version")
    currency: Currency = Field(description="the currency of all its prices, such as USD")
    billing_period: BillingPeriod = Field(
        default_factory=BillingPeriod, description="how long, from where, in which zone"
    )
    prices: tuple[Price, ...] = Field(default=(), description="what is charged; none: the plan is free")
    discounts: tuple[Discount, ...] = Field(default=(), description="what every subscription to it is lowered by")
    commitments: tuple[Commitment, ...] = Field(default=(), description="promised amounts with a factor beyond them")
    maximums: tuple[Maximum, ...] = Field(default=(), description="the most that some or all prices cost together")
    minimums: tuple[Minimum, ...] = Field(default=(), description="the least that some or all prices cost together")
    entitlements: tuple[Entitlement, ...] = Field(default=(), description="what the tenant may use")
    tax_behavior: Literal["exclusive", "inclusive"] = Field(
        default="exclusive", description="whether a tax calculator adds tax to the prices, or finds it in them"
    )
    late_usage_days: Days | None = Field(
        default=None,
        description="usage recorded later than so many days after its billing period is not billed, but counted; none: "
        "always billed",
    )
    dialect: DialectName = Field(default="strict", description="whose answers to take where billing systems disagree")
    switches: dict[str, str] = Field(default_factory=dict, description="single answers that differ from the dialect's")
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @property
    def reading(self) -> Switches:
        """Return how the terms are read where billing systems disagree."""
        return Switches.of(self.dialect, self.switches)

    @property
    def proration(self) -> Basis:
        """Return how the share of a part of a period is counted: as the billing period says, else as the switch does."""
        said = self.billing_period.proration
        return cast("Basis", self.reading["proration_basis"]) if said == "instants" else said

    @property
    def minimum_proration(self) -> Basis:
        """Return how the share of what is owed at least is counted: by whole days where the switch says so."""
        return "days_inclusive" if self.reading["minimum_share"] == "whole_days" else self.proration

    @property
    def pots(self) -> tuple[Commitment, ...]:
        """Return its commitments that are one amount over several billing periods."""
        return tuple(one for one in self.commitments if is_pot(one))

    @model_validator(mode="wrap")
    @classmethod
    def _read_under_dialect(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        # Whether tiers may end is said by the plan, and asked while its prices are read.
        with tiers_may_end(ends_of(given)):
            return read(given)

    @model_validator(mode="after")
    def _check_dialect(self) -> Self:
        if mistakes := refusals(self.dialect, self.switches, self):
            refuse(mistakes)
        return self

    @model_validator(mode="after")
    def _check_repeats(self) -> Self:
        mistakes: list[tuple[Place, str]] = []
        ids = [price.id for price in self.prices]
        features = [entitlement.feature for entitlement in self.entitlements]
        summed = {price.id for price in self.prices if price.type == "percent_of"}
        for at, price in enumerate(self.prices):
            for place, named in enumerate(price.prices if price.type == "percent_of" else ()):
                if named not in ids or named in summed:
                    what = f"{named!r} is no other price of this plan with an amount of its own; name one that is"
                    mistakes.append((("prices", at, "prices", place), what))
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
        mistakes += check_included(self.prices, self.entitlements)
        mistakes += check_adjustments(
            ids,
            {
                "discounts": self.discounts,
                "commitments": self.commitments,
                "maximums": self.maximums,
                "minimums": self.minimums,
            },
            min_max_order=self.reading["min_max_order"],
        )
        for at, discount in enumerate(self.discounts):
            if discount.currency not in {None, self.currency}:
                what = f"the plan is in {self.currency}, so an amount in {discount.currency} would lower nothing"
                mistakes.append((("discounts", at, "currency"), f"{what}; write {self.currency} or leave it out"))
            if discount.plans:
                mistakes.append(
                    (("discounts", at, "plans"), "it stands in a plan and is limited to it; leave out plans")
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
    invoice_thresholds: InvoiceThresholds | None = Field(
        default=None, description="amounts at which the open period is invoiced early: {amounts: [50], every: 100}"
    )
    discounts: tuple[Discount, ...] = Field(default=(), description="what it gets off, over all its subscriptions")
    seller: SellerId | None = Field(default=None, description="who invoices it; needed where there are several sellers")
    address: Address | None = Field(default=None, description="where its invoices are addressed to")
    vat_id: Text | None = Field(default=None, description="the number under which it pays tax")
    email: Text | None = Field(default=None, description="who receives its invoices")
    purchase_order: Text | None = Field(default=None, description="its reference, printed on every invoice")
    payment_days: Days | None = Field(
        default=None, description="due so many days after issue; none: as the seller says"
    )
    taxes: tuple[AccountTax, ...] = Field(default=(), description="the taxes on its lines; none: no tax is worked out")
    tax_note: Text | None = Field(
        default=None, description="a sentence under the totals, such as one on reverse charge"
    )

    @model_validator(mode="after")
    def _check_discounts(self) -> Self:
        mistakes = repeated(self.discounts)
        for at, discount in enumerate(self.discounts):
            if discount.amount is not None and discount.currency is None and self.currency is None:
                what = "an account may pay in several currencies; write the currency of this amount"
                mistakes.append((("discounts", at, "currency"), what))
        if mistakes:
            refuse(mistakes)
        return self


class PlanChange(CatalogModel):
    """From an instant on a subscription is on another plan, on another version, or holds other numbers of units."""

    starts_at: CatalogTime = Field(alias="from", description="when it changes, a date or an instant with offset")
    plan: PlanName | None = Field(default=None, description="the name of the new plan; left out, the plan stays")
    version: Whole | None = Field(default=None, description="the version of the plan from then on")
    quantities: dict[AttributeName, Quantity] = Field(
        default_factory=dict, description="how many units it holds from then on, such as {seats: 8}; others stay"
    )
    takes_effect: WhenChanged = Field(
        default="at_once", description="of a plan: at once, or at the end of the billing period that is running"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.plan is not None and self.version is None:
            refuse_at("plan", message=f"write the version of plan {self.plan!r} too")
        if self.version is None and not self.quantities:
            refuse_at(message="nothing changes; write version, plan and version, or quantities")
        if self.quantities and self.takes_effect != "at_once":
            refuse_at("takes_effect", message="units wait where their price says when_fewer: period_end; leave it out")
        return self


def _mistaken_approval(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what an override says wrongly of who approved it and why."""
    for name in APPROVAL:
        if name in fields and not (isinstance(fields[name], str) and fields[name].strip()):
            yield name, "write a name" if name == "approved_by" else "write a sentence"
    if "approved_by" in fields and "reason" not in fields:
        yield "reason", f"{fields['approved_by']} approved it for a reason; write the reason"


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
    discounts: tuple[Discount, ...] = Field(default=(), description="what it is lowered by, such as a coupon")
    entitlements: tuple[EntitlementOverride, ...] = Field(
        default=(), description="entitlements in the place of the plan's, from when to when"
    )
    quantities: dict[AttributeName, Quantity] = Field(
        default_factory=dict, description="how many units it holds, such as {seats: 5}; see per_unit_of of a flat price"
    )
    changes: tuple[PlanChange, ...] = Field(
        default=(), description="other plans, versions or numbers of units, each from its time on"
    )
    overrides: dict[PriceId, dict[str, Any]] = Field(
        default_factory=dict, description="other terms for it alone: by price id the fields that differ"
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        mistakes = repeated(self.discounts)
        times = [self.starts_at, *(change.starts_at for change in self.changes)]
        for at, (before, later) in enumerate(pairwise(times)):
            if type(before) is type(later) and later <= before:
                what = f"{when_text(later)} is not after {when_text(before)}, which stands before it"
                mistakes.append((("changes", at, "from"), f"{what}; write changes in the order of time, after from"))
        for price_id, fields in self.overrides.items():
            if "id" in fields or not fields.keys() - set(APPROVAL):
                what = "write the fields of this price that differ, such as unit_price; its id stays"
                mistakes.append((("overrides", price_id), what))
            mistakes += [(("overrides", price_id, name), what) for name, what in _mistaken_approval(fields)]
        if mistakes:
            refuse(mistakes)
        same_kind = type(self.starts_at) is type(self.ends_at)
        if self.ends_at is not None and same_kind and self.ends_at <= self.starts_at:
            refuse_at(
                "to",
                message=f"{when_text(self.ends_at)} is not after from, {when_text(self.starts_at)}; "
                "the end is open, so write the first day that no longer counts",
            )
        return self
