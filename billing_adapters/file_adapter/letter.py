"""One paper as an HTML letter: print-ready, complete in itself, the same bytes for the same paper.

Enters: a paper. Leaves: one HTML page of UTF-8 with its style inside, for A4 and for screens.
Refuses: scripts, addresses of other servers, and markup in names: every text is escaped, isolated from its neighbours in
reading direction, and a content security policy forbids whatever would still be loaded.

Amounts have the digits of their currency, commas between thousands, and a minus sign. Components of a line are exact; where
more than six decimals would be shown, they are rounded for the eye and say so by a wavy equals sign. Beyond ROWS_MAX rows
components are left out; the file `charges` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.pages import MONTHS, count, day_in_words, money, page_template
from metering.numbers import trimmed
from rating.explanation import PARTS
from rating.invoice import content_hash
from rating.iso4217 import minor_units
from rating.rounding import EXACT, exact_sum, round_amount
from rating.spans import plan_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from decimal import Decimal

    from jinja2 import Template

    from rating.invoice import Charge, InvoiceLine
    from rating.paper import Paper
    from rating.parties import Address
    from rating.voids import Voided

ROWS_MAX = 400
_PLACES_SHOWN = 6
_TITLES = {
    "invoice": "Invoice",
    "credit note": "Credit note",
    "supplementary invoice": "Supplementary invoice",
    "pro forma": "Pro forma invoice",
}
_CORRECTS = {
    "credit note": "This credit note corrects",
    "supplementary invoice": "This supplementary invoice adds to",
}
_ADJUSTMENTS = {"discount": "discount", "overage": "beyond the commitment", "maximum": "above the maximum"}


@dataclass(frozen=True, slots=True)
class _Part:
    """One row of a line's components, in words."""

    text: str
    quantity: str
    unit_price: str
    amount: str


def letter_name(paper: Paper) -> str:
    """Return the file name of a letter: its number, or for a draft its id."""
    return f"{paper.invoice.number or 'draft-' + paper.invoice.invoice_id}.html"


def letter(paper: Paper) -> bytes:
    """Return the letter of a paper."""
    invoice = paper.invoice
    rows = sum(1 + len(line.charges) for line in invoice.lines)
    groups = [_group(paper, list(lines), with_parts=rows <= ROWS_MAX) for lines in _grouped(invoice.lines)]
    words: dict[str, Any] = {
        "title": _TITLES[paper.document_type],
        "number": invoice.number,
        "is_draft": paper.document_type == "pro forma",
        "watermark": {"draft": "Draft", "void": "Void"}.get(invoice.status),
        "voided": None if paper.voided is None else _voided(paper.voided),
        "is_credit": paper.document_type == "credit note",
        "currency": invoice.currency,
        "seller": _party(paper.seller.name, paper.seller.address) if paper.seller else None,
        "buyer": {**_party(paper.account.name, paper.account.address), "vat_id": paper.account.vat_id},
        "facts": _facts(paper),
        "due": _due(paper),
        "corrects": _corrects(paper),
        "groups": groups,
        "has_parts": any(line["parts"] for group in groups for line in group["lines"]),
        "left_out": rows > ROWS_MAX,
        "totals": _totals(paper),
        "tax_note": paper.account.tax_note,
        "bank": _bank(paper) if paper.payable > 0 and invoice.status == "final" else [],
        "footer": paper.seller.footer if paper.seller else None,
        "imprint": _imprint(paper),
        "invoice_id": invoice.invoice_id,
        "content_hash": content_hash(invoice),
    }
    return _template().render(words).encode()


@cache
def _template() -> Template:
    return page_template("billing_adapters.file_adapter", "invoice", {})


def _grouped(lines: tuple[InvoiceLine, ...]) -> Iterator[Iterator[InvoiceLine]]:
    """Yield the lines of one subscription after the other, in the order of the document."""
    first = {line.subscription_id: line.position for line in reversed(lines)}
    ordered = sorted(lines, key=lambda line: (first[line.subscription_id], line.position))
    return (members for _, members in groupby(ordered, key=lambda line: line.subscription_id))


def _group(paper: Paper, lines: list[InvoiceLine], *, with_parts: bool) -> dict[str, Any]:
    first = lines[0]
    services = [_service(paper, line) for line in lines]
    usual = max(services, key=services.count)
    plans = dict.fromkeys(f"{line.plan} {line.plan_version}" for line in lines)
    return {
        "tenant": first.tenant_id,
        "subscription": first.subscription_id,
        "plan": ", ".join(plans),
        "service": usual,
        "amount": money(exact_sum([line.amount for line in lines])),
        "lines": [_line(paper, line, usual, with_parts=with_parts) for line in lines],
    }


def _service(paper: Paper, line: InvoiceLine) -> str:
    return _days(paper.day_of(line, line.service_start), _last(paper, line, line.service_end))


