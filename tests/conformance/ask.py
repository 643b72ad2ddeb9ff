"""The questions that the readers put to the public engine. Nothing is computed here either.

worth       a quantity under a price, with its tiers          rating.rate_quantity
cuts        cumulative quantities, each cut booked            metering + rating, worth minus booked
usage       events to one quantity, per group or in all       metering.usage
accepted    which events are stored and which refused         metering.events
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from metering.catalog import Meter
from metering.errors import BadEvent
from metering.events import check_quantity
from metering.periods import Period
from metering.usage import Selector, Span, aggregate, load_events
from rating.dialect import STRICT, Switches
from rating.iso4217 import minor_units
from rating.plans import Plan
from rating.prices import Price
from rating.rate import RatedQuantity, check_priced, rate, rate_quantity, read_rated
from rating.rounding import round_amount
from rating.terms import BillingSpan, Terms, selector_of
from tests.oracle import Line
from tests.rated import Booked, Component, engine, engine_lines, events_table

PERIOD = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
_PRICES: TypeAdapter[Any] = TypeAdapter(Price)


class Refused(Exception):
    """The plan checker does not accept the terms."""


def price(**terms: Any) -> dict[str, Any]:
    """Return the terms of a price as a catalog file writes them; without what is not said."""
    return {"id": "price", **({} if terms["type"] == "flat" else {"meter": "units"}), **terms}


def tier(up_to: object, unit_price: object, flat_amount: object) -> dict[str, Any]:
    texts = {"up_to": up_to, "unit_price": unit_price, "flat_amount": flat_amount}
    return {name: str(value) for name, value in texts.items() if value is not None}


@cache
def _worth(terms: str, quantity: Decimal, currency: str, switches: tuple[tuple[str, str], ...]) -> RatedQuantity:
    return rate_quantity(_PRICES.validate_json(terms), quantity, currency=currency, switches=dict(switches))


def worth(
    terms: Mapping[str, Any], quantity: object, currency: str = "USD", switches: Mapping[str, str] | None = None
) -> RatedQuantity:
    """Return what a quantity is worth. Raises Refused where the plan checker does not accept the price."""
    try:
        checked = _PRICES.validate_python(terms)
    except ValidationError as error:
        raise Refused(str(error)) from error
    return _worth(checked.model_dump_json(), Decimal(str(quantity)), currency, tuple(sorted((switches or {}).items())))


def catalog(
    prices: Sequence[dict[str, Any]],
    *,
    currency: str = "USD",
    meter: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    subscription: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a catalog in which one tenant is on one plan with these prices, from January 2026 on."""
    on = {"id": "s", "tenant": "tenant", "plan": "plan", "version": 1, "from": "2026-01-01"}
    return {
        "meters": [{"name": "units", "negative_allowed": not meter, **(meter or {})}],
        "plans": [{"name": "plan", "version": 1, "currency": currency, "prices": list(prices), **(plan or {})}],
        "accounts": [{"id": "account", "name": "Account", "tenants": ["tenant"]}],
        "subscriptions": [{**on, **(subscription or {})}],
    }


def invoiced(sold: dict[str, Any], events: Sequence[dict[str, Any]], month: str) -> list[Line]:
    """Return the lines of all that is due when a month is over."""
    return list(engine_lines(sold, list(events), month).values())


class Cut(NamedTuple):
    """A point at which everything so far is rated and booked."""

    cumulative_quantity: Decimal
    at_end: bool = True


def cuts(terms: Mapping[str, Any], made: Sequence[Cut], currency: str = "USD") -> list[tuple[Decimal, list[Component]]]:
    """Return (amount, components) that each cut of one billing period books; a cut inside the period lies on day 15."""
    sold = catalog([dict(terms)], currency=currency)
    booked = Booked()
    found = []
    for cut in made:
        events = [event(cut.cumulative_quantity)] if cut.cumulative_quantity else []
        as_of = PERIOD[1] if cut.at_end else PERIOD[0] + timedelta(days=15)
        lines = booked.book(sold, events, "2026-01", as_of)
        line, components = next(iter(lines.values()), (Line(Decimal(0), Decimal(0), Decimal(0)), []))
        found.append((line.amount, components))
    return found


def event(quantity: object, at: datetime = PERIOD[0], row: int = 0, key: str | None = None, **attributes: Any) -> Any:
    """Return a usage event of the one tenant and the one meter."""
    return {
        "tenant_id": "tenant",
        "meter": "units",
        "quantity": str(quantity),
        "event_time": at,
        "recorded_at": datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=row),
        "producer_id": "producer",
        "segment": 0,
        "row": row,
        "idempotency_key": key,
        "attributes": attributes,
    }


