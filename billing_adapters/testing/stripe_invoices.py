"""Customers, invoices and credit notes of the fake Stripe, with the state machine of providers.md, section 3.1.

Enters: typed parameters. Leaves: objects. Refuses: more than 250 lines, changes after finalization, deleting what is no draft,
voiding what is paid, credit notes that do not add up.

    draft -> open -> paid | uncollectible | void;  draft -> deleted;  uncollectible -> paid | void
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billing_adapters.testing.stripe_shapes import check_shape
from billing_adapters.testing.stripe_store import Refused, check_metadata, routes

if TYPE_CHECKING:
    from billing_adapters.testing.stripe_store import Store

LINES_MAX = 250
LINES_SHOWN = 10
# What is below it is not collected: the invoice is paid, and the customer owes it with the next one.
MINIMUM_CHARGE = 50
NAME_CHARACTERS, DESCRIPTION_CHARACTERS = 256, 500
TAXES_MAX, TAX_NAME_CHARACTERS = 20, 50


class Invoices:
    """The part of an account that has to do with who owes what."""

    def __init__(self, store: Store) -> None:
        self._store = store
        one = r"/v1/invoices/([^/]+)"
        self.routes = routes(
            ("post", "/v1/customers", self.create_customer),
            ("get", "/v1/customers", lambda params: store.page("customer", "/v1/customers", params, "email")),
            ("get", "/v1/customers/search", lambda params: store.search("customer", "/v1/customers/search", params)),
            ("get", r"/v1/customers/([^/]+)", lambda identity, _params: store.get("customer", identity)),
            ("post", "/v1/invoices", self.create),
            ("get", "/v1/invoices", self.list_invoices),
            ("get", "/v1/invoices/search", lambda params: store.search("invoice", "/v1/invoices/search", params)),
            ("get", one, lambda identity, _params: shown(store.get("invoice", identity))),
            ("delete", one, self.delete),
            ("get", f"{one}/lines", self.list_lines),
            ("post", f"{one}/add_lines", self.add_lines),
            ("post", f"{one}/finalize", self.finalize),
            ("post", f"{one}/void", self.void),
            ("post", f"{one}/mark_uncollectible", self.mark_uncollectible),
            ("post", f"{one}/pay", self.pay),
            ("post", "/v1/credit_notes", self.create_credit_note),
            ("get", "/v1/credit_notes", self.list_credit_notes),
            ("post", r"/v1/credit_notes/([^/]+)/void", self.void_credit_note),
            ("get", r"/v1/credit_notes/([^/]+)", lambda identity, _params: store.get("credit_note", identity)),
            ("get", "/v1/events", store.list_events),
        )

    def create_customer(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("_customer_create_params", "CustomerCreateParams", raw)
        if len(params.get("name", "")) > NAME_CHARACTERS:
            raise Refused(400, "a name has up to 256 characters", param="name")
        fields = {"name": params.get("name"), "email": params.get("email"), "balance": params.get("balance", 0)}
        made = self._store.add(
            "customer", "cus", {**fields, "metadata": check_metadata(params.get("metadata")), "deleted": False}
        )
        self._store.event("customer.created", made)
        return made

    # --- invoices -----------------------------------------------------------------------------------------------------

    def create(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("_invoice_create_params", "InvoiceCreateParams", raw)
        customer = self._store.get("customer", params.get("customer", ""))
        sends = params.get("collection_method", "charge_automatically") == "send_invoice"
        if sends and "days_until_due" not in params and "due_date" not in params:
            raise Refused(400, "send_invoice needs days_until_due or due_date", param="days_until_due")
        if not sends and "days_until_due" in params:
            raise Refused(400, "days_until_due is for send_invoice", param="days_until_due")
        number = params.get("number")
        if number is not None and self._store.find("invoice", "number", number):
            raise Refused(400, f"There is an invoice with the number {number} already", param="number")
        made = self._store.add(
            "invoice",
            "in",
            {
                "customer": customer["id"],
                "currency": params.get("currency", "usd").lower(),
                "status": "draft",
                "collection_method": params.get("collection_method", "charge_automatically"),
                "auto_advance": params.get("auto_advance", False),
                "description": params.get("description"),
                "metadata": check_metadata(params.get("metadata")),
                "number": number,
                "days_until_due": params.get("days_until_due"),
                "due_date": params.get("due_date"),
                "total": 0,
                "subtotal": 0,
                "amount_due": 0,
                "amount_paid": 0,
                "amount_remaining": 0,
                "starting_balance": 0,
                "ending_balance": None,
                "pre_payment_credit_notes_amount": 0,
                "post_payment_credit_notes_amount": 0,
                "status_transitions": {"finalized_at": None, "paid_at": None, "voided_at": None},
                "lines": [],
            },
        )
        self._store.event("invoice.created", shown(made))
        return shown(made)

    def list_invoices(self, raw: dict[str, Any]) -> dict[str, Any]:
        check_shape("_invoice_list_params", "InvoiceListParams", raw)
        page = self._store.page("invoice", "/v1/invoices", raw, "customer", "status", "collection_method")
        return {**page, "data": [shown(one) for one in page["data"]]}

    def delete(self, identity: str, _params: dict[str, Any]) -> dict[str, Any]:
        found = self._in_state(identity, "deleted", "draft")
        self._store.remove("invoice", identity)
        self._store.event("invoice.deleted", shown(found))
        return {"id": identity, "object": "invoice", "deleted": True}

    def list_lines(self, identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        return self._store.cut(self._store.get("invoice", identity)["lines"], f"/v1/invoices/{identity}/lines", raw)

    def add_lines(self, identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("_invoice_add_lines_params", "InvoiceAddLinesParams", raw)
        found = self._in_state(identity, "changed", "draft")
        if len(found["lines"]) + len(params["lines"]) > LINES_MAX:
            raise Refused(400, f"An invoice has up to {LINES_MAX} items", code="invoice_too_many_items", param="lines")
        for at, line in enumerate(params["lines"]):
            if "amount" not in line:
                raise Refused(400, "the fake takes lines with an amount", param=f"lines[{at}][amount]")
            period = line.get("period")
            if period is not None and period["end"] < period["start"]:
                raise Refused(400, "a period ends before it starts", param=f"lines[{at}][period]")
            _check_taxes(line, at)
            if len(line.get("description", "")) > DESCRIPTION_CHARACTERS:
                raise Refused(400, "a description is too long", param=f"lines[{at}][description]")
        for line in params["lines"]:
            fields = {
                "id": self._store.new_id("il"),
                "object": "line_item",
                "amount": line["amount"],
                "currency": found["currency"],
                "description": line.get("description"),
                "metadata": check_metadata(line.get("metadata")),
                "period": line.get("period", {"start": self._store.now_s, "end": self._store.now_s}),
                "taxes": [_tax(one) for one in line.get("tax_amounts") or []],
            }
            found["lines"].append(fields)
        if "invoice_metadata" in params:
            found["metadata"].update(check_metadata(params["invoice_metadata"]))
            self._store.changed(found)
        _add_up(found)
        return shown(found)

    def finalize(self, identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("_invoice_finalize_invoice_params", "InvoiceFinalizeInvoiceParams", raw)
        found = self._in_state(identity, "finalized", "draft", code="invoice_not_editable")
        found["auto_advance"] = params.get("auto_advance", found["auto_advance"])
        found["status"] = "open"
        found["number"] = found["number"] or self._store.new_id("FAKE")
        self._store.changed(found)
        found["status_transitions"]["finalized_at"] = self._store.now_s
        if found["days_until_due"] is not None:
            found["due_date"] = self._store.now_s + found["days_until_due"] * 86_400
        self._settle(found, self._store.get("customer", found["customer"]))
        self._store.event("invoice.finalized", shown(found))
        if found["status"] == "paid":
            self._store.event("invoice.paid", shown(found))
        return shown(found)

    def _settle(self, found: dict[str, Any], customer: dict[str, Any]) -> None:
        """Apply the customer's balance (below zero: we owe; above: they do), and pay what is nothing or too little."""
        found["starting_balance"] = customer["balance"]
        due = found["total"] + customer["balance"]
        found["ending_balance"] = 0
        if due <= 0 or due < MINIMUM_CHARGE:
            found["ending_balance"] = due
            customer["balance"], due, found["status"] = due, 0, "paid"
            found["status_transitions"]["paid_at"] = self._store.now_s
        else:
            customer["balance"] = 0
        found["amount_due"] = found["amount_remaining"] = due

    def void(self, identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        check_shape("_invoice_void_invoice_params", "InvoiceVoidInvoiceParams", raw)
        found = self._in_state(identity, "voided", "open", "uncollectible")
        found.update(status="void", amount_remaining=0)
        found["status_transitions"]["voided_at"] = self._store.now_s
        self._store.event("invoice.voided", shown(found))
        return shown(found)

    def mark_uncollectible(self, identity: str, _params: dict[str, Any]) -> dict[str, Any]:
        found = self._in_state(identity, "marked uncollectible", "open")
        found["status"] = "uncollectible"
        self._store.event("invoice.marked_uncollectible", shown(found))
        return shown(found)

    def pay(self, identity: str, _params: dict[str, Any]) -> dict[str, Any]:
        found = self._in_state(identity, "paid", "open", "uncollectible")
        found.update(status="paid", amount_paid=found["amount_remaining"], amount_remaining=0)
        found["status_transitions"]["paid_at"] = self._store.now_s
        self._store.event("invoice.paid", shown(found))
        return shown(found)

    # --- credit notes -------------------------------------------------------------------------------------------------

    def create_credit_note(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("_credit_note_create_params", "CreditNoteCreateParams", raw)
        found = self._in_state(params["invoice"], "credited", "open", "paid", "uncollectible")
        lines = params.get("lines", [])
        amount = params.get("amount", sum(_credited(line) for line in lines))
        if lines and amount != sum(_credited(line) for line in lines):
            raise Refused(400, "amount is not the sum of the lines", param="amount")
        credited = sum(one["total"] for one in self._of_invoice(found["id"]) if one["status"] == "issued")
        if not 0 < amount <= found["total"] - credited:
            raise Refused(400, f"a credit note is above 0 and up to {found['total'] - credited}", param="amount")
        before = min(amount, found["amount_remaining"])
        given = sum(params.get(name, 0) for name in ("credit_amount", "out_of_band_amount", "refund_amount"))
        if given != amount - before:
            raise Refused(400, f"refunds, credit and out of band are {given}, not {amount - before}", param="amount")
        found["amount_remaining"] -= before
        found["pre_payment_credit_notes_amount"] += before
        found["post_payment_credit_notes_amount"] += amount - before
        if found["status"] == "open" and found["amount_remaining"] == 0:
            found["status"] = "paid"
        customer = self._store.get("customer", found["customer"])
        customer["balance"] -= params.get("credit_amount", 0)
        fields = {
            "invoice": found["id"],
            "customer": found["customer"],
            "currency": found["currency"],
            "total": amount,
            "status": "issued",
            "memo": params.get("memo"),
            "metadata": check_metadata(params.get("metadata")),
            "pre_payment_amount": before,
            "post_payment_amount": amount - before,
        }
        made = self._store.add("credit_note", "cn", fields)
        self._store.event("credit_note.created", made)
        return made

    def void_credit_note(self, identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        check_shape("_credit_note_void_credit_note_params", "CreditNoteVoidCreditNoteParams", raw)
        note = self._store.get("credit_note", identity)
        found = self._store.get("invoice", note["invoice"])
        if note["status"] == "void" or found["status"] != "open":
            raise Refused(400, f"A {note['status']} credit note of a {found['status']} invoice cannot be voided")
        note["status"] = "void"
        found["amount_remaining"] += note["pre_payment_amount"]
        found["pre_payment_credit_notes_amount"] -= note["pre_payment_amount"]
        self._store.event("credit_note.voided", note)
        return note

    def list_credit_notes(self, raw: dict[str, Any]) -> dict[str, Any]:
        return self._store.page("credit_note", "/v1/credit_notes", raw, "invoice", "customer")

    def _of_invoice(self, identity: str) -> list[dict[str, Any]]:
        return self._store.find("credit_note", "invoice", identity)

    def _in_state(self, identity: str, verb: str, *states: str, code: str | None = None) -> dict[str, Any]:
        found = self._store.get("invoice", identity)
        if found["status"] not in states:
            raise Refused(400, f"A {found['status']} invoice cannot be {verb}", code=code)
        return found


def shown(invoice: dict[str, Any]) -> dict[str, Any]:
    """Return an invoice as Stripe shows it, its lines a list of the first ten. Not a deep copy: it goes on the wire as it is."""
    lines = invoice["lines"]
    page = {
        "object": "list",
        "data": lines[:LINES_SHOWN],
        "has_more": len(lines) > LINES_SHOWN,
        "total_count": len(lines),
        "url": f"/v1/invoices/{invoice['id']}/lines",
    }
    return {**invoice, "lines": page}


def _add_up(invoice: dict[str, Any]) -> None:
    subtotal = sum(line["amount"] for line in invoice["lines"])
    taxes = [tax for line in invoice["lines"] for tax in line["taxes"]]
    total = subtotal + sum(tax["amount"] for tax in taxes if tax["tax_behavior"] == "exclusive")
    invoice.update(total=total, subtotal=subtotal, amount_due=max(0, total), amount_remaining=max(0, total))
    invoice["total_excluding_tax"] = total - sum(tax["amount"] for tax in taxes)
    invoice["total_taxes"] = [dict(tax) for tax in taxes]


def _check_taxes(line: dict[str, Any], at: int) -> None:
    """Refuse taxes of a line that Stripe refuses: beside tax rates, too many, without a rate that can be read."""
    place = f"lines[{at}][tax_amounts]"
    given = line.get("tax_amounts") or []
    if given and line.get("tax_rates"):
        raise Refused(400, "You cannot set tax amounts if a line has tax rates", param=place)
    if len(given) > TAXES_MAX:
        raise Refused(400, f"A line has up to {TAXES_MAX} tax amounts", param=place)
    for one in given:
        rate = one["tax_rate_data"]
        if not rate["display_name"] or len(rate["display_name"]) > TAX_NAME_CHARACTERS:
            raise Refused(400, f"display_name has 1 to {TAX_NAME_CHARACTERS} characters", param=place)
        if not 0 <= rate["percentage"] <= 100:
            raise Refused(400, "percentage is 0 to 100", param=place)
        if (one["amount"] < 0) != (line["amount"] < 0) and one["amount"] and line["amount"]:
            raise Refused(400, "A tax has the sign of its line", param=place)


def _tax(given: dict[str, Any]) -> dict[str, Any]:
    rate = given["tax_rate_data"]
    return {
        "amount": given["amount"],
        "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
        "taxable_amount": given["taxable_amount"],
        "tax_rate_details": {"tax_rate": f"txr_{rate['display_name']}_{rate['percentage']}"},
        "type": "tax_rate_details",
    }


def _credited(line: dict[str, Any]) -> int:
    if line["type"] == "custom_line_item":
        return int(line["unit_amount"] * line.get("quantity", 1))
    return int(line["amount"])
