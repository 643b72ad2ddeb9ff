"""The controls from delivery to payment: each finds the leak that is planted for it, to the cent; a clean world has none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from billing_adapters.provider_list import provider_table
from billing_adapters.reconciliation.against_provider import Compared
from billing_adapters.reconciliation.controls import our_controls
from billing_adapters.reconciliation.inputs import schema_of
from billing_adapters.reconciliation.matching import Tolerance
from billing_adapters.reconciliation.statement import Statement
from tests.billing_adapters.acts import of_deliveries
from tests.billing_adapters.world import AFTER, World, event, statement_of

Row = dict[str, Any]
OURS = [
    "INVOICE_NOT_DELIVERED",
    "DELIVERY_PARTIAL",
    "DELIVERY_ASYNC_ERROR",
    "DELIVERY_DUPLICATE",
    "PROVIDER_QUANTITY",
    "PROVIDER_AMOUNT",
    "PROVIDER_ORPHAN",
    "STATUS_DRIFT",
    "REFUND_EXCESS",
    "UNCOLLECTED_AGED",
    "FRACTION_DROPPED",
    "INVOICED_DELIVERED",
    "DELIVERED_HELD",
    "HELD_COLLECTED",
]
ISSUED = datetime(2026, 10, 20, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
STRIPE, AWS = "stripe", "aws_marketplace"
SHARE = Tolerance(quantity_share=Decimal("0.000000001"))


class Provider:
    """Documents and usage of October on both sides, the same on both; a test then changes one of them."""

    def __init__(self) -> None:
        self.booked = [self.invoice(n, Decimal(100 * n)) for n in (1, 2, 3)]
        self.sent = [self.delivery(row) for row in self.booked]
        self.there = [self.document(row) for row in self.sent]
        self.paid = [self.payment(row) for row in self.there]
        self.told = [self.record(hour, Decimal(hour)) for hour in range(1, 6)]
        self.held = [self.window(row) for row in self.told]
        self.ledger = [self.used(Decimal("15.4"))]
        self.final: list[Row] = []
        self.told_paid: list[Row] = []
        # What was written of these documents by acts, where it is not what they are now.
        self.acts: tuple[list[Row], list[Row]] | None = None

    @staticmethod
    def invoice(number: int, amount: Decimal) -> Row:
        named = {"invoice_id": f"invoice-{number}", "number": f"INV-{number:08}", "document_type": "invoice"}
        return {**named, "account_id": "payer", "currency": "USD", "status": "final", "issued_at": ISSUED,
                "total": amount, "amount_due": amount, "tax_on_top": Decimal(0)}  # fmt: skip

    @staticmethod
    def delivery(booked: Row, /, **changed: Any) -> Row:
        same = {name: booked[name] for name in ("invoice_id", "account_id", "currency", "number", "issued_at")}
        delivery_id = f"dlv-{booked['invoice_id']}"
        amount = booked["amount_due"]
        return {**same, "adapter": STRIPE, "kind": "invoice", "delivery_id": delivery_id, "document_id": delivery_id,
                "booked": amount, "sent": amount, "bucket": "confirmed", "outcome": "ACCEPTED", "reason": "",
                "is_uncertain": False, "attempts": 1, "enqueued_at": ISSUED, "ended_at": ISSUED + HOUR, **changed}  # fmt: skip

    @staticmethod
    def document(sent: Row, /, **changed: Any) -> Row:
        same = {name: sent[name] for name in ("delivery_id", "invoice_id", "number", "currency")}
        amounts = {"net": sent["sent"], "tax": Decimal(0), "total": sent["sent"], "lines": 1}
        identity = {"adapter": STRIPE, "kind": "invoice", "provider_id": f"in_{sent['number']}"}
        return {**identity, **same, **amounts, "status": "open", "created_at": ISSUED, **changed}

    @staticmethod
    def payment(there: Row, **changed: Any) -> Row:
        parts = dict.fromkeys(
            ("paid", "credited", "refunded", "disputed", "written_off", "to_balance", "fee"), Decimal(0)
        )
        same = {name: there[name] for name in ("adapter", "kind", "provider_id", "status", "currency", "total")}
        return {**same, **parts, "open": there["total"], "due_at": ISSUED + timedelta(days=30), **changed}

    @staticmethod
    def record(hour: int, quantity: Decimal, **changed: Any) -> Row:
        start = datetime(2026, 10, 5, hour, tzinfo=UTC)
        return {"adapter": AWS, "kind": "hour", "delivery_id": f"dlv-{hour}", "account_id": "payer",
                "subscription_id": "contract", "tenant_id": "acme", "meter": "calls", "name": "api_calls", "start": start,
                "revision": 1, "quantity": quantity, "bucket": "confirmed", "outcome": "ACCEPTED", "reason": "",
                "is_uncertain": False, "is_refused_later": False, "attempts": 1, "enqueued_at": start + HOUR,
                "ended_at": start + HOUR, "recover_by": start + 24 * HOUR, **changed}  # fmt: skip

    @staticmethod
    def window(told: Row) -> Row:
        same = {name: told[name] for name in ("adapter", "account_id", "name", "start", "quantity")}
        return {**same, "end": told["start"] + HOUR, "status": "billed"}

    @staticmethod
    def used(quantity: Decimal) -> Row:
        return {"adapter": AWS, "subscription_id": "contract", "name": "api_calls", "tenant_id": "acme",
                "account_id": "payer", "meter": "calls", "until": datetime(2026, 10, 6, tzinfo=UTC),
                "quantity": quantity, "unit_size": Decimal(1)}  # fmt: skip

    def statement(self, looked_at: datetime | None = None, **more: Any) -> Statement:
        documents, quantities = frozenset({"documents", "payments"}), frozenset({"quantities"})
        used = World()
        points, documents_of_closes = self.acts or of_deliveries(self.booked, self.sent)
        # What the surplus of a provider is valued against; a call costs 0.001.
        used.write(event(quantity="2000"))
        return statement_of(
            used,
            controls=our_controls(),
            looked_at=looked_at,
            given={
                "booked_document": table("booked_document", self.booked),
                "document_line": parts_of("document_line", self.booked),
                "document_charge": parts_of("document_charge", self.booked),
                "delivering_adapter": table(
                    "delivering_adapter", [{"adapter": STRIPE, "delivers_from": datetime(2026, 10, 1, tzinfo=UTC)}]
                ),
                "sent_document": table("sent_document", self.sent),
                "control_point": table("control_point", points),
                "close_document": table("close_document", documents_of_closes),
                "final_invoice": table("final_invoice", self.final),
                "payment_read": table("payment_read", self.told_paid),
                "sent_quantity": table("sent_quantity", self.told),
                "ledger_quantity": table("ledger_quantity", self.ledger),
                "provider_document": provider_table("documents", self.there),
                "provider_payment": provider_table("payments", self.paid),
                "provider_quantity": provider_table("quantities", self.held),
            },
            compared=[Compared(STRIPE, documents, **more), Compared(AWS, quantities, otherwise=SHARE, **more)],
        )


def table(name: str, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema_of(name))


def parts_of(name: str, booked: list[Row]) -> pa.Table:
    amounts = [
        {"exact_amount": row["total"], "amount": row["total"], **row} for row in booked if row["status"] == "final"
    ]
    return table(name, [{column: row[column] for column in schema_of(name).names} for row in amounts])


def found(statement: Statement) -> set[tuple[str, str, str, Decimal | None, Decimal | None]]:
    """Return what the controls of this file found: control, class, reason, quantity, amount."""
    assert statement.breaks is not None
    rows = [row for row in statement.breaks.to_pylist() if row["control_id"] in OURS]
    return {
        (row["control_id"], row["class"], row["reason"], row["quantity_difference"], row["amount_likely"])
        for row in rows
    }


def ran(statement: Statement) -> dict[str, str]:
    assert statement.runs is not None
    return {row["control_id"]: row["result"] for row in statement.runs.to_pylist() if row["control_id"] in OURS}


def test_a_clean_world_has_no_finding_and_every_control_ran() -> None:
    statement = Provider().statement()
    assert found(statement) == set()
    assert ran(statement) == dict.fromkeys(OURS, "passed")
    assert not statement.unexplained.amount.get("USD")


def test_without_a_list_nothing_is_said_to_have_passed() -> None:
    results = ran(statement_of(World(), controls=our_controls()))
    assert results == dict.fromkeys(OURS, "not_possible")


def never_sent(world: Provider) -> None:
    world.booked.append(world.invoice(4, Decimal(480)))


def parked(world: Provider) -> None:
    never_sent(world)
    world.sent.append(
        world.delivery(world.booked[-1], bucket="failed", outcome="REJECTED_PERMANENT", reason="no such account")
    )


def credit_note_waits(world: Provider) -> None:
    note = {**world.invoice(9, Decimal(-20)), "number": "CN-00000001", "document_type": "credit_note"}
    world.booked.append(note)
    world.sent.append(world.delivery(note, kind="credit_note", bucket="pending"))


def hours_expired(world: Provider) -> None:
    for hour in (1, 2):
        world.told[hour - 1].update(bucket="failed", outcome="EXPIRED", reason="its time window is over")
    world.held = world.held[2:]
    world.ledger = []


def hour_conflicts(world: Provider) -> None:
    world.told[4].update(bucket="failed", outcome="CONFLICT_OTHER_VALUE", reason="DuplicateRecord")
    world.held = world.held[:4]
    world.ledger = []


def hour_waits(world: Provider) -> None:
    world.told[4].update(bucket="pending", outcome=None)
    world.held = world.held[:4]
    world.ledger = []


def refused_later(world: Provider) -> None:
    world.told[2].update(bucket="failed", outcome="REJECTED_PERMANENT", is_refused_later=True, reason="no_meter")
    del world.held[2]
    world.ledger = []


def document_twice(world: Provider) -> None:
    world.there.append({**world.there[0], "provider_id": "in_again"})
    world.paid.append(world.payment(world.there[-1]))


def replayed(world: Provider) -> None:
    world.held[1]["quantity"] += 1500


def another_region(world: Provider) -> None:
    world.held.append({**world.held[0], "name": "api_calls_eu", "quantity": Decimal(7)})


def lost_at_the_provider(world: Provider) -> None:
    world.held[3]["quantity"] -= Decimal("1.5")
    del world.held[0]


def beyond_a_double(world: Provider) -> None:
    # Within nine digits of 5: no difference. Beyond: one.
    world.held[4]["quantity"] = Decimal("5.000000004")
    world.held[3]["quantity"] = Decimal("3.999999990")


def lowered_there(world: Provider) -> None:
    world.there[1]["total"] -= Decimal("0.01")
    world.paid[1].update(total=world.there[1]["total"], open=world.there[1]["total"])


def raised_there(world: Provider) -> None:
    world.there[1]["total"] += Decimal(38)
    world.there[1]["tax"] = Decimal(38)
    world.paid[1].update(total=world.there[1]["total"], open=world.there[1]["total"])


def gone_there(world: Provider) -> None:
    del world.there[2], world.paid[2]


def another_currency(world: Provider) -> None:
    world.there[0]["currency"] = world.paid[0]["currency"] = "EUR"


def made_by_hand(world: Provider) -> None:
    world.there.append(
        world.document(world.sent[0], provider_id="in_hand", delivery_id=None, invoice_id=None, total=Decimal(75))
    )
    world.paid.append(world.payment(world.there[-1]))
    note = {
        "kind": "credit_note",
        "delivery_id": None,
        "invoice_id": None,
        "lowers": "in_INV-00000002",
        "reason": "goodwill",
    }
    world.there.append(world.document(world.sent[0], provider_id="cn_hand", total=Decimal(12), status="issued", **note))
    world.paid.append(world.payment(world.there[-1], total=Decimal(-12), open=Decimal(0), credited=Decimal(-12)))
    world.paid[1].update(open=Decimal(188), credited=Decimal(12))


def voided_there(world: Provider) -> None:
    world.there[2]["status"] = "void"
    world.paid[2].update(total=Decimal(0), open=Decimal(0))


def written_off_there(world: Provider) -> None:
    world.there[2]["status"] = "uncollectible"
    world.paid[2].update(open=Decimal(0), paid=Decimal(50), written_off=Decimal(250))


def void_here_open_there(world: Provider) -> None:
    world.booked[2]["status"] = "void"
    void = world.delivery(
        world.booked[2], kind="void", delivery_id="dlv-void", sent=Decimal(-300), booked=Decimal(-300)
    )
    world.sent.append(void)


def refunded_twice(world: Provider) -> None:
    world.paid[0].update(paid=Decimal(100), open=Decimal(0), refunded=Decimal(-130), to_balance=Decimal(130))


def credited_without_a_word(world: Provider) -> None:
    made_by_hand(world)
    world.there[-1]["reason"] = " "


def overdue(world: Provider) -> None:
    world.paid[0]["due_at"] = AFTER - timedelta(days=31)
    world.paid[1]["due_at"] = AFTER - timedelta(days=14)
    world.paid[2]["due_at"] = AFTER - timedelta(days=13)


def final(world: Provider, issued_at: datetime = ISSUED) -> None:
    """Let the books have what the provider has, so that they know whose it is."""
    same = {"close_id": "close-1", "period_start": ISSUED, "period_end": ISSUED}
    world.final = [
        {name: {**same, **row}.get(name) for name in schema_of("final_invoice").names} for row in world.booked
    ]
    world.final = [{**row, "issued_at": issued_at} for row in world.final]


def served_for_nothing(world: Provider) -> None:
    # 600.00 were paid by nobody: given back in full, and the service goes on.
    final(world)
    for row in world.paid:
        row.update(open=Decimal(0), to_balance=row["total"])


def written_off_and_served(world: Provider) -> None:
    final(world)
    world.booked, world.sent, world.there, world.paid = (
        rows[:1] for rows in (world.booked, world.sent, world.there, world.paid)
    )
    world.final = world.final[:1]
    world.there[0]["status"] = "uncollectible"
    world.paid[0].update(open=Decimal(0), written_off=Decimal(100))


def truncated(world: Provider) -> None:
    # 720 hours of 0.455 units, each cut off: 327.6 are used and none is sent.
    world.told, world.held = [], []
    world.ledger = [world.used(Decimal("327.6"))]


def sent_too_much(world: Provider) -> None:
    world.ledger = [world.used(Decimal("13.9"))]


def edited_outbox(world: Provider) -> None:
    # The close asked for 200.00 and deliveries were to bring it; somebody made 160.00 of it on the way.
    lower(world, 40)
    world.acts = of_deliveries(world.booked, world.sent)


def said_to_be_delivered(world: Provider) -> None:
    # The outbox says that it arrived, and the provider has it, by hand; no act delivered it.
    *others, last = world.sent
    world.acts = of_deliveries(world.booked, [*others, {**last, "bucket": "pending"}])


def forgotten_on_both_sides(world: Provider) -> None:
    # 200.00 were delivered; the outbox and the list say 150.00 by now.
    world.acts = of_deliveries(world.booked, world.sent)
    lower(world, 50)


def lower(world: Provider, by: int) -> None:
    """Lower what was sent of the second document, what the provider has of it and what is open, all alike."""
    world.sent[1] = {**world.sent[1], "sent": world.sent[1]["sent"] - by}
    world.there[1]["total"] -= by
    world.paid[1].update(total=world.there[1]["total"], open=world.there[1]["total"])


def paid_nowhere(world: Provider) -> None:
    world.paid[2]["open"] -= 30


Expected = set[tuple[str, str, str, Decimal | None, Decimal | None]]
PLANTED: list[tuple[Callable[[Provider], None], Expected]] = [
    (never_sent, {("INVOICE_NOT_DELIVERED", "AT_RISK", "not_sent", None, Decimal(480))}),
    (parked, {("INVOICE_NOT_DELIVERED", "AT_RISK", "failed", None, Decimal(480))}),
    (credit_note_waits, {("INVOICE_NOT_DELIVERED", "OVERBILL", "pending", None, Decimal(20))}),
    (hours_expired, {("DELIVERY_PARTIAL", "LOST", "expired", Decimal(3), Decimal("0.003"))}),
    (hour_conflicts, {("DELIVERY_PARTIAL", "AT_RISK", "conflict_other_value", Decimal(5), Decimal("0.005"))}),
    (hour_waits, {("DELIVERY_PARTIAL", "TIMING", "pending", Decimal(5), Decimal("0.005"))}),
    (refused_later, {("DELIVERY_ASYNC_ERROR", "AT_RISK", "refused_later", Decimal(3), Decimal("0.003"))}),
    (document_twice, {("DELIVERY_DUPLICATE", "OVERBILL", "document_twice", None, Decimal(100))}),
    (replayed, {("DELIVERY_DUPLICATE", "OVERBILL", "more_than_sent", Decimal(1500), Decimal("1.5"))}),
    (another_region, {("DELIVERY_DUPLICATE", "OVERBILL", "more_than_sent", Decimal(7), None)}),
    (
        lost_at_the_provider,
        {
            ("PROVIDER_QUANTITY", "AT_RISK", "less_than_sent", Decimal("1.5"), Decimal("0.0015")),
            ("PROVIDER_QUANTITY", "AT_RISK", "not_there", Decimal(1), Decimal("0.001")),
        },
    ),
    (
        beyond_a_double,
        {("PROVIDER_QUANTITY", "AT_RISK", "less_than_sent", Decimal("0.00000001"), Decimal("0.00000000001"))},
    ),
    (lowered_there, {("PROVIDER_AMOUNT", "AT_RISK", "amount_differs", None, Decimal("0.01"))}),
    (raised_there, {("PROVIDER_AMOUNT", "OVERBILL", "amount_differs", None, Decimal(38))}),
    (gone_there, {("PROVIDER_AMOUNT", "AT_RISK", "gone", None, Decimal(300))}),
    (
        another_currency,
        {
            ("PROVIDER_AMOUNT", "AT_RISK", "currency_differs", None, Decimal(100)),
            ("PROVIDER_AMOUNT", "OVERBILL", "currency_differs", None, Decimal(100)),
        },
    ),
    (
        made_by_hand,
        {
            ("PROVIDER_ORPHAN", "OVERBILL", "invoice_unknown_here", None, Decimal(75)),
            ("PROVIDER_ORPHAN", "AT_RISK", "credit_note_unknown_here", None, Decimal(12)),
        },
    ),
    (voided_there, {("STATUS_DRIFT", "AT_RISK", "void_at_provider", None, Decimal(300))}),
    (written_off_there, {("STATUS_DRIFT", "AT_RISK", "written_off_at_provider", None, Decimal(250))}),
    (void_here_open_there, {("PROVIDER_AMOUNT", "OVERBILL", "amount_differs", None, Decimal(300))}),
    (refunded_twice, {("REFUND_EXCESS", "LOST", "above_original", None, Decimal(30))}),
    (
        credited_without_a_word,
        {
            ("PROVIDER_ORPHAN", "OVERBILL", "invoice_unknown_here", None, Decimal(75)),
            ("PROVIDER_ORPHAN", "AT_RISK", "credit_note_unknown_here", None, Decimal(12)),
            ("REFUND_EXCESS", "DATA_QUALITY", "without_reason", None, Decimal(12)),
        },
    ),
    (
        overdue,
        {
            ("UNCOLLECTED_AGED", "AT_RISK", "past_due", None, Decimal(100)),
            ("UNCOLLECTED_AGED", "AT_RISK", "past_due", None, Decimal(200)),
        },
    ),
    (served_for_nothing, {("UNCOLLECTED_AGED", "AT_RISK", "served_and_silent", None, Decimal(600))}),
    (
        written_off_and_served,
        {
            # The same 100.00: at risk once.
            ("STATUS_DRIFT", "AT_RISK", "written_off_at_provider", None, Decimal(100)),
            ("UNCOLLECTED_AGED", "INFO", "served_and_silent", None, Decimal(100)),
        },
    ),
    (edited_outbox, {("INVOICED_DELIVERED", "AT_RISK", "meant_otherwise", None, Decimal(40))}),
    (said_to_be_delivered, {("INVOICED_DELIVERED", "AT_RISK", "delivered_without_an_act", None, Decimal(300))}),
    (forgotten_on_both_sides, {("DELIVERED_HELD", "AT_RISK", "held_less", None, Decimal(50))}),
    (truncated, {("FRACTION_DROPPED", "AT_RISK", "not_carried", Decimal(327), Decimal("0.327"))}),
    (sent_too_much, {("FRACTION_DROPPED", "OVERBILL", "more_than_used", Decimal(1), Decimal("0.001"))}),
]


@pytest.mark.parametrize(("plant", "expected"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_what_is_planted_is_found_by_its_control(plant: Callable[[Provider], None], expected: Expected) -> None:
    world = Provider()
    plant(world)
    statement = world.statement()
    assert found(statement) == expected
    assert "not_run" not in ran(statement).values()
    # Whatever is planted, every cent is in one bucket.
    assert not any(statement.unexplained.amount.values())


def test_every_control_has_a_planted_leak() -> None:
    planted = {control for _, expected in PLANTED for control, *_ in expected}
    assert planted | {"HELD_COLLECTED"} == set(OURS)
    assert set(OURS) <= {control.control_id for control in our_controls()}


def test_an_invoice_that_stays_open_is_one_finding_however_old_it_grows() -> None:
    world = Provider()
    overdue(world)
    ids = [
        {
            one.finding_id
            for one in world.statement(looked_at=AFTER + timedelta(days=days)).findings
            if one.reason == "past_due"
        }
        for days in (0, 20, 40, 80)
    ]
    assert len(ids[0]) == 2
    # The third one is due later.
    assert all(later >= ids[0] for later in ids)


def test_money_that_is_in_no_part_of_a_payment_is_found() -> None:
    world = Provider()
    paid_nowhere(world)
    statement = world.statement()
    assert found(statement) == {("HELD_COLLECTED", "AT_RISK", "less_than_held", None, Decimal(30))}
    # The statement says the same, in total: what no bucket explains.
    assert statement.unexplained.amount["USD"] == 30


def test_what_is_not_settled_is_timing() -> None:
    world = Provider()
    lowered_there(world)
    lost_at_the_provider(world)
    found_young = found(world.statement(settled_before=datetime(2026, 10, 1, tzinfo=UTC)))
    assert {(control, cls) for control, cls, *_ in found_young} == {
        ("PROVIDER_AMOUNT", "TIMING"),
        ("PROVIDER_QUANTITY", "TIMING"),
    }


def test_a_provider_that_reports_by_days_is_compared_by_days() -> None:
    world = Provider()
    day = datetime(2026, 10, 5, tzinfo=UTC)
    world.held = [{**world.held[0], "start": day, "end": day + timedelta(days=1), "quantity": Decimal(15)}]
    assert found(world.statement()) == set()
    world.held[0]["quantity"] = Decimal(14)
    assert found(world.statement()) == {
        ("PROVIDER_QUANTITY", "AT_RISK", "less_than_sent", Decimal(1), Decimal("0.001"))
    }


def test_a_habit_of_giving_back_is_told() -> None:
    world = Provider()
    for n in range(10, 110):
        world.booked.append(world.invoice(n, Decimal(10)))
        world.sent.append(world.delivery(world.booked[-1]))
        world.there.append(world.document(world.sent[-1]))
        world.paid.append(world.payment(world.there[-1]))
    world.paid[0].update(paid=Decimal(100), open=Decimal(0), refunded=Decimal(-60), to_balance=Decimal(60))
    assert found(world.statement()) == {("REFUND_EXCESS", "INFO", "share_given_back", None, Decimal(60))}


def owes(world: Provider) -> None:
    world.paid[0].update(open=Decimal(100), to_balance=Decimal(0))


def paid_one_cent(world: Provider) -> None:
    world.paid[2].update(paid=Decimal("0.01"), to_balance=Decimal("299.99"))


def was_told_of_a_payment(world: Provider) -> None:
    world.final.append({**world.final[0], "invoice_id": "earlier", "number": "INV-00000009"})
    told = {"adapter": STRIPE, "provider_id": "in_9", "invoice_id": "earlier", "paid": Decimal(5), "open": Decimal(0)}
    world.told_paid = [told]


def one_is_not_known(world: Provider) -> None:
    world.final.append({**world.final[0], "invoice_id": "unknown", "number": "INV-00000009"})


def long_ago(world: Provider) -> None:
    final(world, AFTER - timedelta(days=60))


@pytest.mark.parametrize("change", [owes, paid_one_cent, was_told_of_a_payment, one_is_not_known, long_ago])
def test_who_owes_or_pays_anything_is_not_silent(change: Callable[[Provider], None]) -> None:
    world = Provider()
    served_for_nothing(world)
    change(world)
    assert {one for one in found(world.statement()) if one[2] == "served_and_silent"} == set()
