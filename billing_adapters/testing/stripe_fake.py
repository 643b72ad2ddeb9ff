"""A faithful fake of Stripe: its state, its clock, its idempotency, and its ways to fail.

Enters: requests as they are on the wire. Leaves: answers as they are on the wire, or none at all. Refuses: what Stripe
refuses, and what its SDK's typed parameters would refuse. Source: reference/providers.md, section 3.7.

    fake = StripeFake(FixedClock(now))
    client = fake.client()                        # the real SDK, in process
    with serve(fake) as url: ...                  # the same over HTTP: billing_adapters.testing.stripe_server

Failures: `fake.fail("lost")` for the next write, or `fake.fault` for a plan of your own, reads too. What a failure means:

    lost        done, and the answer never arrives        away     not done, and no answer arrives
    error       500 before anything was done, kept under the key      error_after  500 after it was done, kept as well
    throttled   429, nothing done, nothing kept           conflict 409, nothing done, nothing kept
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.testing.stripe_invoices import Invoices
from billing_adapters.testing.stripe_meters import Meters
from billing_adapters.testing.stripe_shapes import ShapeRefused, parse_form
from billing_adapters.testing.stripe_store import Refused, Store, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from urllib.parse import SplitResult

    import stripe

    from metering.clock import Clock

KEY_LIVES_S = 24 * 3600
KEY_LIVES_V2_S = 30 * 24 * 3600
KEY_CHARACTERS_MAX = 255


class AnswerLost(ConnectionError):
    """The caller gets no answer. Whether anything was done is what the caller cannot know."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on the wire. Header names are in lower case, as the SDK reads them."""

    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a key stands for: the request it came with, by its hash, and the answer that is replayed, packed."""

    request: bytes
    reply: Reply
    at_s: int


class StripeFake:
    """One Stripe account. `fault` is asked before each call, by method and path, and names a failure or None.

    `writes_per_s`: how many writes a second of the clock takes before 429; None: any number. `search_lag_s`: how old an object
    is before `search` shows it.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        api_key: str = "sk_test_fake_key",
        webhook_secret: str = "whsec_fake_secret",  # noqa: S107 (of a fake)
        writes_per_s: int | None = None,
        search_lag_s: int = 60,
        fault: Callable[[str, str], str | None] = lambda _method, _path: None,
    ) -> None:
        self.store = Store(clock, search_lag_s=search_lag_s)
        self.invoices = Invoices(self.store)
        self.meters = Meters(self.store)
        self.api_key = api_key
        self.webhook_secret = webhook_secret
        self.fault = fault
        self.calls: list[tuple[str, str]] = []
        self.is_revoked = False
        self._writes_per_s = writes_per_s
        self._written: deque[int] = deque()
        self._failures: deque[str] = deque()
        self._kept: dict[str, _Kept] = {}
        self._running: set[str] = set()
        self._lock = threading.RLock()

    def fail(self, how: str, times: int = 1) -> None:
        """Make the next writes fail, each in this way."""
        self._failures.extend([how] * times)

    def client(self, **options: Any) -> stripe.StripeClient:
        """Return the real SDK's client, talking to this fake in process."""
        from billing_adapters.testing.stripe_server import in_process_client

        return in_process_client(self, **options)

    def handle(self, method: str, url: SplitResult, headers: Mapping[str, str], body: str) -> Reply:
        """Answer one request. Raises AnswerLost where the caller gets none. Header names are in lower case."""
        with self._lock:
            self.calls.append((method, url.path))
            refusal = self._door(url.path, headers)
            if refusal is not None:
                return refusal
            if method == "get":
                return self._read(url)
        return self._write(method, url.path, headers, body)

    def signed_webhooks(self) -> list[tuple[bytes, str]]:
        """Take the events that were not sent yet, oldest first, each with its signature header."""
        from billing_adapters.testing.stripe_server import sign

        with self._lock:
            return [sign(event, self.webhook_secret, self.store.now_s) for event in self.store.take_unsent()]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _door(self, path: str, headers: Mapping[str, str]) -> Reply | None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        is_stream = path == "/v2/billing/meter_event_stream"
        is_known = self.meters.is_session(given) if is_stream else given == self.api_key
        if not is_known:
            return _error(401, "invalid_request_error", "Invalid API Key provided")
        if self.is_revoked:
            return _error(403, "invalid_request_error", "This key may not do this any more", code="key_revoked")
        return None

    def _read(self, url: SplitResult) -> Reply:
        how = self.fault("get", url.path)
        if how in {"away", "lost"}:
            raise AnswerLost("what was read did not arrive")
        if how == "throttled":
            return _error(429, "invalid_request_error", "Too many requests", code="rate_limit")
        if how is not None:
            return _error(500, "api_error", "An error occurred")
        return self._guarded(lambda: self._route("get", url.path, parse_form(url.query)))

    def _write(self, method: str, path: str, headers: Mapping[str, str], body: str) -> Reply:
        key = headers.get("idempotency-key", "")
        if len(key) > KEY_CHARACTERS_MAX:
            return _error(400, "invalid_request_error", f"Idempotency keys have up to {KEY_CHARACTERS_MAX} characters")
        with self._lock:
            how = self._failures.popleft() if self._failures else self.fault(method, path)
            if how == "away":
                raise AnswerLost("the request did not arrive")
            if how == "throttled" or self._is_too_fast():
                return _error(429, "invalid_request_error", "Too many requests", code="rate_limit")
            if how == "conflict" or key in self._running:
                return _error(409, "idempotency_error", "Another request with this key is under way")
            request = hashlib.sha256(f"{method} {path}\n{body}".encode()).digest()
            kept = self._kept_of(key, path)
            if kept is not None:
                return self._replay(kept, request, how)
            self._running.add(key)
        try:
            with self._lock:
                return self._execute(method, path, body, headers, how, request)
        finally:
            with self._lock:
                self._running.discard(key)

    def _kept_of(self, key: str, path: str) -> _Kept | None:
        kept = self._kept.get(key) if key else None
        lives_s = KEY_LIVES_V2_S if path.startswith("/v2/") else KEY_LIVES_S
        return None if kept is None or self.store.now_s - kept.at_s >= lives_s else kept

    def _replay(self, kept: _Kept, request: bytes, how: str | None) -> Reply:
        if kept.request != request:
            message = "Keys for idempotent requests can only be used with the same parameters they were first used with"
            return _error(400, "idempotency_error", message)
        if how in {"lost", "error_after"}:
            raise AnswerLost("the replayed answer was lost")
        return Reply(
            kept.reply.status, zlib.decompress(kept.reply.body), {**kept.reply.headers, "idempotent-replayed": "true"}
        )

    def _execute(
        self, method: str, path: str, body: str, headers: Mapping[str, str], how: str | None, request: bytes
    ) -> Reply:
        is_v2 = path.startswith("/v2/")
        key = headers.get("idempotency-key", "")
        params = orjson.loads(body or "{}") if is_v2 else parse_form(body)
        self.store.idempotency_key = key
        if how == "error":
            reply = _error(500, "api_error", "An error occurred before anything was done")
        else:
            reply = self._guarded(lambda: self._route(method, path, params))
            if how == "error_after" and reply.status < 300:
                reply = _error(500, "api_error", "An error occurred after it was done")
        # What fails validation is not kept; what began is, a 500 included. v2 does failed work again.
        if key and reply.headers.get("fake-began") == "true" and not (is_v2 and reply.status >= 500):
            self._kept[key] = _Kept(request, replace(reply, body=packed(reply.body)), self.store.now_s)
        if how == "lost":
            raise AnswerLost("it was done, and the answer was lost")
        return reply

    def _is_too_fast(self) -> bool:
        if self._writes_per_s is None:
            return False
        now_us = self.store.now_us
        while self._written and self._written[0] <= now_us - 1_000_000:
            self._written.popleft()
        if len(self._written) >= self._writes_per_s:
            return True
        self._written.append(now_us)
        return False

    def _guarded(self, act: Callable[[], Any]) -> Reply:
        try:
            answer = act()
        except ShapeRefused as refused:
            return _error(400, "invalid_request_error", str(refused), param=refused.param, began=False)
        except Refused as refused:
            return _error(refused.status, "invalid_request_error", str(refused), code=refused.code, param=refused.param)
        return Reply(200, orjson.dumps(answer), {"request-id": self.store.request_id(), "fake-began": "true"})

    def _route(self, method: str, path: str, params: dict[str, Any]) -> Any:
        for family in (self.invoices, self.meters):
            for pattern, verb, act in family.routes:
                found = pattern.fullmatch(path)
                if found is not None and verb == method:
                    return act(*found.groups(), params)
        raise Refused(404, f"Unrecognized request URL ({method.upper()}: {path})")

    @contextmanager
    def failing(self, fault: Callable[[str, str], str | None]) -> Iterator[None]:
        """Fail writes by a plan for a while."""
        before, self.fault = self.fault, fault
        try:
            yield
        finally:
            self.fault = before


def _error(
    status: int, kind: str, message: str, *, code: str | None = None, param: str | None = None, began: bool = True
) -> Reply:
    body = {"error": {"type": kind, "message": message, "code": code, "param": param}}
    kept = began and status not in {401, 403, 409, 429}
    return Reply(status, orjson.dumps(body), {"request-id": "req_refused", "fake-began": str(kept).lower()})
