"""Checks in ASGI applications: a dependency for FastAPI, and a middleware that answers refusals for all.

Enters: requests whose tenant is set (metering.integrations.asgi.TenantMiddleware). Leaves: those of who is entitled; for
the others 403, 429 or 503 as `http_answer` says. Refuses: to answer twice; a refusal after the response began is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entitlements.errors import NotEntitled
from entitlements.integrations.guard import http_answer, require_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from entitlements.checker import Checker, Quantity
    from entitlements.decisions import Decision
    from metering.integrations.asgi import ASGIApp, Message, Receive, Scope, Send


class EntitlementMiddleware:
    """Answer NotEntitled, raised anywhere inside; with `checker` and `feature`, check every HTTP request at the door.

    Put it inside the tenant middleware. With `consume` each request is use of the feature.

    >>> app.add_middleware(EntitlementMiddleware, checker=entitled, feature="api")      # doctest: +SKIP
    """

    def __init__(
        self, app: ASGIApp, *, checker: Checker | None = None, feature: str | None = None, consume: bool = False
    ) -> None:
        self.app = app
        self._checker = checker
        self._feature = feature
        self._consume = consume

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            if self._checker is not None and self._feature is not None:
                await require_async(self._checker, self._feature, consume=self._consume)
            await self.app(scope, receive, send_on)
        except NotEntitled as refused:
            if has_begun:
                raise
            await _answer(refused.decision, send)


async def _answer(decision: Decision, send: Send) -> None:
    status, headers, body = http_answer(decision)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def entitled_to(
    checker: Checker, feature: str, quantity: Quantity = 1, *, consume: bool = False
) -> Callable[[], Awaitable[Any]]:
    """Return a FastAPI dependency that gives the Decision, or raises NotEntitled, which the middleware answers.

    >>> @app.get("/export", dependencies=[Depends(entitled_to(entitled, "exports", consume=True))])  # doctest: +SKIP
    """

    async def dependency() -> Any:
        return await require_async(checker, feature, quantity, consume=consume)

    return dependency
