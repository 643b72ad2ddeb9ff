"""Lint on history: the findings of the plans, priced on what was really used, and those that only usage shows.

Enters: an engine with the evidence of a snapshot, the terms of sale, and a span of past periods. Leaves: findings with how
many tenants were concerned and how much money. Refuses: to book, to read a clock, and to price what has no price: usage
that no price takes is priced by another price of the plan on the same meter, and the message says which.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.engine import fetch, read_sql
from metering.numbers import plain, trimmed
from rating.adjust import scope_of
from rating.iso4217 import minor_units
from rating.lint import Finding, alone, in_order, lint_catalog, rate_alone, step_of
from rating.lint_floors import floors_inside
from rating.price_ids import is_since_plan
from rating.rate import rate
from rating.rounding import exact_sum, round_amount
from rating.spans import plan_key
from rating.tables import load_table
from rating.terms import billing_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import duckdb

    from metering.periods import WallPeriod
    from metering.rollups import Rollups
    from rating.plans import Plan
    from rating.terms import Terms

# More lines than this of one price for one tenant and period are more than anybody reads.
GROUPS_MANY = 1_000
# So many tenants' unpriced usage is priced one by one, the largest first.
SAMPLE = 1_000
_EDGE_COLUMNS = {"plan_key": "text", "price_id": "text", "edge": "quantity", "exact_amount_above": "exact"}
_LIMIT_COLUMNS = {"plan_key": "text", "maximum_id": "text", "price_id": "text"}
_PAIR_COLUMNS = {"plan_key": "text", "price_id": "text", "other_price_id": "text"}


def lint(
    engine: duckdb.DuckDBPyConnection, terms: Terms, wall: WallPeriod, *, rollups: Rollups | None = None
) -> list[Finding]:
    """Return all findings, the worst first, priced on the billing periods that end in a span. Pure.

    `engine` holds the evidence (`metering.usage.open_evidence`). Raises AmountOverflow.
    """
    spans = billing_spans(terms, wall)
    findings = lint_catalog(terms)
    if not spans:
        return findings
    rate(engine, terms, spans, max(one.period.end for one in spans.stretches), rollups=rollups)
    engine.execute(read_sql("rating", "lint_used"))
    lines = {(row["plan_key"], row["price_id"]): row for row in _ask(engine, "lint_line")}
    findings = _price_cliffs(engine, terms, findings)
    findings = _price_overlaps(engine, terms, findings)
    findings = _price_limits(engine, terms, findings)
    findings = [_price_idle(terms, finding, lines) for finding in findings]
    findings = _count_unpriced(engine, findings)
    found = [finding for check in HISTORY_CHECKS for finding in check(engine, terms)]
    return in_order([*findings, *found])


def find_unpriced_usage(engine: duckdb.DuckDBPyConnection, terms: Terms) -> Iterator[Finding]:
    """Find usage under a plan that none of the plan's prices takes."""
    priced = {meter for plan in terms.plans.values() for price in plan.prices for meter in price.meters_read}
    missed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _ask(engine, "lint_missed_quantity", sample=SAMPLE):
        missed.setdefault((row["plan_key"], row["meter"]), []).append(row)
    for row in _ask(engine, "lint_unpriced"):
        plan = terms.plans[row["plan_key"]]
        meter = terms.meters.get(row["meter"])
        # A meter without any price is one finding of its own, not one for each plan.
        if meter is None or meter.name not in priced:
            continue
        count = f"{row['event_count']:,} usage events, quantity {trimmed(row['quantity'])} {meter.unit}"
        if not row["is_priced"]:
            yield Finding(
                "meter_not_in_plan",
                f"{count}, of {_tenants(row['tenants'])} on meter {meter.name} are free under this plan; add a price, or one "
                "of 0 if they are meant to be",
                plan.name, plan.version, meter=meter.name, tenants=row["tenants"],
            )  # fmt: skip
            continue
        price, amount = _worth_of(plan, meter.aggregation, missed.get((row["plan_key"], row["meter"]), []), meter.name)
        worth = f"; under price {price} they are worth {_paper(amount, plan)}" if price and amount is not None else ""
        yield Finding(
            "usage_unpriced",
            f"{count}, of {_tenants(row['tenants'])} match no price, most of them with {row['attributes']}{worth}. Widen a "
            "where, or add a price for them, of 0 if they are meant to be free",
            plan.name, plan.version, price, meter.name,
            tenants=row["tenants"], amount=None if amount is None else _rounded(amount, plan), currency=plan.currency,
        )  # fmt: skip


