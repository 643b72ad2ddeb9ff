"""Stripe's events, as they come: signed, twice, late, out of order. They only say that something changed; what, is read.

Enters: the raw bytes of a request and its `Stripe-Signature`. Leaves: the state of payment in the books
(`billing_adapters.payments`). Refuses: what is not signed with one of our secrets (two while one is rolled), and what was signed
more than five minutes ago *or ahead*, which the SDK lets pass. Source: reference/providers.md, section 3.6.

Two forms: snapshot events of invoices, and thin events of meters (`meter_reports`), which name only themselves: the full event is
fetched by its id. What such a report refuses is parked; if it is under way still, `receive` raises, and Stripe sends it again.

An event is taken once, by its id, in the transaction that writes what it led to. The invoice is read from Stripe, so that
the order of events is no matter: the newest reading stays. If it cannot be read, `receive` raises, the answer is a 500, and
Stripe sends it again.

    receiver = StripeWebhooks(engine, client, secrets=lambda: [os.environ["STRIPE_WEBHOOK_SECRET"]])
    app = receiver.asgi                            # POST to it, from any ASGI server; or call receive(body, header) yourself
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import orjson
import stripe

from billing_adapters.errors import EventRefused, ReportEarly
from billing_adapters.late_refusals import keep_refusals, park_refused
from billing_adapters.minor_units import unit_of
from billing_adapters.payments import Payment, is_known_event, keep_event, keep_payment, readings_of
from billing_adapters.settlements import book_readings
from billing_adapters.stripe_adapter.meter_reports import REPORTS, refusals_of
from metering.clock import SystemClock, from_us
from metering.control_points import COLLECTED, ControlPoint, write_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Engine

    from billing_adapters.minor_units import MinorUnit
    from metering.clock import Clock

ADAPTER = "stripe"
TOLERANCE_S = 300
BODY_BYTES_MAX = 1 << 20
Taken = Literal["taken", "known", "ignored"]


class StripeWebhooks:
    """Takes Stripe's events. Holds no state; any number of them may work at once. `secrets` is asked for each event."""

    def __init__(
        self,
        engine: Engine,
        client: stripe.StripeClient,
        *,
        secrets: Callable[[], Sequence[str]],
        clock: Clock | None = None,
        units: Mapping[str, MinorUnit] | None = None,
    ) -> None:
        self._engine = engine
        self._client: Any = client
        self._secrets = secrets
        self._clock = clock or SystemClock()
        self._units = units

    def receive(self, body: bytes, signature: str | None) -> Taken:
        """Take one event. Raises EventRefused; and stripe.StripeError or ReportEarly for what must come again."""
        self._check(body, signature or "")
        event = orjson.loads(body)
        if event.get("object") == "v2.core.event":
            return self._receive_thin(body, event["id"], event["type"])
        kind, subject = str(event.get("type", "")), event.get("data", {}).get("object", {})
        if not kind.startswith("invoice.") or "id" not in subject:
            return "ignored"
        with self._engine.connect() as connection:
            if is_known_event(connection, ADAPTER, event["id"]):
                return "known"
        payment = None if kind == "invoice.deleted" else self.read(subject["id"])
        with self._engine.begin() as connection:
            keep_event(connection, ADAPTER, event["id"], kind, from_us(self._clock.now_us()))
            if payment is not None:
                keep_payment(connection, payment)
                write_points(connection, [_point(event["id"], payment)])
                book_readings(connection, readings_of([payment]), now=from_us(self._clock.now_us()))
        return "taken"

    def _receive_thin(self, body: bytes, event_id: str, kind: str) -> Taken:
        """Take a thin event: fetch what it stands for, keep what that says, and park what it refuses."""
        if kind not in REPORTS:
            return "ignored"
        with self._engine.connect() as connection:
            if is_known_event(connection, ADAPTER, event_id):
                return "known"
        # The signature was checked, on both sides of now; this only fetches, in the account that the event names.
        report = self._client.parse_event_notification_without_verification(body).fetch_event().to_dict()
        now = from_us(self._clock.now_us())
        refusals = refusals_of(report, now)
        with self._engine.begin() as connection:
            keep_refusals(connection, refusals)
        done = park_refused(self._engine, refusals, now=now)
        if done.early:
            raise ReportEarly(f"{len(done.early)} deliveries of {event_id} are under way still", event_id=event_id)
        with self._engine.begin() as connection:
            keep_event(connection, ADAPTER, event_id, kind, now)
        return "taken"

    def read(self, provider_id: str) -> Payment:
        """Return an invoice as it is at Stripe now. Raises stripe.StripeError."""
        # Before asking: what is read may be newer than this, never older.
        read_at = from_us(self._clock.now_us())
        there = self._client.v1.invoices.retrieve(provider_id)
        currency = str(there.currency).upper()
        digits = unit_of(currency, ADAPTER, self._units).digits
        amounts = {
            name: Decimal(getattr(there, name)).scaleb(-digits)
            for name in ("total", "amount_due", "amount_paid", "amount_remaining")
        }
        metadata = there.metadata.to_dict() if there.metadata is not None else {}
        paid_at_s = getattr(getattr(there, "status_transitions", None), "paid_at", None)
        return Payment(
            adapter=ADAPTER,
            provider_id=there.id,
            invoice_id=metadata.get("tallybook_invoice"),
            status=there.status,
            currency=currency,
            read_at=read_at,
            paid_at=None if paid_at_s is None else from_us(paid_at_s * 1_000_000),
            **amounts,
        )

    async def asgi(self, scope: Mapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Answer a POST: 200 taken, 400 refused, 413 too large, 500 not now. For any ASGI server."""
        import asyncio

        if scope["type"] != "http":
            return
        body, more = b"", True
        while more and len(body) <= BODY_BYTES_MAX:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] != "POST" or len(body) > BODY_BYTES_MAX:
            status = 405 if scope["method"] != "POST" else 413
        else:
            status = await asyncio.to_thread(self.status_of, body, headers.get(b"stripe-signature"))
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def status_of(self, body: bytes, signature: str | None) -> int:
        """Return the HTTP status that answers an event. What is not ready now is sent again by Stripe, for three days."""
        try:
            self.receive(body, signature)
        except EventRefused:
            return 400
        except (stripe.StripeError, ReportEarly):
            return 500
        return 200

    def _check(self, body: bytes, signature: str) -> None:
        try:
            text = body.decode()
            at_s = int(dict(part.split("=", 1) for part in signature.split(",") if part.startswith("t="))["t"])
        except (UnicodeDecodeError, KeyError, ValueError):
            raise EventRefused("the Stripe-Signature of an event cannot be read") from None
        if abs(self._clock.now_us() // 1_000_000 - at_s) > TOLERANCE_S:
            raise EventRefused(
                f"an event was signed {TOLERANCE_S} seconds or more from now; look at this machine's clock"
            )
        for secret in self._secrets():
            try:
                stripe.WebhookSignature.verify_header(text, signature, secret)
            except stripe.SignatureVerificationError:
                continue
            return
        raise EventRefused("an event is not signed with a secret of ours")


def _point(event_id: str, payment: Payment) -> ControlPoint:
    """Return what an event told of payment, as it was read while the event was taken."""
    return ControlPoint(
        COLLECTED,
        batch_id=event_id,
        reason=payment.status,
        written_at=payment.read_at,
        amount=payment.amount_paid,
        currency=payment.currency,
        previous_batch_id=payment.invoice_id or payment.provider_id,
        adapter=payment.adapter,
    )
