"""A function that only who is entitled may run: the plain decorator, and what a refusal is over HTTP.

Enters: calls, and a checker. Leaves: the calls that are let through; for the others NotEntitled with the decision.
Refuses: to guess the tenant; it is said, or that of the running work.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import wraps
from inspect import iscoroutinefunction
from math import ceil
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from entitlements.errors import NotEntitled
from metering.context import required_tenant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from entitlements.checker import Checker, Quantity
    from entitlements.decisions import Decision

P = ParamSpec("P")
R = TypeVar("R")

# What the answer says in HTTP: not yours (403), no more for now (429), nobody knows just now (503).
_STATUS = {"quota_exhausted": 429, "lease_refused": 429, "rate_limited": 429, "books_away_closed": 503}


def require(
    checker: Checker, feature: str, quantity: Quantity = 1, *, tenant: str | None = None, consume: bool = False
) -> Decision:
    """Return the decision if it allows; raise NotEntitled if not. `tenant` defaults to that of the running work."""
    name = required_tenant() if tenant is None else tenant
    decision = checker.consume(name, feature, quantity) if consume else checker.check(name, feature, quantity)
    if not decision.allowed:
        raise NotEntitled(decision)
    return decision


async def require_async(
    checker: Checker, feature: str, quantity: Quantity = 1, *, tenant: str | None = None, consume: bool = False
) -> Decision:
    """Return or raise what `require` does, without ever holding up the event loop."""
    name = required_tenant() if tenant is None else tenant
    ask = checker.consume_async if consume else checker.check_async
    decision = await ask(name, feature, quantity)
    if not decision.allowed:
        raise NotEntitled(decision)
    return decision


def guard(
    checker: Checker, feature: str, quantity: Quantity = 1, *, consume: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the function runs only for tenants that may use the feature, else NotEntitled is raised.

    With `consume` each call is use of the feature, recorded before the function runs. For functions and coroutine functions;
    the tenant is that of the running work (`with tenant("acme"):`, the tenant middleware).

    >>> @guard(entitled, "exports", consume=True)                               # doctest: +SKIP
    ... def export(): ...
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if iscoroutinefunction(function):

            @wraps(function)
            async def guarded_async(*arguments: P.args, **named: P.kwargs) -> Any:
                await require_async(checker, feature, quantity, consume=consume)
                return await function(*arguments, **named)

            return cast("Callable[P, R]", guarded_async)

        @wraps(function)
        def guarded(*arguments: P.args, **named: P.kwargs) -> R:
            require(checker, feature, quantity, consume=consume)
            return function(*arguments, **named)

        return guarded

    return decorate


def http_answer(decision: Decision, *, now: datetime | None = None) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body (application/problem+json) of a refusal. 429 says when the quota starts anew."""
    status = _STATUS.get(decision.reason, 403)
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if status == 429 and decision.resets_at is not None:
        wait = decision.resets_at - (datetime.now(UTC) if now is None else now)
        headers["Retry-After"] = str(max(1, ceil(wait.total_seconds())))
    title = {403: "Not entitled", 429: "Quota exhausted", 503: "Entitlements are away"}[status]
    body = {"type": "about:blank", "title": title, "status": status, **decision.as_dict()}
    return status, headers, json.dumps(body).encode()
