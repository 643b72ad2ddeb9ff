"""The SDK's transport with one promise more: a write that must not come late goes over the connection of the read before it.

Enters: requests of the SDK. Leaves: Stripe's answers. Refuses: to open a connection for a write that is marked by `IN_TIME`; it
is not sent then, and the caller looks and tries again.

An idempotency key protects a write for a day. A process that stands still for longer (a suspended machine), after it looked and
before its bytes leave, would write under a key that is new again. But no server keeps a silent connection for a day, nor does
anything on the way to it: what goes over the connection that the look was answered on arrives while the key lives, or never.
Each thread has connections of its own, so that none is opened for it by another while it stands still.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import requests
import stripe
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# A mark for this transport, taken off before the request leaves.
IN_TIME = "tallybook-in-time"
_OPENS_NONE: ContextVar[bool] = ContextVar("opens_none", default=False)


class OneConnection(stripe.HTTPClient):
    """A transport for `stripe.StripeClient(http_client=...)`: that of the SDK itself, over connections that this module opens."""

    name = "requests"

    def __init__(self) -> None:
        super().__init__()
        self._own = threading.local()

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **more: Any
    ) -> tuple[str, int, Mapping[str, str]]:
        """Send a request, or raise APIConnectionError where it may not open the connection that it would need."""
        sent = dict(headers or {})
        if not hasattr(self._own, "client"):
            session = requests.Session()
            session.mount("https://", _Adapter())
            session.mount("http://", _Adapter())
            self._own.client = stripe.RequestsClient(session=session)
        with _opening_none(is_marked=sent.pop(IN_TIME, None) is not None):
            answer: tuple[str, int, Mapping[str, str]] = self._own.client.request(method, url, sent, post_data, **more)
        return answer

    def close(self) -> None:
        """Close the connections of this thread."""
        if hasattr(self._own, "client"):
            self._own.client.close()


@contextmanager
def _opening_none(*, is_marked: bool) -> Iterator[None]:
    before = _OPENS_NONE.set(is_marked)
    try:
        yield
    finally:
        _OPENS_NONE.reset(before)


def _check(connection: HTTPConnection) -> None:
    if _OPENS_NONE.get():
        raise NewConnectionError(connection, "not sent: the connection of the read before it is not open any more")


class _Connection(HTTPConnection):
    def connect(self) -> None:
        _check(self)
        super().connect()


class _SafeConnection(HTTPSConnection):
    def connect(self) -> None:
        _check(self)
        super().connect()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(HTTPSConnectionPool):
    ConnectionCls = _SafeConnection


class _Adapter(HTTPAdapter):
    """Pools of connections that open only where they may; through a proxy as well."""

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **named)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}
        return manager
