"""The catalog in the books: one revision after the other, each readable for ever.

Enters: a catalog from files. Leaves: a new revision in the books and the list of what changed; or, from the books, the
very catalog of any revision.
Refuses: to change terms that a subscription uses or ever used, to take away what invoices refer to, and to change how a
meter counts while a plan prices it. Nothing is applied then. All in one transaction; applying the same twice changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Literal

from sqlalchemy import ColumnElement, Connection, Engine, false, func, insert, or_, select, tuple_, update

from metering.catalog import CatalogModel, Meter, decimal_text
from rating.adjust import APPROVAL
from rating.balances import Balance
from rating.errors import NotFound, PlanVersionChanged
from rating.grants import TenantGrant
from rating.plans import Account, Plan, Subscription, when_text
from rating.spans import plan_key
from tallybook.books import catalog_entries, catalog_names, catalog_revisions, lock_for_writing, reading
from tallybook.catalog_entries import MODEL_BY_KIND, Catalog

What = Literal["added", "changed", "removed"]
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One entry that a revision added, changed or removed; `detail` says which fields, from what to what."""

    kind: str
    key: str
    what: What
    detail: str


@dataclass(frozen=True, slots=True)
class Applied:
    """The revision that the books hold now, and what it changed; nothing if the catalog was in the books already."""

    revision: int
    changes: tuple[Change, ...]


def apply_catalog(engine: Engine, catalog: Catalog, now: datetime) -> Applied:
    """Put a catalog into the books as the next revision, in one transaction. Applying the same again changes nothing.

    Raises PlanVersionChanged (Terminal), with every reason, when terms in use would change or vanish; nothing is applied.
    """
    wanted = catalog.entries()
    with engine.begin() as connection:
        lock_for_writing(connection)
        revision = connection.execute(select(func.max(catalog_revisions.c.revision))).scalar() or 0
        held = _read_entries(connection, revision)
        changes = _compare(held, wanted)
        if revision and not changes:
            return Applied(revision, ())
        refused = _refusals(catalog, held, wanted, changes, _plans_ever_used(connection))
        if refused:
            raise PlanVersionChanged(refused)
        _write(connection, revision + 1, wanted, changes, now)
    return Applied(revision + 1, tuple(changes))


def last_revision(engine: Engine) -> int | None:
    """Return the number of the revision that was applied last; None before the first apply."""
    with reading(engine) as connection:
        last: int | None = connection.execute(select(func.max(catalog_revisions.c.revision))).scalar()
        return last


def load_revision(engine: Engine, revision: int | None = None) -> Catalog:
    """Return the catalog of a revision, by default the last. Raises NotFound before the first apply and for no revision."""
    with reading(engine) as connection:
        last = connection.execute(select(func.max(catalog_revisions.c.revision))).scalar()
        if last is None:
            raise NotFound("no catalog was applied yet; write catalog/*.yaml and run `tallybook apply`")
        wanted = last if revision is None else revision
        if not 1 <= wanted <= last:
            raise NotFound(f"there is no catalog revision {wanted}; the books hold 1 to {last}", revision=wanted)
        return Catalog.of(_read_entries(connection, wanted).values(), revision=wanted)


def load_last_revision_of(engine: Engine, tenant: str) -> Catalog:
    """Return what the last revision says of everything that is for sale, and of the accounts that pay for one tenant.

    The same as `load_revision` without the accounts, subscriptions and balances of others: of a hundred thousand
    subscriptions a handful is read. Raises NotFound before the first apply.
    """
    with reading(engine) as connection:
        last = connection.execute(select(func.max(catalog_revisions.c.revision))).scalar()
        if last is None:
            raise NotFound("no catalog was applied yet; write catalog/*.yaml and run `tallybook apply`")
        read = partial(_read_entries, connection, last)
        table = catalog_entries.c
        listed = read(table.kind == "account", _naming(tenants={tenant})).values()
        payers = {one.id for one in listed if isinstance(one, Account)}
        own = read(table.kind == "subscription", _naming(tenants={tenant})).values()
        payers |= {one.account for one in own if isinstance(one, Subscription) and one.account is not None}
        accounts = read(table.kind == "account", table.key.in_(payers))
        tenants = {name for one in accounts.values() if isinstance(one, Account) for name in one.tenants} | {tenant}
        found = [
            *read(table.kind.in_(MODEL_BY_KIND.keys() - _OF_CUSTOMERS)).values(),
            *accounts.values(),
            *read(table.kind == "subscription", _naming(tenants=tenants, accounts=payers)).values(),
            *read(table.kind == "balance", _naming(accounts=payers)).values(),
            *read(table.kind == "grant", _naming(tenants=tenants)).values(),
        ]
    return Catalog.of(
        (one for one in found if not isinstance(one, Subscription) or _is_paid(one, payers)), revision=last
    )