def _line(paper: Paper, line: InvoiceLine, usual: str, *, with_parts: bool) -> dict[str, Any]:
    invoice = paper.invoice
    correction = ""
    if line.kind == "correction":
        days = _days(paper.day_of(line, line.period_start), _last(paper, line, line.period_end))
        found = _days(invoice.period_start.date(), invoice.period_end.date() - timedelta(days=1))
        correction = f"Correction of {days}, found in {found}"
    attributes = orjson.loads(line.group_key) if line.group_key else {}
    quantity, unit, unit_price, is_told = _terms(line)
    return {
        "text": line.description or f"{line.meter or ''} {line.price_id}".strip(),
        "attributes": [f"{name}: {value}" for name, value in attributes.items()],
        # Said once for the whole group, and where a line differs.
        "service": "" if (service := _service(paper, line)) == usual else service,
        "correction": correction,
        "quantity": quantity,
        "unit": unit,
        "unit_price": unit_price,
        "amount": money(line.amount),
        "parts": [] if is_told or not with_parts else [_part(paper, line, charge) for charge in _in_order(line)],
    }


def _in_order(line: InvoiceLine) -> list[Charge]:
    """Return the components of a line as they are read: what is priced first, what lowers or raises it after that."""
    return sorted(line.charges, key=lambda charge: ":" in charge.part)


def _terms(line: InvoiceLine) -> tuple[str, str, str, bool]:
    """Return quantity, unit and unit price of a line, and whether they tell all that its one component says."""
    only = line.charges[0] if len(line.charges) == 1 else None
    if only is not None and only.part in {"flat", "minimum"}:
        is_product = EXACT.multiply(only.quantity, only.unit_price) == only.exact_amount
        is_told = only.quantity != 1 and is_product
        return count(only.quantity) if is_told else "", "", count(only.unit_price) if is_told else "", True
    quantity, unit = (count(line.quantity), line.unit or "") if line.meter else ("", "")
    if only is not None and only.part == "unit" and only.quantity == line.quantity and not only.cell_key:
        return quantity, unit, count(only.unit_price), True
    return quantity, unit, "", not line.charges


def _part(paper: Paper, line: InvoiceLine, charge: Charge) -> _Part:
    # A flat amount of a part of a period is not quantity times price; then only the amount is shown.
    is_product = EXACT.multiply(charge.quantity, charge.unit_price) == charge.exact_amount
    is_fixed = charge.part in {"flat", "minimum"} and (charge.quantity == 1 or not is_product)
    has_terms = not is_fixed and ":" not in charge.part and charge.quantity != 0
    return _Part(
        text=_part_text(paper, line, charge),
        quantity=count(charge.quantity) if has_terms else "",
        unit_price=count(charge.unit_price) if has_terms and charge.part in {"unit", "flat"} else "",
        amount=_exact(charge.exact_amount, minor_units(line.currency)),
    )


def _part_text(paper: Paper, line: InvoiceLine, charge: Charge) -> str:
    kind, _, adjustment = charge.part.partition(":")
    if adjustment:
        return f"{_ADJUSTMENTS.get(kind, kind)} {adjustment}"
    cell = f" ({charge.cell_key})" if charge.cell_key else ""
    if charge.part in {"unit", "flat"} and (edges := _edges(paper, line, charge)):
        return f"{edges}{', flat amount' if charge.part == 'flat' else ''}{cell}"
    if line.price_type == "package" and charge.part == "unit":
        return f"packages{cell}"
    return f"{PARTS.get(charge.part, charge.part)}{cell}"


def _edges(paper: Paper, line: InvoiceLine, charge: Charge) -> str:
    """Return the edges of a component's tier in words; nothing where the price has no tiers, or no such one."""
    plan = paper.plans[plan_key(line.plan, line.plan_version)]
    price = next((one for one in plan.prices if one.id == line.price_id), None)
    tiers = getattr(price, "tiers", ())
    if not 1 <= charge.tier <= len(tiers):
        return ""
    lower = getattr(tiers[charge.tier - 2], "up_to", None) if charge.tier > 1 else None
    upper = getattr(tiers[charge.tier - 1], "up_to", None)
    if lower is None:
        return f"up to {count(upper)}" if upper is not None else ""
    return f"above {count(lower)}" + (f" up to {count(upper)}" if upper is not None else "")


def _facts(paper: Paper) -> list[tuple[str, str]]:
    invoice = paper.invoice
    facts = [
        ("Issued", day_in_words(paper.issue_date)),
        ("Period", _days(invoice.period_start.date(), invoice.period_end.date() - timedelta(days=1))),
        ("Due", day_in_words(paper.due_date) if paper.due_date else None),
        ("Your reference", paper.account.purchase_order),
        ("Account", invoice.account_id),
    ]
    return [(name, value) for name, value in facts if value]


