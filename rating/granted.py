"""What grants cover of the use of billing spans: the included units of prices that take them from an entitlement.

Enters: an engine with the evidence of a snapshot, the terms with all grants, billing spans. Leaves: rows of included_share, one
per (span, price) with `included_from`; for whoever asks, what was used beyond all grants (`beyond`).
Refuses: to look at amounts, and at any clock. What is covered is a pure function of the terms and of all use of the tenant
until the end of the span: grants burn down over the whole history, whatever is due or was booked.

Most tenants have one quota that their billing period makes full: it is what is included, and nothing is burned down.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from entitlements.burn_down_all import BurnDown, OverUsed, burn_down_all, over_used
from entitlements.burndown import ZERO
from metering.engine import open_engine, read_sql
from metering.numbers import exact_difference, exact_sum
from rating.entitled import INSTANT, Entitled, is_plain, resolve, templates
from rating.entitled_use import UsagePlan, ask_usage, begin_of, state_at
from rating.included_from import features_of
from rating.spans import BillingSpans
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    import duckdb

    from metering.catalog import Meter
    from rating.entitled_use import Asked
    from rating.spans import BillingSpan
    from rating.terms import Terms

_COLUMNS = {"span_id": "int", "price_id": "text", "included": "quantity"}
# Without a limit everything is included; more than any quantity can be.
EVERYTHING = Decimal(10) ** 28


class Part(NamedTuple):
    """A metered entitlement with a limit, and the span [since, until) of its use that is looked at."""

    entitled: Entitled
    since: datetime
    until: datetime


def load_granted(engine: duckdb.DuckDBPyConnection, terms: Terms, spans: Sequence[BillingSpan]) -> None:
    """Add what grants cover to the table included_share. Costs nothing where no plan in use includes grants.

    Asks usage in the engine, so the tables of questions and of `usage` are replaced. A tenant who is not entitled at the end
    of a span has nothing included in it.
    """
    columns = BillingSpans.of(spans)
    wanted = {stretch.plan_key: features_of(terms.plans[stretch.plan_key].prices) for stretch in columns.stretches}
    if not any(wanted.values()):
        return
    rows: list[tuple[int, str, Decimal]] = []
    parts: list[tuple[int, str, Part]] = []
    for span, entitled in _entitled(terms, [span for span in columns if wanted[span.plan_key]]):
        since, until = span.service.start, span.service.end
        for price_id, feature in wanted[span.plan_key].items():
            one = entitled.get(feature)
            if one is None or one.entitlement.type != "metered":
                continue
            if not one.is_limited:
                rows.append((span.span_id, price_id, EVERYTHING))
            elif is_plain(one, until - INSTANT) and one.last_reset(until - INSTANT) <= since:
                rows.append((span.span_id, price_id, one.grants[0].amount))
            else:
                parts.append((span.span_id, price_id, Part(replace(one, tenant=span.tenant_id), since, until)))
    found = beyond([part for *_, part in parts], terms.meters, lambda asked: ask_usage(engine, asked, terms.meters))
    covered = (max(ZERO, exact_difference(one.used, one.over_used)) for one in found)
    rows += [(span_id, price_id, count) for (span_id, price_id, _), count in zip(parts, covered, strict=True)]
    load_table(engine, "granted_share", _COLUMNS, rows)
    engine.execute(read_sql("rating", "granted_share"))


def _entitled(terms: Terms, spans: Iterable[BillingSpan]) -> Iterator[tuple[BillingSpan, Mapping[str, Entitled]]]:
    """Yield each span with what its tenant is entitled to at its end, by feature. What is alike may be another tenant's."""
    by_end: dict[tuple[int, datetime], list[BillingSpan]] = {}
    for span in spans:
        by_end.setdefault((span.side, span.service.end), []).append(span)
    for (side, end), ending in sorted(by_end.items()):
        tenants = {span.tenant_id for span in ending}
        held = replace(terms, subscriptions=[one for one in terms.entitling[side] if one.tenant in tenants])
        grants = [one for one in terms.grants if one.tenant in tenants]
        shared, others = templates(held, grants, end - INSTANT)
        found, _ = resolve(others, grants, end - INSTANT)
        features = {name: {one.entitlement.feature: one for one in entitled} for name, entitled in found.items()}
        for entitled, names in shared:
            alike = {one.entitlement.feature: one for one in entitled}
            features |= dict.fromkeys(names, alike)
        for span in ending:
            yield span, features.get(span.tenant_id, {})


def beyond(
    parts: Sequence[Part], meters: Mapping[str, Meter], ask: Callable[[Iterable[Asked]], Mapping[Asked, Decimal]]
) -> list[OverUsed]:
    """Return what was used of each part in its span, and what of it no grant covered, in units of the meter.

    All are burned down at once. Where grants are a ceiling, it is the reset period that the part ends in, and the grants that
    are active at its end. `ask` answers questions to usage; it is asked once for all burn-downs and once for all ceilings.
    """
    plans = [
        UsagePlan(part.entitled, meters[part.entitled.entitlement.meter or ""], begin_of(part.entitled, part.since),
                  part.until, [part.since])
        for part in parts
    ]  # fmt: skip
    found = dict(_burned(parts, plans, ask))
    ceilings = [number for number, plan in enumerate(plans) if plan.is_ceiling]
    asked = {number: _ceiling_of(parts[number]) for number in ceilings}
    usage = ask(asked.values()) if asked else {}
    for number, question in asked.items():
        at = parts[number].until - INSTANT
        limit = exact_sum(one.amount for one in parts[number].entitled.grants if one.is_active(at))
        used = usage.get(question, ZERO)
        found[number] = OverUsed(used, max(ZERO, exact_difference(used, limit)))
    return [found[number] for number in range(len(parts))]


def _ceiling_of(part: Part) -> Asked:
    start = part.entitled.last_reset(part.until - INSTANT)
    return part.entitled.tenant, part.entitled.entitlement.meter or "", start, part.until


def _burned(
    parts: Sequence[Part], plans: Sequence[UsagePlan], ask: Callable[[Iterable[Asked]], Mapping[Asked, Decimal]]
) -> Iterator[tuple[int, OverUsed]]:
    chosen = [number for number, plan in enumerate(plans) if not plan.is_ceiling]
    if not chosen:
        return
    usage = ask(asked for number in chosen for asked in plans[number].asked)
    burns = []
    for number in chosen:
        entitled, since, until = parts[number]
        start = state_at(entitled.grants, begin_of(entitled, since))
        resets = [reset for reset in plans[number].resets if start.at < reset < until]
        keeping = entitled.keeping(start.at, until)
        burns.append(BurnDown(entitled.grants, plans[number].used(usage), start, until, resets, keeping, [since]))
    engine = open_engine()
    try:
        burn_down_all(engine, burns)
        yield from zip(chosen, over_used(engine, [parts[number].since for number in chosen]), strict=True)
    finally:
        engine.close()