# The kinds of which there are as many as customers.
_OF_CUSTOMERS = frozenset({"account", "balance", "grant", "subscription"})


def _is_paid(subscription: Subscription, payers: Set[str]) -> bool:
    return subscription.account is None or subscription.account in payers


def _naming(*, tenants: Collection[str] = (), accounts: Collection[str] = ()) -> ColumnElement[bool]:
    """Return the condition that an entry names one of these tenants or accounts."""
    named, table = catalog_names.c, catalog_entries.c
    parts = (("tenant", tenants), ("account", accounts))
    is_named = or_(*((named.part == part) & named.name.in_(names) for part, names in parts if names), false())
    # One list of keys: of two with an OR between them the database looks through all entries instead.
    keys = select(named.kind, named.key, named.revision_from).where(is_named)
    return tuple_(table.kind, table.key, table.revision_from).in_(keys)


def _read_entries(connection: Connection, revision: int, *conditions: ColumnElement[bool]) -> dict[Key, CatalogModel]:
    """Return the entries of a revision for which the conditions hold."""
    # A row holds for [revision_from, revision_to), so a revision reads the same for ever, whatever is applied later.
    table = catalog_entries.c
    holds = [table.revision_from <= revision, or_(table.revision_to.is_(None), table.revision_to > revision)]
    rows = connection.execute(
        select(table.kind, table.key, table.definition).where(*holds, *conditions).order_by(table.kind, table.key)
    )
    return {
        (kind, key): MODEL_BY_KIND[kind].model_validate(json.loads(definition), by_alias=True, by_name=False)
        for kind, key, definition in rows
    }


def balance_versions(connection: Connection) -> list[tuple[int, int | None, Balance]]:
    """Return every prepaid balance that the catalog ever had, with its first revision and the first one without it."""
    entry = catalog_entries.c
    query = select(entry.revision_from, entry.revision_to, entry.definition).where(entry.kind == "balance")
    rows = connection.execute(query.order_by(entry.key, entry.revision_from))
    return [
        (first, ended, Balance.model_validate(json.loads(text), by_alias=True, by_name=False))
        for first, ended, text in rows
    ]


def _plans_ever_used(connection: Connection) -> dict[str, str]:
    """Return, by plan key, one subscription that uses the plan version or used it in any earlier revision."""
    table = catalog_entries.c
    rows = connection.execute(
        select(table.key, table.definition).where(table.kind == "subscription").order_by(table.revision_from, table.key)
    )
    used: dict[str, str] = {}
    for subscription_id, definition in rows:
        terms = json.loads(definition)
        name = terms["plan"]
        used.setdefault(plan_key(name, terms["version"]), subscription_id)
        for change in terms.get("changes", []):
            name = change.get("plan", name)
            if "version" in change:
                used.setdefault(plan_key(name, change["version"]), subscription_id)
    return used


def _compare(held: Mapping[Key, CatalogModel], wanted: Mapping[Key, CatalogModel]) -> list[Change]:
    changes = [Change(kind, key, "added", "") for kind, key in wanted if (kind, key) not in held]
    for (kind, key), model in wanted.items():
        before = held.get((kind, key))
        if before is not None and before != model:
            changes.append(Change(kind, key, "changed", "; ".join(differences(before, model))))
    changes += [Change(kind, key, "removed", "") for kind, key in held if (kind, key) not in wanted]
    return sorted(changes, key=lambda change: (change.kind, change.key))