def _due(paper: Paper) -> dict[str, str]:
    if paper.document_type == "pro forma":
        return {"label": "Would be due", "amount": money(paper.payable), "sentence": "A draft: nothing is owed yet."}
    if paper.voided is not None:
        return {
            "label": "Amount due",
            "amount": money(paper.payable - paper.payable),
            "sentence": "Void: nothing is owed.",
        }
    if paper.payable < 0:
        return {"label": "Credit in your favour", "amount": money(-paper.payable), "sentence": ""}
    if paper.payable == 0:
        return {"label": "Amount due", "amount": money(paper.payable), "sentence": "Nothing to pay."}
    sentence = f"by {day_in_words(paper.due_date)}" if paper.due_date else ""
    return {"label": "Amount due", "amount": money(paper.payable), "sentence": sentence}


def _voided(voided: Voided) -> dict[str, str]:
    return {"label": f"Void since {day_in_words(voided.voided_at.date())}.", "reason": voided.reason}


def _corrects(paper: Paper) -> dict[str, str] | None:
    if not paper.corrects:
        return None
    label = _CORRECTS.get(paper.document_type, "With corrections of")
    return {"label": label, "numbers": ", ".join(paper.corrects)}


def _totals(paper: Paper) -> list[dict[str, str]]:
    """Return the rows under the lines: net, taxes, gross, what balances paid, what is left to pay."""
    rows = []
    if paper.taxed.lines and (taxes := paper.sums_by_tax):
        rows.append({"kind": "net", "label": "Net", "amount": money(paper.net)})
        for name, percent, net, tax in taxes:
            label = f"{name} {trimmed(percent)} % of {money(net)}"
            rows.append({"kind": "tax", "label": label, "amount": money(tax)})
    rows.append({"kind": "sum" if rows else "net", "label": "Total", "amount": money(paper.gross)})
    balances: dict[str, list[Decimal]] = {}
    for burn in paper.invoice.prepaid:
        balances.setdefault(burn.balance_id, []).append(burn.amount)
    for balance_id, burned in balances.items():
        paid = exact_sum(burned)
        label = f"Paid from prepaid balance {balance_id}" if paid >= 0 else f"Returned to prepaid balance {balance_id}"
        rows.append({"kind": "prepaid", "label": label, "amount": money(-paid)})
    if paper.voided is not None:
        rows.append({"kind": "tax", "label": "Taken back by its void", "amount": money(-paper.payable)})
    last = "Credit in your favour" if paper.payable < 0 and paper.voided is None else "Amount due"
    left = paper.payable if paper.voided is None else paper.payable - paper.payable
    label = "Would be due" if paper.document_type == "pro forma" else last
    rows.append({"kind": "payable", "label": f"{label}, {paper.invoice.currency}", "amount": money(left)})
    return rows


def _party(name: str, address: Address | None) -> dict[str, Any]:
    lines: list[str] = []
    if address is not None:
        town = " ".join(part for part in (address.postal_code, address.city) if part)
        place = ", ".join(part for part in (town, address.region, address.country) if part)
        lines = [*address.lines, *([place] if place else [])]
    return {"name": name, "lines": lines}


def _bank(paper: Paper) -> list[tuple[str, str]]:
    bank = paper.seller.bank if paper.seller else None
    if bank is None:
        return []
    rows = [("Pay to", paper.seller.name if paper.seller else None), ("Bank", bank.name)]
    rows += [("IBAN", bank.iban), ("BIC", bank.bic), ("Reference", paper.invoice.number)]
    return [(name, value) for name, value in rows if value]


def _imprint(paper: Paper) -> list[str]:
    seller = paper.seller
    if seller is None:
        return []
    number = f"Tax number {seller.vat_id}" if seller.vat_id else None
    return [text for text in (seller.name, seller.registration, number, seller.email) if text]


def _last(paper: Paper, line: InvoiceLine, end: Any) -> date:
    """Return the last day before an open end, in the time zone of the line's plan."""
    return paper.day_of(line, end - timedelta(microseconds=1))


def _days(first: date, last: date) -> str:
    """Return a span of days, both ends in it; what both have in common is said once."""
    if first == last:
        return day_in_words(first)
    if first.year != last.year:
        return f"{day_in_words(first)} \N{EN DASH} {day_in_words(last)}"
    if first.month != last.month:
        return f"{first.day} {MONTHS[first.month - 1]} \N{EN DASH} {day_in_words(last)}"
    return f"{first.day} \N{EN DASH} {day_in_words(last)}"


def _exact(amount: Decimal, minor_digits: int) -> str:
    """Return an exact amount with at least the places of its currency, and at most _PLACES_SHOWN."""
    rounded = round_amount(amount, _PLACES_SHOWN)
    on_paper = round_amount(amount, minor_digits)
    if on_paper == amount:
        return money(on_paper)
    return count(amount) if rounded == amount else f"≈ {count(rounded)}"
