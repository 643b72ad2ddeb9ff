"""A file of the folder of documents as rows of a provider's list: what stands in it now, whoever wrote it.

Enters: the bytes of one file. Leaves: its row of PROVIDER_DOCUMENTS and its rows of PROVIDER_LINES, credit notes above zero.
Refuses: files that are no documents, by name and field; to look at the books, and to repair.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.errors import ProviderListRefused
from metering.numbers import exact_difference

if TYPE_CHECKING:
    from pathlib import Path

ADAPTER = "files"
_ZERO = Decimal(0)


def listed(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row of a document, but for its status and when it came, and the rows of its lines.

    Raises ProviderListRefused, OSError.
    """
    try:
        body: dict[str, Any] = orjson.loads(path.read_bytes())
        lines = _lines(path.name, body)
        return _document(path.name, body, len(lines)), lines
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, InvalidOperation) as wrong:
        raise ProviderListRefused(
            f"{path} is no document as we hand them over ({type(wrong).__name__}: {wrong}); "
            "move it out of the folder, or put back what was there"
        ) from wrong


def _document(name: str, body: dict[str, Any], lines: int) -> dict[str, Any]:
    lowers = [one["number"] for one in body["lowers"]]
    tax = _number(body["taxed"]["tax"]) if body["taxed"] else _ZERO
    total = _number(body["amount_payable"])
    return {
        "adapter": ADAPTER,
        "kind": "credit_note" if body["document_type"] == "credit_note" else "invoice",
        "provider_id": name,
        "delivery_id": body["delivery_id"],
        "invoice_id": body["invoice_id"],
        "number": body["number"],
        "lowers": f"{lowers[0]}.json" if len(lowers) == 1 else None,
        "account_ref": body["account_id"],
        "currency": body["currency"],
        "net": _signed(body, exact_difference(total, tax)),
        "tax": _signed(body, tax),
        "total": _signed(body, total),
        "lines": lines,
        "reason": f"lowers {', '.join(lowers)}" if lowers else None,
    }


def _lines(name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines of a document without tax, and below them what each prepaid balance paid."""
    net = {one["line_id"]: one["net"] for one in body["taxed"]["lines"]} if body["taxed"] else {}
    rows: list[tuple[str, Decimal, str, Decimal | None]] = []
    for line in body["lines"]:
        amount = _number(net.get(line["line_id"], line["amount"]))
        rows.append((line["line_id"], amount, line["description"], _number(line["quantity"])))
    paid: defaultdict[str, list[Decimal]] = defaultdict(list)
    for burn in body.get("prepaid", []):
        paid[burn["balance_id"]].append(_number(burn["amount"]))
    for balance_id, amounts in sorted(paid.items()):
        rows.append((f"prepaid:{balance_id}", exact_difference(_ZERO, *amounts), f"Paid from {balance_id}", None))
    return [
        {
            "adapter": ADAPTER,
            "provider_id": name,
            "provider_line_id": f"{name} {line_id}",
            "line_id": line_id,
            "currency": body["currency"],
            "quantity": quantity,
            "amount": _signed(body, amount),
            "description": description,
        }
        for line_id, amount, description, quantity in rows
    ]


def _number(text: object) -> Decimal:
    """Return a number that stands as text. A number of JSON is a double, and refused."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no number as text")
    number = Decimal(text)
    if not number.is_finite():
        raise TypeError(f"{text!r} is no number")
    return number


def _signed(body: dict[str, Any], amount: Decimal) -> Decimal:
    """Return an amount as lists have it: what a credit note gives is above zero."""
    return exact_difference(_ZERO, amount) if body["document_type"] == "credit_note" else amount
