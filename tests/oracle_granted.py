"""The slow, obvious answer to what grants cover of a billing span: every subscription, quota, top-up and event, lived through.

It shares no code with the packages: catalogs and events as plain rows, the walk through time of oracle_grants. A tenant's
subscriptions follow each other or run beside each other; the one that began first says when usage begins anew, the others are
on top. Written from the price models, section 8, and docs/entitlements.md.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from tests import oracle, oracle_adjust, oracle_grants

Row = dict[str, Any]
ZERO = Decimal(0)


class Held(NamedTuple):
    """A subscription on a plan that meters the feature, over [start, end)."""

    start: datetime
    name: str
    end: datetime
    entitlement: Row
    plan: Row
    around: datetime


def held_by(catalog: Row, tenant: str, feature: str) -> list[Held]:
    plans = {(plan["name"], str(plan["version"])): plan for plan in catalog["plans"]}
    found = []
    for subscription in catalog["subscriptions"]:
        if subscription["tenant"] != tenant:
            continue
        for plan, opens, closes in oracle_adjust.phases(subscription, plans):
            begins = oracle.moment(subscription["from"], plan["billing_period"].get("timezone", "UTC"))
            said = [one for one in plan.get("entitlements", []) if one["feature"] == feature]
            found += [Held(opens, subscription["id"], closes, one, plan, begins) for one in said]
    return sorted(found, key=lambda one: (one.around, one.name, one.start))


def periods_of(held: Held, until: datetime) -> list[oracle.Period]:
    """Return the billing periods from the beginning to an instant; those of the whole subscription, cut to this plan."""
    terms = held.plan["billing_period"]
    zone, anchor = terms.get("timezone", "UTC"), terms.get("anchor", "calendar")
    if anchor == "subscription":
        anchor = oracle.local(held.around, zone).isoformat()
    end = min(held.end, until)
    return (
        list(oracle.billing_periods(terms.get("every", "month"), anchor, zone, held.start, end))
        if held.start < end
        else []
    )


def leads_of(all_held: list[Held], until: datetime) -> list[tuple[datetime, Held]]:
    """Return who leads, from when on: of all who hold the feature the subscription that began first."""
    found: list[tuple[datetime, Held]] = []
    at = min(one.start for one in all_held)
    while at < until:
        running = [one for one in all_held if one.start <= at < one.end]
        later = [one.start for one in all_held if one.start > at]
        if running:
            found.append((at, running[0]))
            # An older subscription may come to hold it later.
            older = [one.start for one in all_held[: all_held.index(running[0])] if at < one.start < running[0].end]
            at = min([running[0].end, *older])
        elif later:
            at = min(later)
        else:
            break
    return found


def grants_of(catalog: Row, tenant: str, feature: str, leads: list[tuple[datetime, Held]], all_held: list[Held],
              until: datetime) -> list[Row]:  # fmt: skip
    found: list[Row] = []
    for number, one in enumerate(all_held):
        said = one.entitlement
        if one.start >= until or "quota" not in said:
            continue
        periods = periods_of(one, until)
        quota = Decimal(said["quota"])
        row: Row = {
            "id": f"q{number}", "amount": quota, "priority": int(said.get("priority", 50)), "from": one.start,
            "voided_at": one.end, "created_at": one.start, "min": quota, "max": quota,
        }  # fmt: skip
        if (one.start, one) not in leads:
            found.append({**row, "min": ZERO, "due": [period.service_start for period in periods[1:]]})
            continue
        # From when on somebody else leads, if it is not over then.
        gone = next((start for start, other in leads if other is not one and one.start < start < one.end), one.end)
        row["voided_at"] = gone
        if gone < one.end:
            again = [period.service_start for period in periods if period.service_start > gone]
            found.append({**row, "id": f"q{number} on top", "from": gone, "voided_at": one.end, "created_at": gone,
                          "min": ZERO, "due": again})  # fmt: skip
        if "rollover_max" not in said:
            found.append(row)
        else:
            periods = [period for period in periods if period.service_start < gone]
            low, high = Decimal(said.get("rollover_min", "0")), Decimal(said["rollover_max"])
            for place, period in enumerate(periods):
                every = periods_of(one._replace(end=oracle_grants.NEVER), period.end + (period.end - period.start) * 2)
                found.append(
                    {
                        **row, "id": f"q{number}/{place}", "from": period.service_start, "expires_at": every[place + 1].end,
                        "created_at": period.service_start, "min": low, "max": high,
                    }
                )  # fmt: skip
    for grant in catalog.get("grants", []):
        if (grant["tenant"], grant["feature"]) != (tenant, feature):
            continue
        begins, amount = oracle.moment(grant["effective"], "UTC"), Decimal(grant["amount"])
        most = grant.get("rollover_max", "0" if "recurs" in grant else grant["amount"])
        row = {
            "id": grant["id"], "amount": amount, "priority": int(grant.get("priority", 100)), "from": begins,
            "created_at": begins, "min": Decimal(grant.get("rollover_min", "0")), "max": Decimal(most),
        }  # fmt: skip
        row |= {f"{end}_at": oracle.moment(grant[end], "UTC") for end in ("expires", "voided") if end in grant}
        if "recurs" in grant:
            wall, number, due = begins.replace(tzinfo=None), 1, []
            while (at := oracle.boundary(wall, grant["recurs"], number, "UTC")) <= until:
                due.append(at)
                number += 1
            row["due"] = due
        found.append(row)
    return found


def covered(catalog: Row, tenant: str, feature: str, period: oracle.Period, events: list[Row]) -> Decimal | None:
    """Return what grants cover of the use in the service period; None: all of it, for nothing limits it."""
    since, until = period.service_start, period.service_end
    all_held = [one for one in held_by(catalog, tenant, feature) if one.start < until]
    running = [one for one in all_held if one.start < until <= one.end]
    if not running:
        return ZERO
    if any("quota" not in one.entitlement for one in running):
        return None
    meter = next(row for row in catalog["meters"] if row["name"] == running[0].entitlement["meter"])
    leads = leads_of(all_held, until)
    grants = grants_of(catalog, tenant, feature, leads, all_held, until)
    mine = [event for event in events if event["meter"] == meter["name"]]
    if meter.get("aggregation", "sum") not in {"sum", "count"}:
        # A ceiling: what is there at the very end.
        last = until - (until - since) / 10**9
        return sum((row["amount"] for row in grants if oracle_grants.active(row, last)), ZERO)

    def counts(at: datetime) -> bool:
        free = any(one.start <= at < one.end and "quota" not in one.entitlement for one in all_held)
        return not free and any(start <= at < one.end for start, one in leads)

    usage = [
        (event["event_time"], Decimal(event["quantity"]) if meter.get("aggregation", "sum") == "sum" else Decimal(1))
        for event in mine
    ]
    begin = leads[0][0]
    usage = sorted((one for one in usage if begin <= one[0] < until and counts(one[0])), key=lambda one: one[0])
    resets = {start for start, _ in leads[1:]}
    resets |= {
        inner.service_start for start, one in leads for inner in periods_of(one, until) if inner.service_start > start
    }
    start = {
        "at": begin, "overage": ZERO, "usage": ZERO, "paid": ZERO,
        "balances": {row["id"]: row["amount"] for row in grants if oracle_grants.active(row, begin)},
    }  # fmt: skip
    walks = [
        oracle_grants.walked(grants, usage, start, at, [reset for reset in sorted(resets) if begin < reset < at], False)
        for at in (since, until)
    ]
    used = sum((quantity for at, quantity in usage if at >= since), ZERO)
    return min(used, walks[1].paid_by_end - walks[0].paid_by_end)


def with_included(catalog: Row, subscription: Row, price: Row, period: oracle.Period, events: list[Row]) -> Row:
    """Return a price that includes what grants cover as one that includes so many units."""
    count = covered(catalog, subscription["tenant"], price["included_from"], period, events)
    return {**price, "included": str(Decimal(10) ** 28 if count is None else count)}
