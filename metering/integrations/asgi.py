"""The tenant of each ASGI request, for Starlette, FastAPI, Litestar, Django, Quart and any other ASGI application.

Enters: requests, and a resolver that says whose each is. Leaves: the same requests, run with their tenant set; one usage
event each, if a meter is named. Refuses nothing by itself: a request of which the resolver says None runs with no tenant,
and what needs one inside raises BadEvent `no_tenant`. What the resolver raises, the server or an outer middleware answers.

Set at the entry of every request, also to nobody, because servers start a request in the context that an earlier one left
behind; and taken back at its end. Pure ASGI: no task, thread or queue between the server and the application, so
streaming bodies, background tasks and client disconnects are what they were.
"""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from metering.context import Scoped
from metering.integrations.requests import OneRequest, RequestMeter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from metering.integrations.requests import Records

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
    Resolver = Callable[[Scope], Awaitable[str | None] | str | None]


class TenantMiddleware:
    """Run each request under the tenant that `resolver(scope)` names, and count it if a meter is given.

    `resolver` is a function or a coroutine function; it gets the ASGI scope and answers from what *was proved* (a session, a
    verified token, the host), never from a header that anybody can write. It runs with no tenant set. A blocking resolver
    blocks the loop. Called for every scope but `lifespan`, which passes through untouched.

    With `recorder` and `meter`, each HTTP request is one event of quantity 1 when its response was sent, when its handler
    raised or when its client went away, whichever is first; each websocket is one when it was accepted or refused. Attributes:
    `status` ("200"; "101" for an accepted websocket; "500" where the handler raised before it answered; none where it left
    without an answer) and `route`, which `route(scope)` reads after the application ran; by default the path pattern
    that Starlette and FastAPI leave in the scope. An error of the recorder is raised: into the server's log, not lost.

    >>> app = TenantMiddleware(app, resolver=lambda scope: scope["session"]["tenant"])    # doctest: +SKIP
    >>> app.add_middleware(TenantMiddleware, resolver=..., recorder=usage, meter="api_requests")    # doctest: +SKIP
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        resolver: Resolver,
        recorder: Records | None = None,
        meter: str | None = None,
        route: Callable[[Scope], str | None] | None = None,
    ) -> None:
        self.app = app
        self._resolver = resolver
        self._meter = RequestMeter(recorder, meter, route or path_pattern)

    @property
    def requests_without_tenant(self) -> int:
        """How many requests were not counted, because the resolver named nobody or raised. Of this process."""
        return self._meter.without_tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one scope."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        scoped = Scoped()
        with scoped:
            # Other kinds of scope have a tenant but are no requests; nothing says when they are done.
            if not self._meter.counts or scope["type"] not in {"http", "websocket"}:
                scoped.become(await self._resolve(scope))
                await self.app(scope, receive, send)
                return
            request = OneRequest(self._meter, scope)
            try:
                request.tenant = scoped.become(await self._resolve(scope))
                await self.app(scope, receive, _watched(send, request))
            except Exception:
                request.fail()
                raise
            finally:
                # Cancelled, or left without an answer: the client went away. After the answer: counted already.
                request.count()

    async def _resolve(self, scope: Scope) -> str | None:
        answer = self._resolver(scope)
        return await answer if isawaitable(answer) else answer


def path_pattern(scope: Scope) -> str | None:
    """Return the pattern of the route that took the request (`/users/{id}`), where the framework left it in the scope.

    Starlette and FastAPI do; below a `Mount` it is the pattern within the mount. Never the path itself, of which there are
    as many as there are users. None where no route took it.
    """
    pattern = getattr(scope.get("route"), "path", None)
    return pattern if isinstance(pattern, str) else None


def _watched(send: Send, request: OneRequest) -> Send:
    """Return `send` that sees what is answered, and counts the request when the answer is complete."""

    async def send_and_see(message: Message) -> None:
        kind = message["type"]
        if kind in {"http.response.start", "websocket.http.response.start"}:
            request.status = str(message["status"])
        elif kind == "websocket.accept":
            request.status = "101"
        elif kind == "websocket.close":
            # With this status the server refuses the handshake (ASGI); what was accepted has been counted before.
            request.status = "403"
        await send(message)
        if kind in _COMPLETE or (kind in _BODIES and not message.get("more_body", False)):
            request.count()

    return send_and_see


_BODIES = frozenset({"http.response.body", "http.response.zerocopysend", "websocket.http.response.body"})
_COMPLETE = frozenset({"http.response.pathsend", "websocket.accept", "websocket.close"})
