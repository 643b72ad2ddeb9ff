"""The fake Stripe where the real SDK can reach it: in process, or as an HTTP server on the loopback address.

    fake = StripeFake(SystemClock())
    with serve(fake) as url:
        client = stripe.StripeClient(fake.api_key, base_addresses={"api": url, "meter_events": url}, max_network_retries=0)

Enters: requests of the SDK. Leaves: answers; none where the fake says that it was lost: the connection ends then.
Refuses: to listen anywhere but on 127.0.0.1. Webhooks are signed as Stripe signs them; `StripeFake.signed_webhooks` takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
import stripe

from billing_adapters.stripe_adapter.one_connection import IN_TIME
from billing_adapters.testing.loopback import QuietHandler, serve_handler
from billing_adapters.testing.stripe_fake import AnswerLost, StripeFake

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

# How long the fake keeps a connection that nobody uses.
CONNECTION_LIVES_S = 600


class InProcess(stripe.HTTPClient):
    """The SDK's transport, straight into a fake: no socket, no thread.

    There is a connection all the same, which is gone when nobody used it for long; and a write that must not come late is
    not sent over a new one, as `stripe_adapter.one_connection` has it.
    """

    name = "fake"

    def __init__(self, fake: StripeFake) -> None:
        super().__init__()
        self._fake = fake
        self._answered_s: int | None = None

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **_more: Any
    ) -> tuple[str, int, Mapping[str, str]]:
        """Answer a request, or raise what the SDK raises when there is no answer."""
        low = {name.lower(): value for name, value in (headers or {}).items()}
        now_s, answered_s, self._answered_s = self._fake.store.now_s, self._answered_s, None
        is_open = answered_s is not None and now_s - answered_s < CONNECTION_LIVES_S
        if low.pop(IN_TIME, None) is not None and not is_open:
            raise stripe.APIConnectionError("Not sent: the connection is gone")  # type: ignore[no-untyped-call]
        try:
            reply = self._fake.handle(method, urlsplit(url), low, post_data or "")
        except AnswerLost as lost:
            said = f"Unexpected error communicating with Stripe: {lost}"
            raise stripe.APIConnectionError(said) from lost  # type: ignore[no-untyped-call]
        self._answered_s = self._fake.store.now_s
        return reply.body.decode(), reply.status, reply.headers

    def close(self) -> None:
        """There is nothing to close."""


def in_process_client(fake: StripeFake, **options: Any) -> stripe.StripeClient:
    """Return the real SDK's client over a fake, without retries of its own."""
    options.setdefault("max_network_retries", 0)
    return stripe.StripeClient(fake.api_key, http_client=InProcess(fake), **options)


def sign(event: dict[str, Any], secret: str, at_s: int) -> tuple[bytes, str]:
    """Return an event's body and its `Stripe-Signature` header, made by the SDK itself."""
    body = orjson.dumps(event)
    return body, stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at_s)


def serve(fake: StripeFake) -> AbstractContextManager[str]:
    """Serve a fake on a free port of the loopback address; give its address."""
    return serve_handler(_handler(fake))


def _handler(fake: StripeFake) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 (the name that http.server calls)
            self._answer("get")

        def do_POST(self) -> None:  # noqa: N802 (the name that http.server calls)
            self._answer("post")

        def do_DELETE(self) -> None:  # noqa: N802 (the name that http.server calls)
            self._answer("delete")

        def _answer(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                reply = fake.handle(method, urlsplit(self.path), headers, body)
            except AnswerLost:
                # The connection ends without a byte, as when a balancer or a process dies.
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

    return Handler
