"""The catalog as one value: what is metered and sold, to whom, and what they hold beside it, each with its place in the files.

Enters: models of the packages below. Leaves: a frozen `Catalog`, sorted, so that the same files in any order are equal.
Refuses nothing: what is in a Catalog has passed `load_catalog`, or was read from the books.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

from billing_adapters.ledger_accounts import LedgerAccount
from entitlements.features import Feature
from metering.catalog import CatalogModel, Meter
from rating.balances import Balance
from rating.grants import ProviderContract, TenantGrant
from rating.parties import Seller
from rating.plans import Account, Plan, Subscription
from rating.spans import plan_key
from rating.terms import Terms
from tallybook.alert_rules import AlertRule

# The lists of a catalog file, the kind that the books call one entry of it, and its model.
MODELS: Mapping[str, tuple[str, type[CatalogModel]]] = MappingProxyType(
    {
        "meters": ("meter", Meter),
        "features": ("feature", Feature),
        "plans": ("plan", Plan),
        "accounts": ("account", Account),
        "subscriptions": ("subscription", Subscription),
        "balances": ("balance", Balance),
        "grants": ("grant", TenantGrant),
        "contracts": ("contract", ProviderContract),
        "alerts": ("alert", AlertRule),
        "sellers": ("seller", Seller),
        "ledger_accounts": ("ledger account", LedgerAccount),
    }
)
MODEL_BY_KIND: Mapping[str, type[CatalogModel]] = MappingProxyType(dict(MODELS.values()))


@dataclass(frozen=True, slots=True)
class Source:
    """Where an entry stands: the file, the line it begins in (from 1), and its path in the file, such as `plans[0]`."""

    file: str
    line: int
    path: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that is for sale and to whom. `revision` is the number under which the books hold it, None if from files.

    `sources` and `revision` take no part in equality: two catalogs are equal when they say the same.
    """

    meters: tuple[Meter, ...] = ()
    features: tuple[Feature, ...] = ()
    plans: tuple[Plan, ...] = ()
    accounts: tuple[Account, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    balances: tuple[Balance, ...] = ()
    grants: tuple[TenantGrant, ...] = ()
    contracts: tuple[ProviderContract, ...] = ()
    alerts: tuple[AlertRule, ...] = ()
    sellers: tuple[Seller, ...] = ()
    ledger_accounts: tuple[LedgerAccount, ...] = ()
    sources: Mapping[tuple[str, str], Source] = field(default_factory=dict, compare=False, repr=False)
    revision: int | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        models: Iterable[CatalogModel],
        *,
        sources: Mapping[tuple[str, str], Source] | None = None,
        revision: int | None = None,
    ) -> Catalog:
        """Return the catalog of these entries, each list sorted by its key (plans by name and version)."""
        all_ = list(models)
        return cls(
            meters=tuple(sorted((one for one in all_ if isinstance(one, Meter)), key=lambda one: one.name)),
            features=tuple(sorted((one for one in all_ if isinstance(one, Feature)), key=lambda one: one.name)),
            plans=tuple(
                sorted((one for one in all_ if isinstance(one, Plan)), key=lambda one: (one.name, one.version))
            ),
            accounts=tuple(sorted((one for one in all_ if isinstance(one, Account)), key=lambda one: one.id)),
            subscriptions=tuple(sorted((one for one in all_ if isinstance(one, Subscription)), key=lambda one: one.id)),
            balances=tuple(sorted((one for one in all_ if isinstance(one, Balance)), key=lambda one: one.id)),
            grants=tuple(sorted((one for one in all_ if isinstance(one, TenantGrant)), key=lambda one: one.id)),
            contracts=tuple(sorted((one for one in all_ if isinstance(one, ProviderContract)), key=lambda one: one.id)),
            alerts=tuple(sorted((one for one in all_ if isinstance(one, AlertRule)), key=lambda one: one.id)),
            sellers=tuple(sorted((one for one in all_ if isinstance(one, Seller)), key=lambda one: one.id)),
            ledger_accounts=tuple(
                sorted((one for one in all_ if isinstance(one, LedgerAccount)), key=lambda one: one.id)
            ),
            sources=MappingProxyType(dict(sources or {})),
            revision=revision,
        )

    def terms(self) -> Terms:
        """Return its terms of sale, laid out for rating and entitlements."""
        return Terms.of(self.meters, self.plans, self.accounts, self.subscriptions, self.balances, self.grants)

    def entries(self) -> dict[tuple[str, str], CatalogModel]:
        """Return every entry by (kind, key), in the order of the lists."""
        lists = cast(
            "tuple[tuple[CatalogModel, ...], ...]",
            (
                self.meters,
                self.features,
                self.plans,
                self.accounts,
                self.subscriptions,
                self.balances,
                self.grants,
                self.contracts,
                self.alerts,
                self.sellers,
                self.ledger_accounts,
            ),
        )
        return {entry_key(model): model for models in lists for model in models}


def entry_key(model: CatalogModel) -> tuple[str, str]:
    """Return (kind, key) of an entry: a plan version is `("plan", "pro/3")`."""
    match model:
        case Meter():
            return "meter", model.name
        case Feature():
            return "feature", model.name
        case Plan():
            return "plan", plan_key(model.name, model.version)
        case Seller():
            return "seller", model.id
        case LedgerAccount():
            return "ledger account", model.id
        case Account():
            return "account", model.id
        case Subscription():
            return "subscription", model.id
        case Balance():
            return "balance", model.id
        case TenantGrant():
            return "grant", model.id
        case ProviderContract():
            return "contract", model.id
        case AlertRule():
            return "alert", model.id
        case _:
            raise TypeError(f"{type(model).__name__} is no entry of a catalog")