def _refusals(
    catalog: Catalog,
    held: Mapping[Key, CatalogModel],
    wanted: Mapping[Key, CatalogModel],
    changes: list[Change],
    used: Mapping[str, str],
) -> list[str]:
    plans = [one for one in (*held.values(), *wanted.values()) if isinstance(one, Plan)]
    refused: list[str] = []
    for change in changes:
        if change.what == "added":
            continue
        old, new = held[change.kind, change.key], wanted.get((change.kind, change.key))
        source = catalog.sources.get((change.kind, change.key))
        place = f"{source.file}:{source.line}: " if source else ""
        if isinstance(old, Plan) and change.key in used and not _is_approval_only(old, new):
            next_version = max(plan.version for plan in plans if plan.name == old.name) + 1
            refused.append(place + _plan_refusal(old, change, used[change.key], next_version))
        elif change.what == "removed" and change.kind in {"account", "subscription", "balance", "grant"}:
            refused.append(_removal_refusal(change))
        elif isinstance(old, Balance) and isinstance(new, Balance):
            reason = _balance_refusal(old, new)
            refused += [place + reason] if reason else []
        elif isinstance(old, Meter) and isinstance(new, Meter):
            reason = _meter_refusal(old, new, held)
            refused += [place + reason] if reason else []
    return refused


def _is_approval_only(old: Plan, new: CatalogModel | None) -> bool:
    """Return whether a plan differs only in who approved its discounts: terms of sale stay, and a signature comes later."""
    return isinstance(new, Plan) and _unsigned(old) == _unsigned(new)


def _unsigned(plan: Plan) -> Plan:
    signed = dict.fromkeys(APPROVAL)
    return plan.model_copy(update={"discounts": tuple(one.model_copy(update=signed) for one in plan.discounts)})


def _plan_refusal(old: Plan, change: Change, subscription_id: str, next_version: int) -> str:
    what = f"plan {old.name!r} version {old.version} is in use (subscription {subscription_id!r})"
    if change.what == "removed":
        return f"{what} and cannot be removed, because invoices refer to it; put it back"
    return (
        f"{what} and cannot change: {change.detail}; put its terms back as they were, write the new ones as "
        f"version {next_version}, and move subscriptions to it"
    )


def _removal_refusal(change: Change) -> str:
    if change.kind == "account":
        return f"account {change.key!r} cannot be removed, because invoices refer to it; put it back"
    if change.kind in {"balance", "grant"}:
        what = f"{change.kind} {change.key!r} cannot be removed, because it may have been used"
        return f"{what}; put it back and write {'voided' if change.kind == 'grant' else 'expires'}"
    return (
        f"subscription {change.key!r} cannot be removed, because its usage is still to be billed or was billed; "
        "put it back and end it with to: <the first day that no longer counts>"
    )


def _balance_refusal(old: Balance, new: Balance) -> str | None:
    """Return why a balance cannot become another's: what was burned of it is booked with the account and currency it had."""
    if (old.account, old.currency) == (new.account, new.currency):
        return None
    return (
        f"balance {old.id!r} pays for account {old.account!r} in {old.currency} and cannot be moved to account "
        f"{new.account!r} in {new.currency}, because it may have been used; put it back, end it with expires, and grant a "
        "new balance of what is left"
    )


def _meter_refusal(old: Meter, new: Meter, held: Mapping[Key, CatalogModel]) -> str | None:
    read = [(one.aggregation, one.unique_attribute, one.measure, one.expression) for one in (old, new)]
    if read[0] == read[1]:
        return None
    for plan in held.values():
        if isinstance(plan, Plan) and old.name in _meters_of(plan):
            how = "; ".join(differences(old, new))
            return (
                f"meter {old.name!r} is used by plan {plan.name!r} version {plan.version} and cannot count otherwise "
                f"({how}); declare a new meter with another name, and a plan version that uses it"
            )
    return None


def _meters_of(plan: Plan) -> set[str | None]:
    priced = {name for price in plan.prices for name in price.meters_read}
    return priced | {entitlement.meter for entitlement in plan.entitlements}


