"""What no entry of the catalog can know alone: that names are declared, that a tenant has one payer, that terms fit.

Enters: entries with their places. Leaves: mistakes, each at the line to change.
Refuses: names that stand twice, references to nothing, two payers for one tenant, the same plan twice at one time.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from billing_adapters.ledger_accounts import LIMITS, LedgerAccount
from entitlements.contracts import licence_tail
from entitlements.features import Entitlement, Feature
from metering.catalog import CatalogModel, Meter, Mistake, Place
from metering.measures import PLAIN
from rating.adjust import Discount
from rating.balances import Balance
from rating.dialect import Switches
from rating.grants import ProviderContract, TenantGrant
from rating.parties import Seller
from rating.phases import plan_keys_of
from rating.plans import Account, Plan, Subscription, instant_of, when_text
from rating.price_meters import find_misfits
from rating.prices import Price
from rating.spans import plan_key
from tallybook.alert_rules import AlertRule
from tallybook.catalog_entries import entry_key
from tallybook.catalog_phases import Stretch, check_over_time, stretches_of
from tallybook.catalog_sentences import locate, nearest
from tallybook.yaml_nodes import Node


@dataclass(frozen=True, slots=True)
class Entry:
    """One valid entry and where it stands."""

    model: CatalogModel
    node: Node
    file: str
    path: str

    def mistake(self, message: str, *place: str | int) -> Mistake:
        line, full = locate(self.node, place, self.path)
        return Mistake(self.file, line, full, message)


def check_together(entries: Sequence[Entry], unread: Set[str] = frozenset()) -> list[Mistake]:
    """Return every mistake between entries that are each right by themselves.

    `unread` are the kinds of which not every entry could be read: that one of them is missing is not said then, because
    it may stand where the mistake is.
    """
    first: dict[tuple[str, str], Entry] = {}
    mistakes: list[Mistake] = []
    for entry in entries:
        kind, key = entry_key(entry.model)
        if (kind, key) in first:
            other = first[kind, key]
            what = f"{kind} {key!r} is already declared in {other.file}:{other.node.line}; rename or remove one"
            mistakes.append(entry.mistake(what, "name" if isinstance(entry.model, Meter | Feature | Plan) else "id"))
        else:
            first[kind, key] = entry
    known = _Known(first.values(), unread)
    for entry in first.values():
        mistakes.extend(known.check(entry))
    mistakes.extend(known.check_overlaps())
    mistakes.extend(_overlapping_contracts(first.values()))
    mistakes.extend(_repeated_ledger_accounts(first.values()))
    return mistakes


def _adds_up(meter: Meter) -> bool:
    """Return whether each event adds to the usage of a period, so that parts of a quota can be handed out."""
    return meter.aggregation in {"sum", "count"} and meter.measure == PLAIN


def _not_spent_in_parts(meter: Meter) -> str | None:
    """Return why what is consumed of a meter is not what it will have metered, event by event; None: it is."""
    if not _adds_up(meter):
        return f"the use of {meter.name!r} does not add up"
    if meter.expression is not None and meter.aggregation != "count":
        return f"the quantity of {meter.name!r} is worked out when an event comes to the lake"
    return None


def _overlapping_contracts(entries: Iterable[Entry]) -> Iterator[Mistake]:
    """Of one licence and dimension one contract holds at a time."""
    held: dict[tuple[str, str], list[tuple[Entry, ProviderContract]]] = {}
    for entry in entries:
        if isinstance(entry.model, ProviderContract):
            key = licence_tail(entry.model.licence), entry.model.dimension
            held.setdefault(key, []).append((entry, entry.model))
    for found in held.values():
        found.sort(key=lambda one: one[1].contract.starts_at)
        for (_, first), (entry, second) in pairwise(found):
            ends_at = first.contract.ends_at
            if ends_at is None or second.contract.starts_at < ends_at:
                yield entry.mistake(f"contract {first.id!r} includes the same dimension at this time; end it", "from")


def _repeated_ledger_accounts(entries: Iterable[Entry]) -> Iterator[Mistake]:
    """Of two accounts for the very same amounts nobody could say which one is meant."""
    first: dict[tuple[str | None, ...], str] = {}
    for entry in entries:
        if isinstance(entry.model, LedgerAccount):
            key = (entry.model.role, *(getattr(entry.model, name) for name in LIMITS))
            other = first.setdefault(key, entry.model.id)
            if other != entry.model.id:
                what = f"{other!r} is for the very same amounts; limit one of them further, or remove one"
                yield entry.mistake(what, "id")


class _Known:
    """What the entries may refer to, by name."""

    def __init__(self, entries: Iterable[Entry], unread: Set[str]) -> None:
        self.unread = unread
        all_ = list(entries)
        models = [entry.model for entry in all_]
        self.meters = {one.name: one for one in models if isinstance(one, Meter)}
        self.features = {one.name for one in models if isinstance(one, Feature)}
        self.plans = {plan_key(one.name, one.version): one for one in models if isinstance(one, Plan)}
        self.accounts = {one.id: one for one in models if isinstance(one, Account)}
        self.sellers = sorted(one.id for one in models if isinstance(one, Seller))
        self.subscriptions = [(entry, entry.model) for entry in all_ if isinstance(entry.model, Subscription)]
        self.payers: dict[str, Account] = {}
        for account in self.accounts.values():
            for tenant in account.tenants:
                self.payers.setdefault(tenant, account)

    def check(self, entry: Entry) -> Iterable[Mistake]:
        """Return what is wrong between this entry and the others."""
        match entry.model:
            case Plan() as plan:
                return self.check_plan(entry, plan)
            case Account() as account:
                return self.check_account(entry, account)
            case TenantGrant() as grant:
                return self.check_grant(entry, grant)
            case ProviderContract() as contract:
                return self.check_contract(entry, contract)
            case AlertRule() as rule:
                return self.check_alert(entry, rule)
            case LedgerAccount() as ledger_account:
                return self.check_ledger_account(entry, ledger_account)
            case Balance() as balance:
                return self.check_balance(entry, balance)
            case Subscription() as subscription:
                return self.check_subscription(entry, subscription)
            case _:
                return ()

    def check_plan(self, entry: Entry, plan: Plan) -> Iterator[Mistake]:
        for at, price in enumerate(plan.prices):
            yield from self._check_price(entry, price, ("prices", at), plan.reading)
        yield from self._check_entitlements(entry, plan.entitlements)

    def _check_entitlements(self, entry: Entry, entitlements: Sequence[Entitlement]) -> Iterator[Mistake]:
        for at, entitlement in enumerate(entitlements):
            if entitlement.meter is not None and self._is_missing("meter", entitlement.meter, self.meters):
                yield self._no_meter(entry, entitlement.meter, "entitlements", at, "meter")
            meter = self.meters.get(entitlement.meter or "")
            if entitlement.is_hard and meter is not None and (why := _not_spent_in_parts(meter)):
                what = f"a hard limit is spent in parts, and {why}; write limit: soft"
                yield entry.mistake(what, "entitlements", at, "limit")
            # Declaring features is optional; once there is a list, a name that is not in it is a slip of the pen.
            if self.features and self._is_missing("feature", entitlement.feature, self.features):
                hint = nearest(entitlement.feature, sorted(self.features))
                what = f"feature {entitlement.feature!r} is not declared under features; declare it there, or {hint}"
                yield entry.mistake(what, "entitlements", at, "feature")

    def _check_price(self, entry: Entry, price: Price, place: Place, switches: Switches) -> Iterator[Mistake]:
        if price.meter is None:
            return
        if price.meter not in self.meters:
            if "meter" not in self.unread:
                yield self._no_meter(entry, price.meter, *place, "meter")
            return
        for at, what in find_misfits(price, self.meters[price.meter], switches):
            yield entry.mistake(what, *place, *at)
        for number, name in enumerate(price.meters_read[1:], start=1):
            where: Place = ("meters", number) if price.type == "capacity" else ("combine", "meter")
            if name in self.meters:
                for _, what in find_misfits(price, self.meters[name], switches):
                    yield entry.mistake(what, *place, *where)
            elif "meter" not in self.unread:
                yield self._no_meter(entry, name, *place, *where)
        declared = self.meters[price.meter].attributes
        if not declared:
            return
        asked: list[tuple[Place, str]] = [((*place, "where", name), name) for name in price.where]
        asked += [((*place, "by", at), name) for at, name in enumerate(price.by)]
        asked += [((*place, *at), name) for at, name in _split_by(price)]
        for at, name in asked:
            if name not in declared:
                what = f"meter {price.meter!r} declares no attribute {name!r}; declare it there, or "
                yield entry.mistake(what + nearest(name, declared), *at)

    def _is_missing(self, kind: str, name: str, known: Container[str]) -> bool:
        return kind not in self.unread and name not in known

    def _no_meter(self, entry: Entry, meter: str, *place: str | int) -> Mistake:
        hint = nearest(meter, sorted(self.meters)) if self.meters else "there is none yet"
        return entry.mistake(f"meter {meter!r} is not declared under meters; declare it there, or {hint}", *place)

    def check_account(self, entry: Entry, account: Account) -> Iterator[Mistake]:
        for at, tenant in enumerate(account.tenants):
            payer = self.payers[tenant]
            if payer.id != account.id:
                what = f"tenant {tenant!r} already belongs to account {payer.id!r}; one account pays for a tenant, remove one"
                yield entry.mistake(what, "tenants", at)
        names = {plan.name for plan in self.plans.values()}
        yield from self._check_discounts(entry, account.discounts, names)
        if account.seller is not None and self._is_missing("seller", account.seller, self.sellers):
            hint = nearest(account.seller, self.sellers) if self.sellers else "there is none yet"
            what = f"seller {account.seller!r} is not declared under sellers; declare it there, or {hint}"
            yield entry.mistake(what, "seller")
        elif account.seller is None and len(self.sellers) > 1:
            yield entry.mistake(f"several sellers may invoice it; write seller: {' or '.join(self.sellers)}", "id")

    def _check_discounts(self, entry: Entry, discounts: Sequence[Discount], plans: Set[str]) -> Iterator[Mistake]:
        """A discount may name prices of any plan that it can lower, and plans that there are."""
        if "plan" in self.unread:
            return
        ids = {price.id for plan in self.plans.values() if plan.name in plans for price in plan.prices}
        known = {"price": ids, "plan": {plan.name for plan in self.plans.values()}}
        for at, discount in enumerate(discounts):
            named = [("prices", "price", place, name) for place, name in enumerate(discount.prices)]
            named += [("plans", "plan", place, name) for place, name in enumerate(discount.plans)]
            for key, kind, place, name in named:
                if name not in known[kind]:
                    hint = nearest(name, sorted(known[kind])) if known[kind] else "there is none yet"
                    what = (
                        f"the discount {discount.id!r} is for {kind} {name!r}, which is in no plan it can lower; {hint}"
                    )
                    yield entry.mistake(what, "discounts", at, key, place)

    def check_balance(self, entry: Entry, balance: Balance) -> Iterator[Mistake]:
        if self._is_missing("account", balance.account, self.accounts):
            hint = nearest(balance.account, sorted(self.accounts)) if self.accounts else "there is none yet"
            what = f"account {balance.account!r} is not declared under accounts; declare it there, or {hint}"
            yield entry.mistake(what, "account")
        priced = {price.id for plan in self.plans.values() for price in plan.prices}
        for at, price_id in enumerate(balance.prices):
            if self._is_missing("plan", price_id, priced):
                hint = nearest(price_id, sorted(priced)) if priced else "there is none yet"
                yield entry.mistake(f"no plan has a price {price_id!r}; {hint}", "prices", at)

    def check_ledger_account(self, entry: Entry, account: LedgerAccount) -> Iterator[Mistake]:
        """An account that is limited to what there is not would never be posted to."""
        plans = [plan for plan in self.plans.values() if account.plan in {None, plan.name}]
        lines = [one.id for plan in plans for one in (*plan.prices, *plan.minimums)]
        known = {
            "plan": sorted({plan.name for plan in self.plans.values()}),
            "price": sorted(set(lines)),
            "meter": sorted(self.meters),
            "seller": self.sellers,
        }
        for name, there in known.items():
            value = getattr(account, name)
            kind = "plan" if name == "price" else name
            if value is not None and self._is_missing(kind, value, there):
                hint = nearest(value, there) if there else "there is none yet"
                yield entry.mistake(f"there is no {name} {value!r} that this could be for; {hint}", name)

    def check_grant(self, entry: Entry, grant: TenantGrant) -> Iterator[Mistake]:
        """A grant adds to a metered feature, and a tenant that nobody knows never gets it."""
        if {"plan", "subscription"} & self.unread:
            return
        held = [subscription for _, subscription in self.subscriptions if subscription.tenant == grant.tenant]
        if not held:
            what = f"tenant {grant.tenant!r} has no subscription, so nothing is added to; correct the name or remove the grant"
            yield entry.mistake(what, "tenant")
            return
        plans = [self.plans.get(plan_key(*key)) for one in held for key in plan_keys_of(one)]
        said = [entitlement for plan in plans if plan is not None for entitlement in plan.entitlements]
        said += [entitlement for one in held for entitlement in one.entitlements]
        metered = sorted({one.feature for one in said if one.type == "metered"})
        if grant.feature not in metered:
            hint = nearest(grant.feature, metered) if metered else "there is none yet"
            what = f"no plan of tenant {grant.tenant!r} has a metered entitlement to {grant.feature!r} that this adds to; {hint}"
            yield entry.mistake(what, "feature")

    def check_contract(self, entry: Entry, contract: ProviderContract) -> Iterator[Mistake]:
        meter = self.meters.get(contract.meter)
        if meter is None:
            if "meter" not in self.unread:
                yield self._no_meter(entry, contract.meter, "meter")
        elif not _adds_up(meter):
            what = f"a contract is used up event by event, and the use of {meter.name!r} does not add up; name another meter"
            yield entry.mistake(what, "meter")

    def check_alert(self, entry: Entry, rule: AlertRule) -> Iterator[Mistake]:
        """An alert looks at a feature that some plan meters; else nobody would ever hear of it."""
        if rule.feature is None or {"plan", "subscription"} & self.unread:
            return
        said = [one for plan in self.plans.values() for one in plan.entitlements]
        said += [one for _, subscription in self.subscriptions for one in subscription.entitlements]
        metered = sorted({one.feature for one in said if one.type == "metered"})
        if rule.feature not in metered:
            hint = nearest(rule.feature, metered) if metered else "there is none yet"
            yield entry.mistake(f"no plan meters a feature {rule.feature!r} that this looks at; {hint}", "feature")

    def check_subscription(self, entry: Entry, subscription: Subscription) -> Iterator[Mistake]:
        plan = self.plans.get(plan_key(subscription.plan, subscription.version))
        if plan is None:
            if "plan" not in self.unread:
                yield self._no_plan(entry, subscription)
        elif subscription.ends_at is not None:
            zone = plan.billing_period.timezone
            if instant_of(subscription.ends_at, zone) <= instant_of(subscription.starts_at, zone):
                what = f"{when_text(subscription.ends_at)} is not after from, {when_text(subscription.starts_at)}, in {zone}"
                yield entry.mistake(f"{what}; write a later end", "to" if "to" in _keys(entry) else "until")
        yield from self._check_entitlements(entry, subscription.entitlements)
        if plan is not None and "plan" not in self.unread:
            for place, what in check_over_time(subscription, self.plans):
                yield entry.mistake(what, *place)
        held = plan_keys_of(subscription)
        yield from self._check_discounts(entry, subscription.discounts, {name for name, _ in held})
        if "account" in self.unread:
            return
        if subscription.account is not None and subscription.account not in self.accounts:
            hint = nearest(subscription.account, sorted(self.accounts)) if self.accounts else "there is none yet"
            what = f"account {subscription.account!r} is not declared under accounts; declare it there, or {hint}"
            yield entry.mistake(what, "account")
            return
        payer = self.accounts[subscription.account] if subscription.account else self.payers.get(subscription.tenant)
        if payer is None:
            what = f"tenant {subscription.tenant!r} is in no account, so nobody would pay; add it to the tenants of an account"
            yield entry.mistake(f"{what}, or write account: <id> here", "tenant")
            return
        for each in (self.plans.get(plan_key(*key)) for key in held):
            if each is not None and payer.currency not in {None, each.currency}:
                what = f"account {payer.id!r} pays in {payer.currency}, and plan {each.name!r} version {each.version} is in"
                yield entry.mistake(
                    f"{what} {each.currency}; choose a plan in {payer.currency} or another account", "plan"
                )

    def _no_plan(self, entry: Entry, subscription: Subscription) -> Mistake:
        versions = sorted(one.version for one in self.plans.values() if one.name == subscription.plan)
        if versions:
            there = ", ".join(str(version) for version in versions)
            what = f"plan {subscription.plan!r} has no version {subscription.version} (there is {there})"
            return entry.mistake(f"{what}; correct the version or add it under plans", "version")
        names = sorted({one.name for one in self.plans.values()})
        hint = nearest(subscription.plan, names) if names else "there is none yet"
        what = f"plan {subscription.plan!r} is not declared under plans; declare it there, or {hint}"
        return entry.mistake(what, "plan")

    def check_overlaps(self) -> Iterator[Mistake]:
        """Two subscriptions of one tenant to one plan, whatever the version, would bill the same use twice."""
        by_plan: dict[tuple[str, str], list[tuple[Entry, Stretch]]] = {}
        for entry, subscription in self.subscriptions:
            for stretch in stretches_of(subscription, self.plans):
                by_plan.setdefault((subscription.tenant, stretch.plan), []).append((entry, stretch))
        for same in by_plan.values():
            same.sort(key=lambda one: (one[1].start, one[1].subscription.id))
            # The one that runs longest so far: behind a short one, a long one may still be running.
            running = same[0][1]
            for entry, later in same[1:]:
                if running.end is None or later.start < running.end:
                    other, mine = running.subscription, later.subscription
                    what = f"tenant {mine.tenant!r} is already on plan {later.plan!r} by {other.id!r} at this time"
                    yield entry.mistake(
                        f"{what}; end that one with to: {when_text(mine.starts_at)}, or start later", "from"
                    )
                if running.end is not None and (later.end is None or later.end > running.end):
                    running = later


def _split_by(price: Price) -> Iterator[tuple[Place, str]]:
    """Yield the attributes that split the line of a price into cells, and where they stand."""
    if price.type == "matrix":
        yield from ((("attributes", at), name) for at, name in enumerate(price.attributes))
    elif price.type == "dynamic":
        yield ("price_attribute",), price.price_attribute
    elif (weights := getattr(price, "weights", None)) is not None:
        yield ("weights", "attribute"), weights.attribute


def _keys(entry: Entry) -> Iterable[str]:
    return entry.node.value if isinstance(entry.node.value, dict) else ()