def accepted_quantity(value: object) -> Decimal | None:
    """Return a value as a quantity, or None where the event is refused (and would be a dead letter)."""
    try:
        return check_quantity(value, negative_allowed=True)
    except BadEvent:
        return None


def rated(
    terms: Mapping[str, Any],
    meter: Mapping[str, Any],
    events: Sequence[dict[str, Any]],
    service: tuple[datetime, datetime],
    full: tuple[datetime, datetime],
    switches: Mapping[str, str] | None = None,
) -> RatedQuantity:
    """Return what events are worth under one price without groups, in a service period of a full billing period."""
    said = {"name": "plan", "version": 1, "currency": "USD", "prices": [terms], "switches": dict(switches or {})}
    try:
        plan, counted = Plan.model_validate(said), Meter.model_validate({"name": "units", **meter})
    except ValidationError as error:
        raise Refused(str(error)) from error
    span = BillingSpan(0, "s", "tenant", "account", "plan", 1, "USD", Period(*full), Period(*service), True)
    asked = engine()
    load_events(asked, events_table(list(events)))
    rate(asked, Terms.of([counted], [plan], [], []), [span], full[1])
    check_priced(asked)
    return read_rated(asked)[0, ""]


class Used(NamedTuple):
    """The usage of one group; `quantity` is None where there was no event and the aggregation has no answer to that."""

    group_key: str
    event_count: int
    quantity: Decimal


def usage(
    aggregation: str,
    events: Sequence[dict[str, Any]],
    *,
    period: tuple[datetime, datetime] = PERIOD,
    full: tuple[datetime, datetime] | None = None,
    timezone: str = "UTC",
    by: Sequence[str] = (),
    switches: Switches = STRICT,
    **measure: Any,
) -> list[Used]:
    """Return the usage of the events that lie in a period, one per group. `measure`: what else the catalog says of the meter."""
    return used_by([_selector(aggregation, by, switches, measure)], events, period, full, timezone)["price"]


def used_by(
    selectors: Sequence[Selector],
    events: Sequence[dict[str, Any]],
    period: tuple[datetime, datetime] = PERIOD,
    full: tuple[datetime, datetime] | None = None,
    timezone: str = "UTC",
) -> dict[str, list[Used]]:
    """Return the usage of each selector of one set, by its id, in the order of groups."""
    rows = _aggregated(selectors, events, [Span(0, "tenant", "all", *period, timezone, *(full or period))])
    return {
        selector.selector_id: [Used(*row) for selector_id, _, *row in rows if selector_id == selector.selector_id]
        for selector in selectors
    }


def usage_of_each(
    aggregation: str,
    events: Sequence[dict[str, Any]],
    periods: Sequence[tuple[datetime, datetime]],
    *,
    full: tuple[datetime, datetime] | None = None,
    **measure: Any,
) -> list[Used]:
    """Return the usage of each of several periods, asked at once; without groups each has exactly one."""
    spans = [Span(number, "tenant", "all", *one, "UTC", *(full or one)) for number, one in enumerate(periods)]
    rows = _aggregated([_selector(aggregation, (), STRICT, measure)], events, spans)
    return [Used(*row) for _, _, *row in sorted(rows, key=itemgetter(1))]


def _aggregated(
    selectors: Sequence[Selector], events: Sequence[dict[str, Any]], spans: Sequence[Span]
) -> list[tuple[Any, ...]]:
    asked = engine()
    load_events(asked, events_table(list(events)))
    aggregate(asked, spans, selectors)
    rows: list[tuple[Any, ...]] = asked.execute(
        "SELECT selector_id, span_id, group_key, event_count, quantity FROM usage ORDER BY group_key"
    ).fetchall()
    return rows


def _selector(aggregation: str, by: Sequence[str], switches: Switches, measure: Mapping[str, Any]) -> Selector:
    said = {name: value for name, value in measure.items() if value is not None}
    try:
        meter = Meter.model_validate({"name": "units", "aggregation": aggregation, "negative_allowed": True, **said})
    except ValidationError as error:
        raise Refused(str(error)) from error
    one = _PRICES.validate_python(price(type="unit", unit_price="1", by=list(by)))
    return selector_of("all", one, meter, switches)


def group_value(used: Used, attribute: str) -> Any:
    """Return the value of one attribute that usage was grouped by."""
    return json.loads(used.group_key)[attribute]


def rounded(amount: object, currency: str) -> Decimal:
    """Return an amount as it stands on paper."""
    return round_amount(Decimal(str(amount)), minor_units(currency))