def _write(
    connection: Connection, revision: int, wanted: Mapping[Key, CatalogModel], changes: list[Change], now: datetime
) -> None:
    counts = [(what, sum(change.what == what for change in changes)) for what in ("added", "changed", "removed")]
    summary = ", ".join(f"{count} {what}" for what, count in counts if count) or "an empty catalog"
    connection.execute(insert(catalog_revisions).values(revision=revision, applied_at=now, summary=summary))
    table = catalog_entries.c
    for change in changes:
        if change.what != "added":
            connection.execute(
                update(catalog_entries)
                .where(table.kind == change.kind, table.key == change.key, table.revision_to.is_(None))
                .values(revision_to=revision)
            )
    rows = [
        {
            "kind": change.kind,
            "key": change.key,
            "revision_from": revision,
            "revision_to": None,
            "definition": definition_of(wanted[change.kind, change.key]),
            "content_hash": content_hash(wanted[change.kind, change.key]),
        }
        for change in changes
        if change.what != "removed"
    ]
    if rows:
        connection.execute(insert(catalog_entries), rows)
    named = [
        {"part": part, "name": name, "kind": kind, "key": key, "revision_from": revision}
        for kind, key in ((change.kind, change.key) for change in changes if change.what != "removed")
        for part, name in named_by(wanted[kind, key])
    ]
    if named:
        connection.execute(insert(catalog_names), named)


def named_by(model: CatalogModel) -> list[tuple[str, str]]:
    """Return the tenants and accounts that an entry of a customer names, as (part, name); of other entries none."""
    match model:
        case Account():
            return [("tenant", name) for name in model.tenants]
        case Subscription():
            return [("tenant", model.tenant), *([("account", model.account)] if model.account else [])]
        case Balance():
            return [("account", model.account)]
        case TenantGrant():
            return [("tenant", model.tenant)]
    return []


def definition_of(model: CatalogModel) -> str:
    """Return an entry as canonical JSON: keys sorted, every default written out, numbers as the text they came as."""
    return _canonical(_document(model, as_written=True))


def content_hash(model: CatalogModel) -> str:
    """Return the sha256 of what an entry means: 49.00 and 49 have the same."""
    return hashlib.sha256(_canonical(_document(model, as_written=False)).encode()).hexdigest()


def _canonical(document: object) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _document(model: CatalogModel, *, as_written: bool) -> object:
    return _plain(model.model_dump(by_alias=True, exclude_none=True), as_written=as_written)


def _plain(value: object, *, as_written: bool) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item, as_written=as_written) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, as_written=as_written) for item in value]
    if isinstance(value, Decimal):
        text = decimal_text(value)
        return text if as_written or "." not in text else text.rstrip("0").rstrip(".")
    return when_text(value) if isinstance(value, date) else value


def differences(before: CatalogModel, after: CatalogModel) -> list[str]:
    """Return what differs, field by field, such as `prices[tokens].tiers[1].unit_price 0.0000020 -> 0.0000018`."""
    return list(_differences(before.model_dump(by_alias=True), after.model_dump(by_alias=True), ""))


def _differences(before: object, after: object, path: str) -> list[str]:
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            line
            for key in dict.fromkeys([*before, *after])
            for line in _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(before, tuple) and isinstance(after, tuple):
        return _list_differences(before, after, path)
    return [f"{path} {_shown(before)} -> {_shown(after)}"]


def _list_differences(before: tuple[object, ...], after: tuple[object, ...], path: str) -> list[str]:
    # Prices and entitlements have names, so that one put in between does not make all after it look changed.
    old, new = _named(before), _named(after)
    lines = [
        line
        for name in dict.fromkeys([*old, *new])
        for line in _differences(old.get(name), new.get(name), f"{path}[{name}]")
    ]
    return lines or [f"{path} order {', '.join(old)} -> {', '.join(new)}"]


def _named(items: tuple[object, ...]) -> dict[str, object]:
    named: dict[str, object] = {}
    for at, item in enumerate(items):
        name = item.get("id", item.get("feature")) if isinstance(item, Mapping) else None
        named[str(at if name is None else name)] = item
    return named


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return _canonical(_without_none(_plain(value, as_written=True))).replace('"', "")


def _without_none(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
