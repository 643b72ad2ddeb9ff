"""Alerts over a workspace: which rules of the catalog are reached now, told to the books once and to a receiver at least once.

Enters: a workspace, a receiver. Leaves: crossings in the books (entitlements.alerts) and what became of telling them.
Refuses: to remember anything of its own. Run it as often as you like, from as many hosts: a crossing is one row.

First all tenants are looked at through a view, in whole billionths; only those who reach something are looked at again, for
the window that they reach it in. Money is what the open billing period is worth so far: usage, and fees in advance.

What is reached between the last look at a window and its end would never be told. So windows that were running a day ago and are
over by now are looked at as of their end: whoever runs it once a day or more often misses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING

from entitlements.alerts import Alert, AlertBook, Level
from entitlements.decisions import from_billionths
from entitlements.leases import QuotaKey
from metering.engine import fetch
from rating.entitled import INSTANT
from rating.run import rated_spans
from tallybook.entitlements import Entitlements
from tallybook.preview import spans_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from entitlements.view import View
    from rating.terms import Terms
    from tallybook.alert_rules import AlertRule
    from tallybook.catalog_entries import Catalog
    from tallybook.workspace import Workspace

# The windows of money are told apart from those of features by this name, which no feature can have.
SPEND = "(spend)"
DELIVERED_AT_ONCE_MAX = 10_000
LOOK_BACK = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Alerted:
    """What one pass did: the alerts it raised, how many the receiver took, why others were not, and how many wait."""

    raised: tuple[Alert, ...]
    delivered: int
    failures: tuple[Exception, ...]
    pending: int


def alert(workspace: Workspace, receive: Callable[[Alert], object] | None = None) -> Alerted:
    """Raise what is reached and tell the receiver; see `Workspace.alerts`."""
    receiver = receive or workspace.settings.webhook()
    book = AlertBook(workspace.books, workspace.clock)
    catalog = workspace.catalog_or_empty()
    raised: list[Alert] = []
    reached = _of_features(workspace, catalog), _of_features_before(workspace, catalog), _of_money(workspace, catalog)
    for key, level, rules in chain(*reached):
        raised += book.observe(key, level, [rule.threshold for rule in rules])
    delivered = book.deliver(receiver, limit=DELIVERED_AT_ONCE_MAX) if receiver is not None else None
    return Alerted(
        tuple(raised),
        0 if delivered is None else delivered.delivered,
        () if delivered is None else delivered.failures,
        len(book.pending()),
    )


Reached = tuple[QuotaKey, Level, list["AlertRule"]]


def _rules_of(catalog: Catalog) -> dict[str, list[AlertRule]]:
    rules: dict[str, list[AlertRule]] = {}
    for rule in catalog.alerts:
        if rule.feature is not None:
            rules.setdefault(rule.feature, []).append(rule)
    return rules


def _of_features(workspace: Workspace, catalog: Catalog) -> Iterator[Reached]:
    rules = _rules_of(catalog)
    if not rules:
        return
    entitlements = Entitlements(workspace, catalog=catalog)
    reached = {
        (tenant, feature): (level, found) for tenant, feature, level, found in _levels(entitlements.view(), rules)
    }
    entitled = entitlements.entitled({tenant for tenant, _ in reached})
    for (tenant, feature), (level, found) in reached.items():
        of_feature = next(one for one in entitled[tenant] if one.entitlement.feature == feature)
        start, end = of_feature.window(entitlements.at)
        yield QuotaKey(tenant, feature, start, end), level, found


def _of_features_before(workspace: Workspace, catalog: Catalog) -> Iterator[Reached]:
    """Yield what was reached by the end of windows that were running a day ago and are over."""
    rules = _rules_of(catalog)
    if not rules:
        return
    now, terms, evidence = workspace.now, catalog.terms(), workspace.evidence()
    before = Entitlements(workspace, now - LOOK_BACK, catalog=catalog, evidence=evidence)
    ending: dict[datetime, set[str]] = {}
    for tenant, held in before.entitled(before.changing(now)).items():
        for one in held:
            if one.entitlement.feature in rules and one.leads:
                _, end = one.window(before.at)
                if end is not None and end <= now:
                    ending.setdefault(end, set()).add(tenant)
    for end, tenants in sorted(ending.items()):
        subscriptions = [one for one in terms.subscriptions if one.tenant in tenants]
        grants = [one for one in catalog.grants if one.tenant in tenants]
        at_end = Entitlements.of_terms(
            workspace, end - INSTANT, replace(terms, subscriptions=subscriptions), grants, evidence, is_part=True
        )
        for state in at_end.states():
            tenant, feature = state.entitled.tenant, state.entitled.entitlement.feature
            window = state.entitled.window(at_end.at) if state.entitled.leads else (end, None)
            level = Level(state.used, state.limit)
            found = [rule for rule in rules.get(feature, ()) if rule.is_for(tenant) and level.reaches(rule.threshold)]
            if found and window[1] == end:
                yield QuotaKey(tenant, feature, *window), level, found


def _levels(view: View, rules: dict[str, list[AlertRule]]) -> Iterator[tuple[str, str, Level, list[AlertRule]]]:
    """Yield every tenant and feature that reaches a threshold, how far it is, and the rules that are for it."""
    for tenant, held in view.tenants.items():
        # Most tenants used nothing since the last reset, and reach nothing.
        if not any(figures.used > 0 for figures in held.figures):
            continue
        for feature, of_feature in rules.items():
            entitled = held.rules.get(feature)
            if entitled is None or entitled.place is None:
                continue
            figures = held.figures[entitled.place]
            quota = None if figures.limit is None else from_billionths(figures.limit)
            level = Level(from_billionths(figures.used), quota)
            found = [rule for rule in of_feature if rule.is_for(tenant) and level.reaches(rule.threshold)]
            if found:
                yield tenant, feature, level, found


def _of_money(workspace: Workspace, catalog: Catalog) -> Iterator[Reached]:
    rules = [rule for rule in catalog.alerts if rule.feature is None]
    if not rules:
        return
    everyone = workspace.terms(catalog.revision)
    terms = _terms_for(everyone, rules)
    # What is kept is of all tenants; a few of them would be kept in the place of all.
    may_use_kept = len(terms.subscriptions) == len(everyone.subscriptions)
    files, snapshot = workspace.evidence()
    now = workspace.now
    open_ones = spans_at(terms, now)
    over = [span for span in spans_at(terms, now - LOOK_BACK) if span.period.end <= now]
    over = [replace(span, span_id=number) for number, span in enumerate(over)]
    rows = []
    for spans, may_use in ((open_ones, may_use_kept), (over, False)):
        if not spans:
            continue
        with rated_spans(files, snapshot, terms, spans, now, may_use_kept=may_use) as engine:
            rows += fetch(
                engine,
                "SELECT tenant_id, currency, period_start, period_end, sum(amount) AS amount FROM worth"
                " WHERE is_current GROUP BY ALL ORDER BY ALL",
            ).to_pylist()
    for row in rows:
        level = Level(amount=row["amount"], currency=row["currency"])
        found = [rule for rule in rules if rule.is_for(row["tenant_id"]) and level.reaches(rule.threshold)]
        if found:
            yield QuotaKey(row["tenant_id"], SPEND, row["period_start"], row["period_end"]), level, found


def _terms_for(terms: Terms, rules: Sequence[AlertRule]) -> Terms:
    """Return the terms of those whose money somebody wants to hear of."""
    held = [one for one in terms.subscriptions if any(rule.is_for(one.tenant) for rule in rules)]
    return replace(terms, subscriptions=held)
