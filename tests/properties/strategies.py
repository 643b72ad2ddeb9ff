"""Catalogs and usage events for property tests, small and full of edges.

Quantities and tier edges come from the same few numbers, event times from the edges of the very periods that are rated,
one microsecond to either side, attributes from values that are easily mistaken for each other (missing, empty, "null",
1 and "1"). A world is a catalog, events, and the month that is rated.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests import oracle

Row = dict[str, Any]
Draw = st.DrawFn

AGGREGATIONS = ("count", "sum", "max", "min", "last", "unique_count")
# Zones where midnight is skipped, a whole day is, an offset is not in hours, or the clock moves by half an hour.
ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Africa/Cairo",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Santiago",
)
MONTHS = ("2026-02", "2026-03", "2026-04", "2026-10")
EDGES = ("0", "0.000000001", "0.5", "1", "2", "3.000000001", "10", "12.25", "100")
UNIT_PRICES = ("0", "1", "0.5", "0.005", "0.015", "-0.25", "0.000000000001", "3.333333333333", "12.000000000005")
FLAT_AMOUNTS = ("0", "5", "0.005", "-0.015", "19.99", "0.333333333333")
QUANTITIES = ("0", "1", "2", "0.5", "0.000000001", "1.000000001", "9.999999999", "10", "3", "-1", "-0.5", "90")
VALUES = (None, "", "null", "a", "A", "1", 1, True, "é", 'say "x"')
ATTRIBUTES = ("model", "region")
MICROSECOND = timedelta(microseconds=1)


class World(NamedTuple):
    catalog: Row
    events: list[Row]
    month: str


def texts(values: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


@st.composite
def tiers(draw: Draw) -> list[Row]:
    edges = draw(st.lists(texts(EDGES), max_size=4, unique_by=Decimal))
    ups: list[str | None] = [*sorted(edges, key=Decimal), None]
    return [
        {
            **({} if up_to is None else {"up_to": up_to}),
            "unit_price": draw(texts(UNIT_PRICES)),
            "flat_amount": draw(texts(FLAT_AMOUNTS)),
        }
        for up_to in ups
    ]


@st.composite
def metered_terms(draw: Draw) -> Row:
    kind = draw(st.sampled_from(("unit", "graduated", "volume", "package")))
    if kind == "unit":
        return {"type": kind, "unit_price": draw(texts(UNIT_PRICES))}
    if kind == "package":
        return {"type": kind, "package_size": draw(texts(EDGES[1:])), "package_price": draw(texts(FLAT_AMOUNTS))}
    return {"type": kind, "tiers": draw(tiers())}


@st.composite
def prices(draw: Draw, price_id: str) -> Row:
    if draw(st.integers(0, 4)) == 0:
        return {
            "id": price_id,
            "type": "flat",
            "amount": draw(texts(("10", "49.99", "0.01", "100", "-7"))),
            "when": draw(st.sampled_from(("in_advance", "in_arrears"))),
            "prorate": draw(st.booleans()),
        }
    where = draw(
        st.dictionaries(
            texts(ATTRIBUTES), st.lists(texts(("a", "A", "1", "null")), min_size=1, max_size=2, unique=True), max_size=2
        )
    )
    by = draw(st.lists(texts(ATTRIBUTES), max_size=2, unique=True))
    return {
        "id": price_id,
        "meter": draw(texts(AGGREGATIONS)),
        "where": where,
        "by": by,
        **draw(metered_terms()),
    }


@st.composite
def plans(draw: Draw, name: str) -> Row:
    anchor = draw(st.sampled_from(("calendar", "subscription", "2026-01-31", "2024-02-29")))
    return {
        "name": name,
        "version": 1,
        "currency": draw(st.sampled_from(("USD", "JPY", "KWD"))),
        "billing_period": {
            "every": draw(st.sampled_from(("month", "month", "quarter", "week", "day", "year"))),
            "anchor": anchor,
            "timezone": draw(texts(ZONES)),
        },
        "prices": [draw(prices(f"{name}-{number}")) for number in range(draw(st.integers(1, 3)))],
    }


@st.composite
def subscriptions(draw: Draw, number: int, plan: str) -> Row:
    starts = ("2025-11-30", "2026-01-01", "2026-01-31", "2026-02-10T10:30:00+01:00", "2026-03-08T02:30:00-05:00")
    ends = (None, None, "2026-03-20", "2026-04-01", "2026-10-25T00:30:00Z", "2027-02-01")
    row = {
        "id": f"s{number}",
        "tenant": f"t{number}",
        "plan": plan,
        "version": 1,
        "from": draw(st.sampled_from(starts)),
    }
    until = draw(st.sampled_from(ends))
    return row if until is None else {**row, "until": until}


@st.composite
def catalogs(draw: Draw) -> Row:
    made = [draw(plans(f"p{number}")) for number in range(draw(st.integers(1, 3)))]
    subscribed = [draw(subscriptions(number, plan["name"])) for number, plan in enumerate(made)]
    if len(subscribed) > 1 and draw(st.booleans()):
        # One tenant on two plans: each event is rated under both.
        subscribed[1]["tenant"] = subscribed[0]["tenant"]
    return {
        "meters": [
            {
                "name": kind,
                "aggregation": kind,
                "attributes": [*ATTRIBUTES, "user"],
                "negative_allowed": True,
                **({"unique_attribute": "user"} if kind == "unique_count" else {}),
            }
            for kind in AGGREGATIONS
        ],
        "plans": made,
        "accounts": [{"id": "payer", "name": "Payer", "tenants": sorted({row["tenant"] for row in subscribed})}],
        "subscriptions": subscribed,
    }


def edges_of(catalog: Row, month: str) -> list[datetime]:
    """Return the instants at which anything rated begins or ends, as the oracle has them, and one inside."""
    found = {datetime(2026, 3, 10, 12, tzinfo=UTC)}
    for _, _, period in oracle.rated_periods(catalog, month):
        found |= {period.start, period.end, period.service_start, period.service_end}
        found.add(period.service_start + (period.service_end - period.service_start) // 2)
    return sorted(found)


@st.composite
def event_lists(draw: Draw, catalog: Row, month: str, max_size: int = 25) -> list[Row]:
    tenants = [*catalog["accounts"][0]["tenants"], "stranger"]
    meters = sorted({price["meter"] for plan in catalog["plans"] for price in plan["prices"] if "meter" in price})
    edges = edges_of(catalog, month)
    return [
        {
            "tenant_id": draw(texts((*tenants[:-1], *tenants))),
            "meter": draw(texts((*meters, "unpriced"))),
            "quantity": draw(texts(QUANTITIES)),
            "event_time": draw(st.sampled_from(edges)) + draw(st.integers(-1, 1)) * MICROSECOND,
            "recorded_at": datetime(2026, 1, 1, tzinfo=UTC) + draw(st.integers(0, 3)) * MICROSECOND,
            "producer_id": draw(texts(("x", "y"))),
            "segment": draw(st.integers(0, 1)),
            # The row makes an event unique; it may not follow the order in which events are listed.
            "row": number if draw(st.booleans()) else 1000 - number,
            "idempotency_key": draw(st.sampled_from((None, None, None, "k", "l", "K"))),
            "attributes": {
                name: draw(st.sampled_from(VALUES)) for name in (*ATTRIBUTES, "user") if draw(st.integers(0, 2))
            },
        }
        for number in range(draw(st.integers(0, max_size)))
    ]


@st.composite
def worlds(draw: Draw) -> World:
    catalog, month = draw(catalogs()), draw(texts(MONTHS))
    return World(catalog, draw(event_lists(catalog, month)), month)
