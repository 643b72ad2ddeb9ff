"""The part of the contract that is about lists: what an adapter with `Capabilities.listing` tells of its provider.

Enters: an adapter, and the intents that arrived. Leaves: nothing, or AssertionError with a sentence. Refuses: lists that are not
as the schemas say, that show another sum than what arrived, that spill over their span, and halves of a list.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from billing_adapters.provider_list import (
    DOCUMENTS,
    LINES,
    PARTS,
    PAYMENTS,
    QUANTITIES,
    Asked,
    provider_schema,
)
from billing_adapters.testing.holding import hold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing_adapters.adapter import Adapter, Intent
    from billing_adapters.provider_list import Lister, ProviderList

BEFORE_ALL = datetime(2000, 1, 1, tzinfo=UTC)
# Which column is the row's own name, by table.
IDS = {DOCUMENTS: "provider_id", LINES: "provider_line_id", PAYMENTS: "provider_id", QUANTITIES: "start"}
DOUBLE_DIGITS = 9
ZERO = Decimal(0)


class BrokenOff(Exception):
    """The list could not be read on."""


def check_list(adapter: Adapter, intents: Sequence[Intent], *, until: datetime) -> None:
    """Hold that a list of all time shows every intent that arrived, once, with its sum, as the schemas say."""
    calls: list[int] = []
    found = _listed(adapter, intents, BEFORE_ALL, until, lambda: calls.append(1))
    said = adapter.capabilities.listing
    hold(
        said is not None and set(found.tables) == set(said.tables),
        f"it tells {sorted(found.tables)}, and declares others",
    )
    hold(found.adapter == adapter.capabilities.name, "a list says whose it is")
    hold((found.start, found.end, found.read_at) == (BEFORE_ALL, until, until), "a list says which span it is of")
    hold(calls, "spend is called before each call")
    for name, table in found.tables.items():
        hold(table.schema.equals(provider_schema(name)), f"{name} has the columns of its schema")
        others = set(table["adapter"].to_pylist()) - {adapter.capabilities.name}
        hold(not others, f"{name} has rows of {sorted(others)}")
    if DOCUMENTS in found.tables:
        _check_documents(adapter, found, intents)
    if QUANTITIES in found.tables:
        _check_quantities(adapter, found, intents)


def check_spans(adapter: Adapter, intents: Sequence[Intent], *, until: datetime) -> None:
    """Hold that the lists of `[a, m)` and `[m, b)` are together the list of `[a, b)`, row by row, for each `m` that a row has."""
    whole = _listed(adapter, intents, BEFORE_ALL, until)
    if DOCUMENTS not in whole.tables:
        return
    for cut in sorted(set(whole.tables[DOCUMENTS]["created_at"].to_pylist())):
        halves = [_listed(adapter, intents, BEFORE_ALL, cut), _listed(adapter, intents, cut, until)]
        for name, table in whole.tables.items():
            ids = Counter(one for half in halves for one in half.table(name)[IDS[name]].to_pylist())
            hold(ids == Counter(table[IDS[name]].to_pylist()), f"{name} cut at {cut} is not {name} as a whole")
        late = [one for one in halves[0].table(DOCUMENTS)["created_at"].to_pylist() if one >= cut]
        hold(not late, f"what was made at {cut} is of the span that begins then")


def check_breaks(adapter: Adapter, intents: Sequence[Intent], *, until: datetime) -> None:
    """Hold that whatever stops a list at any of its calls reaches the caller: there is no half a list."""
    calls: list[int] = []
    _listed(adapter, intents, BEFORE_ALL, until, lambda: calls.append(1))
    for last in range(len(calls)):
        made = 0

        def spend(last: int = last) -> None:
            nonlocal made
            if made == last:
                raise BrokenOff
            made += 1

        try:
            _listed(adapter, intents, BEFORE_ALL, until, spend)
        except BrokenOff:
            continue
        hold(False, f"a list that broke off at its call {last + 1} was given out as a whole one")


def _check_documents(adapter: Adapter, found: ProviderList, intents: Sequence[Intent]) -> None:
    rows = found.tables[DOCUMENTS].to_pylist()
    by_delivery: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_delivery[row["delivery_id"] or ""].append(row)
    for intent in intents:
        if intent.currency is None or intent.amount is None:
            continue
        held = by_delivery[intent.delivery_id(adapter.capabilities.name)]
        hold(len(held) == 1, f"{intent.natural_key} is listed {len(held)} times")
        sent = intent.amount if intent.quantity is None else intent.quantity
        told = (held[0]["total"], held[0]["currency"])
        hold(told == (abs(sent), intent.currency), f"{intent.natural_key} is listed with {told}, sent was {sent}")
    hold(len({row["provider_id"] for row in rows}) == len(rows), "each document is one row")
    if LINES in found.tables:
        _check_lines(found, rows)
    if PAYMENTS in found.tables:
        _check_payments(found, rows)


def _check_lines(found: ProviderList, documents: Sequence[Any]) -> None:
    amounts: defaultdict[str, list[Decimal]] = defaultdict(list)
    for row in found.tables[LINES].to_pylist():
        amounts[row["provider_id"]].append(row["amount"])
    for row in documents:
        own = amounts.pop(row["provider_id"], [])
        hold(len(own) == row["lines"], f"{row['provider_id']} says {row['lines']} lines, and {len(own)} are listed")
        is_right = not own or row["net"] is None or sum(own, ZERO) == row["net"]
        hold(is_right, f"the lines of {row['provider_id']} are not its net")
    hold(not amounts, f"lines of documents that are not listed: {sorted(amounts)}")


def _check_payments(found: ProviderList, documents: Sequence[Any]) -> None:
    rows = found.tables[PAYMENTS].to_pylist()
    listed = Counter(row["provider_id"] for row in rows)
    hold(listed == Counter(row["provider_id"] for row in documents), "each document has one row of payment")
    for row in rows:
        hold(
            sum((row[part] for part in PARTS), ZERO) == row["total"], f"the parts of {row['provider_id']} are its total"
        )


def _check_quantities(adapter: Adapter, found: ProviderList, intents: Sequence[Intent]) -> None:
    sent: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    told: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for intent in intents:
        if intent.currency is None and intent.quantity is not None:
            sent[intent.account_id, _name_of(intent)] += intent.quantity
    for row in found.tables[QUANTITIES].to_pylist():
        told[row["account_id"], row["name"]] += row["quantity"]
    said = adapter.capabilities.listing
    for key in sent.keys() | told.keys():
        # A double is good for so many digits of the figure.
        room = abs(sent[key]).scaleb(-DOUBLE_DIGITS) if said is not None and said.is_double else ZERO
        hold(abs(sent[key] - told[key]) <= room, f"{key} is listed with {told[key]}, sent was {sent[key]}")


def _listed(
    adapter: Adapter,
    intents: Sequence[Intent],
    start: datetime,
    end: datetime,
    spend: Callable[[], object] = lambda: None,
) -> ProviderList:
    names = sorted({(one.account_id, _name_of(one)) for one in intents if one.currency is None and one.series})
    asked = [Asked(account, name, start, end, timedelta(hours=1)) for account, name in names]
    return cast("Lister", adapter).list_held(start, end, asked=asked, spend=spend, read_at=end)


def _name_of(intent: Intent) -> str:
    return (intent.series or "").partition(" ")[2]