def find_idle_and_crowded_prices(engine: duckdb.DuckDBPyConnection, terms: Terms) -> Iterator[Finding]:
    """Find prices without usage, and prices that make more lines than anybody reads."""
    used = {(row["plan_key"], row["price_id"]): row for row in _ask(engine, "lint_line")}
    keys = {row["plan_key"] for row in fetch(engine, "SELECT DISTINCT plan_key FROM billing_span").to_pylist()}
    for key in sorted(keys):
        plan = terms.plans[key]
        for price in plan.prices:
            row = used.get((key, price.id))
            if price.meter is not None and not (row and row["event_count"]):
                yield Finding(
                    "price_without_usage",
                    f"no tenant of the plan has usage that it takes; check the name of meter {price.meter}, its filters, "
                    "and whether the application records it",
                    plan.name, plan.version, price.id, price.meter, tenants=0,
                )  # fmt: skip
            elif row and row["groups"] > GROUPS_MANY:
                yield Finding(
                    "many_groups",
                    f"it makes {row['groups']:,} lines in one period of tenant {row['tenant_of_groups']}; name fewer "
                    f"attributes under by than {', '.join(price.by)}",
                    plan.name, plan.version, price.id, price.meter,
                    tenants=row["tenants"], amount=_rounded(row["amount"], plan), currency=plan.currency,
                )  # fmt: skip


def find_negative_usage(engine: duckdb.DuckDBPyConnection, terms: Terms) -> Iterator[Finding]:
    """Find usage below zero, which is rated as zero and carried nowhere."""
    for row in _ask(engine, "lint_negative"):
        plan = terms.plans[row["plan_key"]]
        meter = next(price.meter for price in plan.prices if price.id == row["price_id"])
        yield Finding(
            "negative_usage",
            f"the usage of {_tenants(row['tenants'])} came out at {trimmed(row['quantity'])}, below zero, and was rated as "
            "zero; void the events that are wrong, or book a credit",
            plan.name, plan.version, row["price_id"], meter, tenants=row["tenants"],
        )  # fmt: skip


HISTORY_CHECKS: tuple[Callable[[duckdb.DuckDBPyConnection, Terms], Iterator[Finding]], ...] = (
    find_unpriced_usage,
    find_idle_and_crowded_prices,
    find_negative_usage,
)


def _price_cliffs(engine: duckdb.DuckDBPyConnection, terms: Terms, findings: Sequence[Finding]) -> list[Finding]:
    """Say who would have paid less by using more, and how much less."""
    cliffs = [one for one in findings if one.code == "tier_cliff" and _is_one_quantity(_price_of(terms, one))]
    prices = [_price_of(terms, one) for one in cliffs]
    above = [(one.edge or Decimal(0)) + step_of(price, terms) for one, price in zip(cliffs, prices, strict=True)]
    edges = []
    for key in sorted({_key(one) for one in cliffs}):
        # Each plan reads its prices in its own way.
        own = [at for at, one in enumerate(cliffs) if _key(one) == key]
        worth = rate_alone([alone(prices[at]) for at in own], [above[at] for at in own], terms.plans[key])
        edges += [(key, cliffs[at].price_id, cliffs[at].edge, amount) for at, amount in zip(own, worth, strict=True)]
    load_table(engine, "lint_edge", _EDGE_COLUMNS, edges)
    rows = {(row["plan_key"], row["price_id"], row["edge"]): row for row in _ask(engine, "lint_cliff")}
    return [
        _priced(one, terms, rows.get((_key(one), one.price_id, one.edge)), "exact_amount") if one in cliffs else one
        for one in findings
    ]


def _price_limits(engine: duckdb.DuckDBPyConnection, terms: Terms, findings: Sequence[Finding]) -> list[Finding]:
    """Say who paid more than a maximum because of minimums inside it, or was not asked for what was promised; and how much."""
    found = [one for one in findings if one.code == "maximum_below_minimum"]
    limits: list[tuple[object, ...]] = []
    for one in found:
        plan = terms.plans[_key(one)]
        maximum = next(maximum for maximum in plan.maximums if maximum.id == one.price_id)
        capped = scope_of(maximum, [price.id for price in plan.prices])
        within = [*capped, *(floor.name for floor in floors_inside(plan, maximum) if floor.name not in capped)]
        limits += [(_key(one), maximum.id, price_id) for price_id in within]
    load_table(engine, "lint_limit", _LIMIT_COLUMNS, limits)
    rows = {(row["plan_key"], row["maximum_id"]): row for row in (_ask(engine, "lint_maximum") if found else [])}
    return [
        _priced(one, terms, rows.get((_key(one), one.price_id or "")), "exact_amount") if one in found else one
        for one in findings
    ]


