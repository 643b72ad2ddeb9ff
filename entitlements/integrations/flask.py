"""Checks in Flask and Quart: a decorator for views, and an error handler.

Enters: requests whose tenant is set (metering.integrations.wsgi). Leaves: the views of who is entitled; for the others a
response as `http_answer` says. Flask is never imported: a view may return (body, status, headers). Refuses: to hold up the
event loop of a view that is a coroutine function.
"""

from __future__ import annotations

from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from entitlements.errors import NotEntitled
from entitlements.integrations.guard import http_answer, require, require_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from entitlements.checker import Checker, Quantity

    Answer = tuple[bytes, int, dict[str, str]]


def entitled_to(
    checker: Checker, feature: str, quantity: Quantity = 1, *, consume: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for views: 403, 429 or 503 instead of the view where the tenant may not use the feature.

    A view that is a coroutine function stays one.

    >>> @app.get("/export")                                                     # doctest: +SKIP
    ... @entitled_to(entitled, "exports", consume=True)
    ... def export(): ...
    """

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        if iscoroutinefunction(view):

            @wraps(view)
            async def guarded_async(*arguments: Any, **named: Any) -> Any:
                try:
                    await require_async(checker, feature, quantity, consume=consume)
                except NotEntitled as refused:
                    return answer(refused)
                return await view(*arguments, **named)

            return guarded_async

        @wraps(view)
        def guarded(*arguments: Any, **named: Any) -> Any:
            try:
                require(checker, feature, quantity, consume=consume)
            except NotEntitled as refused:
                return answer(refused)
            return view(*arguments, **named)

        return guarded

    return decorate


def answer(refused: NotEntitled) -> Answer:
    """Return the response to a refusal from deep inside: `app.register_error_handler(NotEntitled, answer)`."""
    status, headers, body = http_answer(refused.decision)
    return body, status, dict(headers)
