"""The books that the readers of `peers.jsonl` ask: one tenant on one plan, rated, booked and invoiced by the engine.

Nothing is computed here. A catalog is what a file would say; `Books` rates all that is known, books the difference, and
can make the invoice of it, with prepaid balances and taxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from metering.catalog import Meter
from metering.periods import Period
from metering.usage import Snapshot
from rating.balances import Balance
from rating.close import Close
from rating.invoice import Invoice, Prepaid, make_invoices
from rating.preview import rate_events
from rating.prices import Price
from rating.rate import RatedQuantity
from tests.conformance.ask import Refused
from tests.rated import AFTER_ALL, Booked, Component, engine, events_table

START = datetime(2026, 1, 1, tzinfo=UTC)
MONTH = "2026-01"
_PRICES: TypeAdapter[Any] = TypeAdapter(Price)


class BookedLine(NamedTuple):
    """What one booking adds to a line: exactly, on paper, and its components."""

    price_id: str
    exact_amount: Decimal
    amount: Decimal
    components: Sequence[Component]


def sold(
    prices: Sequence[Mapping[str, Any]],
    *,
    currency: str = "USD",
    meter: Mapping[str, Any] | None = None,
    on: Sequence[Mapping[str, Any]] = ({},),
    **plan: Any,
) -> dict[str, Any]:
    """Return a catalog: a plan with these prices and terms, and one tenant `on` it, by default from January 2026 on."""
    subscriptions = [
        {"id": "s", "tenant": "tenant", "plan": "plan", "version": 1, "from": START.date().isoformat(), **said}
        for said in on
    ]
    return {
        "meters": [{"name": "units", "negative_allowed": True} if meter is None else {"name": "units", **meter}],
        "plans": [{"name": "plan", "version": 1, "currency": currency, "prices": list(prices), **plan}],
        "accounts": [{"id": "account", "name": "Account", "tenants": ["tenant"]}],
        "subscriptions": subscriptions,
    }


def flat(price_id: str, amount: object, **terms: Any) -> dict[str, Any]:
    return {"id": price_id, "type": "flat", "amount": str(amount), **terms}


def one_each(price_id: str, **terms: Any) -> dict[str, Any]:
    """Return a price that sees only the events that name it: one unit of money per unit, unless said otherwise."""
    kind = {} if "type" in terms else {"type": "unit", "unit_price": "1"}
    return {"id": price_id, "meter": "units", "where": {"price": price_id}, **kind, **terms}


class Books:
    """The books of one tenant. Every booking rates all that is known and books the difference to what was booked."""

    def __init__(self) -> None:
        self._booked = Booked()

    def book(
        self,
        catalog: dict[str, Any],
        events: Sequence[dict[str, Any]] = (),
        *,
        month: str = MONTH,
        as_of: datetime = AFTER_ALL,
    ) -> list[BookedLine]:
        """Book what is due of a month, and return the lines of this booking. Raises Refused as the plan checker does."""
        try:
            found = self._booked.book(catalog, list(events), month, as_of)
        except ValidationError as error:
            raise Refused(str(error)) from error
        return [
            BookedLine(price_id, line.exact, line.amount, components)
            for (_, _, price_id, _), (line, components) in found.items()
        ]


def total(lines: Sequence[BookedLine]) -> Decimal:
    """Return the sum of some lines: exact, or as on paper where a true-up makes the paper add up."""
    is_trued_up = any(component.part == "minimum" for line in lines for component in line.components)
    return sum((line.amount if is_trued_up else line.exact_amount for line in lines), Decimal(0))


def by_price(lines: Sequence[BookedLine], price_ids: Sequence[str]) -> list[Decimal]:
    """Return the amounts on paper of some prices, in the order asked for; without a line it is nothing."""
    amounts = {line.price_id: line.amount for line in lines}
    return [amounts.get(price_id, Decimal(0)) for price_id in price_ids]


def invoice(
    catalog: dict[str, Any],
    events: Sequence[dict[str, Any]] = (),
    balances: Sequence[Mapping[str, Any]] = (),
    *,
    month: str = MONTH,
) -> Invoice | None:
    """Return the one invoice of a month, as the close makes it; none where nothing is due."""
    Books().book(catalog, events, month=month)
    return paper(balances)


def paper(balances: Sequence[Mapping[str, Any]] = ()) -> Invoice | None:
    """Return the invoice of what was booked last, with what prepaid balances pay of it; none where nothing was."""
    close = Close(
        close_id="close", period_start=START, period_end=datetime(2026, 2, 1, tzinfo=UTC), sequence=1, position=1,
        as_of=AFTER_ALL, is_complete=True, kind="period", snapshot=Snapshot(()), catalog_revision=1,
        invoices_made=False,
    )  # fmt: skip
    try:
        granted = [Balance.model_validate({"account": "account", "effective": "2000-01-01", **row}) for row in balances]
    except ValidationError as error:
        raise Refused(str(error)) from error
    made = make_invoices(engine(), close, "draft", Prepaid(balances={"account": granted}))
    return made[0] if made else None


def of_events(
    terms: Mapping[str, Any],
    events: Sequence[dict[str, Any]],
    meter: Mapping[str, Any] | None = None,
    period: tuple[datetime, datetime] | None = None,
) -> dict[str, RatedQuantity]:
    """Return what events are worth under one price, by group."""
    try:
        price = _PRICES.validate_python(dict(terms))
        counted = Meter.model_validate({"name": "units", **(meter or {})})
    except ValidationError as error:
        raise Refused(str(error)) from error
    table = events_table(list(events))
    return rate_events(price, counted, table, period=None if period is None else Period(*period))


def worth_of_events(
    terms: Mapping[str, Any], events: Sequence[dict[str, Any]], meter: Mapping[str, Any] | None = None
) -> Decimal:
    """Return the exact amount of all groups together."""
    return sum((rated.exact_amount for rated in of_events(terms, events, meter).values()), Decimal(0))