def _is_one_quantity(price: Any) -> bool:
    """Return whether a line's quantity climbs the tiers by itself: not bucket by bucket, nor with other groups."""
    alone = getattr(price, "price_per", None) is None and getattr(price, "tiers_over", "group") == "group"
    return alone and not is_since_plan(price)


def _price_overlaps(engine: duckdb.DuckDBPyConnection, terms: Terms, findings: Sequence[Finding]) -> list[Finding]:
    """Say whose usage two prices charged, and what at most was charged twice."""
    pairs = [(_key(one), one.price_id, one.other_price_id) for one in findings if one.code == "prices_overlap"]
    load_table(engine, "lint_pair", _PAIR_COLUMNS, pairs)
    rows = {(row["plan_key"], row["price_id"], row["other_price_id"]): row for row in _ask(engine, "lint_overlap")}
    return [
        _priced(one, terms, rows.get((_key(one), one.price_id, one.other_price_id)), "amount")
        if one.code == "prices_overlap"
        else one
        for one in findings
    ]


def _count_unpriced(engine: duckdb.DuckDBPyConnection, findings: Sequence[Finding]) -> list[Finding]:
    """Say how much of a meter without any price was used."""
    rows = {row["meter"]: row for row in _ask(engine, "lint_meter")}
    counted = []
    for one in findings:
        row = rows.get(one.meter or "")
        if one.code == "meter_unpriced" and row is not None:
            used = f"{row['event_count']:,} usage events, quantity {trimmed(row['quantity'])}"
            counted.append(replace(one, tenants=row["tenants"], message=f"{one.message}; there were {used}"))
        else:
            counted.append(one)
    return counted


def _price_idle(terms: Terms, finding: Finding, lines: dict[tuple[str, str], dict[str, Any]]) -> Finding:
    """Say who paid the first tier's flat amount without any usage."""
    if finding.code != "flat_at_zero":
        return finding
    row = lines.get((_key(finding), finding.price_id or ""))
    return _priced(finding, terms, row and {"tenants": row["idle_tenants"], "amount": row["idle_amount"]}, "amount")


def _priced(finding: Finding, terms: Terms, row: dict[str, Any] | None, column: str) -> Finding:
    plan = terms.plans[_key(finding)]
    tenants, amount = (row["tenants"], row[column]) if row else (0, Decimal(0))
    return replace(finding, tenants=tenants, amount=_rounded(amount, plan), currency=plan.currency)


def _worth_of(
    plan: Plan, aggregation: str, missed: Sequence[dict[str, Any]], meter: str
) -> tuple[str | None, Decimal | None]:
    """Return a price of the plan on the meter, and what the usage that none takes is worth under it; None if unknown."""
    price: Any = next((one for one in plan.prices if one.meter == meter), None)
    if price is None or aggregation not in {"sum", "count"}:
        return (price.id if price else None), None
    quantities = [row["quantity"] if aggregation == "sum" else Decimal(row["event_count"]) for row in missed]
    whole = alone(price).model_copy(update={"convert": getattr(price, "convert", None)})
    worth = rate_alone([whole] * len(quantities), quantities, plan) if quantities else []
    return price.id, exact_sum([round_amount(one, minor_units(plan.currency)) for one in worth])


def _ask(engine: duckdb.DuckDBPyConnection, name: str, **parameters: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = fetch(engine, read_sql("rating", name), parameters).to_pylist()
    return rows


def _key(finding: Finding) -> str:
    return plan_key(finding.plan or "", finding.version or 0)


def _price_of(terms: Terms, finding: Finding) -> Any:
    return next(price for price in terms.plans[_key(finding)].prices if price.id == finding.price_id)


def _rounded(amount: Decimal, plan: Plan) -> Decimal:
    return round_amount(amount, minor_units(plan.currency))


def _paper(amount: Decimal, plan: Plan) -> str:
    return f"{plain(_rounded(amount, plan))} {plan.currency}"


def _tenants(count: int) -> str:
    return f"{count:,} tenant{'' if count == 1 else 's'}"
