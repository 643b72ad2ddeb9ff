"""Counting requests, once each: what the ASGI and the WSGI middleware share.

Enters: a recorder, the name of a meter, how to read a request's route. Leaves: one usage event per request, quantity 1, with
the attributes `route` and `status` (both text, left out where not known). Refuses: a meter without a recorder or the other
way round (ValueError), a meter's name that breaks the rules (BadEvent), and to guess a tenant: a request of nobody is not
an event, and is counted in `without_tenant` instead.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

from metering.events import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping


class Records(Protocol):
    """What a middleware needs of a `Recorder`."""

    def record(self, meter: str, /, *, tenant: str, route: str | None, status: str | None) -> None:
        """Record one usage event of quantity 1, now."""


class RequestMeter:
    """Counts requests into one meter, or none when there is no meter. Safe for all threads."""

    def __init__(
        self, recorder: Records | None, meter: str | None, route: Callable[[MutableMapping[str, Any]], str | None]
    ) -> None:
        if (recorder is None) != (meter is None):
            raise ValueError("to count requests give both, a recorder and the name of its meter; else neither")
        self._recorder = recorder
        self._meter = None if meter is None else check_name(meter, "meter")
        self._route = route
        self.without_tenant = 0
        self._lock = threading.Lock()

    @property
    def counts(self) -> bool:
        """True when requests are counted at all."""
        return self._recorder is not None

    def record(self, request: MutableMapping[str, Any], tenant: str | None, status: str | None) -> None:
        """Record one request. Raises what the recorder raises, and what the reader of the route does."""
        if self._recorder is None or self._meter is None:
            return
        if tenant is None:
            with self._lock:
                self.without_tenant += 1
            return
        route: str | None = None
        try:
            route = self._route(request)
        finally:
            # A reader that fails costs the route, never the event.
            self._recorder.record(self._meter, tenant=tenant, route=route, status=status)


class OneRequest:
    """One request on its way: whose it is, what was answered, and whether it was counted."""

    __slots__ = ("_is_counted", "_meter", "_request", "status", "tenant")

    def __init__(self, meter: RequestMeter, request: MutableMapping[str, Any]) -> None:
        self._meter = meter
        self._request = request
        self.tenant: str | None = None
        self.status: str | None = None
        self._is_counted = False

    def count(self) -> None:
        """Count the request, the first time that this is called."""
        if not self._is_counted:
            # Before the attempt: a row that was refused has raised, and must not be tried again on the way out.
            self._is_counted = True
            self._meter.record(self._request, self.tenant, self.status)

    def fail(self) -> None:
        """Count a request whose handler raised. If nothing was answered yet, the server answers 500."""
        if self.status is None:
            self.status = "500"
        self.count()
