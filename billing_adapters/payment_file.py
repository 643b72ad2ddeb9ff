"""A file of payments: what a bank, a dunning service or a person says was paid, paid back or given up, one row each.

Enters: CSV with the columns payment_id, number, kind, amount, currency, paid_at. Leaves: `NamedPayment`s. Refuses: the whole
file where one row is not right, by row and column: numbers that no document has, other currencies, amounts that are not above
zero or finer than the currency, instants without a zone, and two rows of one id.
"""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, get_args

from billing_adapters.errors import ProviderListRefused
from billing_adapters.settlements import Kind, NamedPayment
from rating.iso4217 import minor_units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

COLUMNS = ("payment_id", "number", "kind", "amount", "currency", "paid_at")
# Who reports payments by a file: the name that stands with what is booked of them.
ADAPTER = "files"
_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,25})(\.[0-9]{1,4})?")
# Without control characters and line breaks, and not blank.
_ID = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}")
_KINDS: tuple[Kind, ...] = get_args(Kind)


def read_payments(path: Path, documents: Mapping[str, tuple[str, str]]) -> list[NamedPayment]:
    """Return the payments of a file; `documents`: by number, the invoice and its currency. Raises ProviderListRefused."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            found = tuple(reader.fieldnames or ())
            if set(found) != set(COLUMNS) or len(found) != len(COLUMNS):
                raise ProviderListRefused(f"{path} has the columns {', '.join(found)}; it needs {', '.join(COLUMNS)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as wrong:
        raise ProviderListRefused(f"{path} cannot be read as CSV: {wrong}") from wrong
    made: dict[str, NamedPayment] = {}
    for at, row in enumerate(rows, start=1):

        def refuse(column: str, words: str, at: int = at, row: Mapping[str, str] = row) -> ProviderListRefused:
            return ProviderListRefused(f"{path}, row {at}: {column} {row.get(column)!r} {words}; nothing was booked")

        one = _payment(row, documents, refuse)
        if one.payment_id in made:
            raise refuse("payment_id", "is there twice")
        made[one.payment_id] = one
    return list(made.values())


def _payment(
    row: Mapping[str | None, str | None],
    documents: Mapping[str, tuple[str, str]],
    refuse: Callable[[str, str], ProviderListRefused],
) -> NamedPayment:
    text = {name: row.get(name) or "" for name in COLUMNS}
    if None in row or not _ID.fullmatch(text["payment_id"]):
        raise refuse(
            "payment_id", "is no id of up to 200 characters on one line, or the row has more cells than columns"
        )
    if text["number"] not in documents:
        raise refuse("number", "is the number of no final document")
    invoice_id, currency = documents[text["number"]]
    if text["currency"] != currency:
        raise refuse("currency", f"is not that of the document, which is {currency}")
    if text["kind"] not in _KINDS:
        raise refuse("kind", f"is none of {', '.join(_KINDS)}")
    if not _AMOUNT.fullmatch(text["amount"]) or not (amount := Decimal(text["amount"])):
        raise refuse("amount", "is no plain amount above zero")
    if -int(amount.normalize().as_tuple().exponent) > minor_units(currency):
        raise refuse("amount", f"is finer than {currency} is")
    kind: Kind = next(one for one in _KINDS if one == text["kind"])
    signed = amount.copy_negate() if kind == "refund" else amount
    return NamedPayment(
        ADAPTER, text["payment_id"], invoice_id, currency, kind, signed, _instant(text["paid_at"], refuse)
    )


def _instant(text: str, refuse: Callable[[str, str], ProviderListRefused]) -> datetime:
    """Return an instant; a day alone is its beginning in UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise refuse("paid_at", "is no ISO 8601 instant or day") from None
    if at.tzinfo is None:
        if len(text) != len("2026-11-03"):
            raise refuse("paid_at", "has no time zone; write Z for UTC")
        at = at.replace(tzinfo=UTC)
    return at.astimezone(UTC)
