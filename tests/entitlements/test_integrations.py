"""Checks at the doors of real frameworks: who is entitled gets through, the others get 403, 429 or 503."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest

from entitlements.checker import Checker
from entitlements.decisions import Decision
from entitlements.errors import NotEntitled
from entitlements.integrations.asgi import EntitlementMiddleware, entitled_to
from entitlements.integrations.flask import answer
from entitlements.integrations.flask import entitled_to as flask_entitled_to
from entitlements.integrations.guard import guard, http_answer
from entitlements.view import FixedSource
from metering.context import tenant
from metering.integrations.asgi import TenantMiddleware
from metering.recorder import Recorder
from tests.entitlements.views import RESETS_AT, figures, rule_of, view_of


@pytest.fixture
def entitled(tmp_path: Path) -> Iterator[Checker]:
    with Recorder(tmp_path, ship="none") as usage:
        source = FixedSource(view_of(rule_of(overage="blocked"), figures(2)))
        yield Checker(source, usage, refresh_interval_s=3600, stale_after_s=7200)


def test_the_decorator_lets_through_what_is_left(entitled: Checker) -> None:
    @guard(entitled, "tokens", consume=True)
    def work(number: int) -> int:
        return number

    with tenant("acme"):
        assert [work(1), work(2)] == [1, 2]
        with pytest.raises(NotEntitled) as refused:
            work(3)
    assert refused.value.decision.reason == "quota_exhausted"
    assert refused.value.code == "not_entitled"


def test_the_decorator_of_a_coroutine_function(entitled: Checker) -> None:
    @guard(entitled, "other")
    async def work() -> None: ...

    with tenant("acme"), pytest.raises(NotEntitled, match="no entitlement"):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("reason", "status"),
    [("no_entitlement", 403), ("switched_off", 403), ("quota_exhausted", 429), ("books_away_closed", 503)],
)
def test_a_refusal_over_http(reason: Any, status: int) -> None:
    decision = Decision.of(False, reason, tenant="acme", feature="tokens", limit=2, used=2, resets_at=RESETS_AT)
    got, headers, body = http_answer(decision, now=RESETS_AT - timedelta(seconds=90))
    assert got == status == json.loads(body)["status"]
    assert headers.get("Retry-After") == ("90" if status == 429 else None)


def test_fastapi_dependency_and_middleware(entitled: Checker) -> None:
    import httpx
    from fastapi import Depends, FastAPI

    app = FastAPI()
    app.add_middleware(EntitlementMiddleware)
    app.add_middleware(TenantMiddleware, resolver=lambda scope: "acme")

    @app.get("/export")
    async def export(decision: Any = Depends(entitled_to(entitled, "tokens", consume=True))) -> dict[str, str]:  # noqa: B008
        return {"remaining": str(decision.remaining)}

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return [await client.get("/export") for _ in range(3)]

    first, second, third = asyncio.run(ask())
    assert (first.json(), second.json()) == ({"remaining": "1"}, {"remaining": "0"})
    assert third.status_code == 429
    assert third.json()["reason"] == "quota_exhausted"


def test_the_asgi_middleware_checks_at_the_door(entitled: Checker) -> None:
    import httpx
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def page(request: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    app = Starlette(routes=[Route("/", page)])
    guarded = EntitlementMiddleware(app, checker=entitled, feature="other")
    whole = TenantMiddleware(guarded, resolver=lambda scope: "acme")

    async def ask() -> Any:
        transport = httpx.ASGITransport(app=whole)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get("/")

    assert asyncio.run(ask()).status_code == 403


def test_flask_views_and_error_handler(entitled: Checker) -> None:
    from flask import Flask

    app = Flask("test")
    app.register_error_handler(NotEntitled, answer)

    @app.get("/export")
    @flask_entitled_to(entitled, "tokens", consume=True)
    def export() -> str:
        return "done"

    @app.get("/deep")
    def deep() -> str:
        guard(entitled, "other")(lambda: "never")()
        return "never"

    with tenant("acme"):
        client = app.test_client()
        assert [client.get("/export").status_code for _ in range(3)] == [200, 200, 429]
        assert client.get("/deep").get_json()["reason"] == "no_entitlement"


def test_a_view_that_is_a_coroutine_stays_one(entitled: Checker) -> None:
    """Quart, and Flask with async views, look at the function to know whether to await it."""

    @flask_entitled_to(entitled, "tokens", consume=True)
    async def export() -> str:
        return "done"

    async def ask() -> list[Any]:
        with tenant("acme"):
            return [await export() for _ in range(3)]

    assert iscoroutinefunction(export)
    first, second, (body, status, headers) = asyncio.run(ask())
    assert (first, second, status) == ("done", "done", 429)
    assert json.loads(body)["reason"] == "quota_exhausted"
    assert headers["Content-Type"] == "application/problem+json"


def test_the_middleware_answers_a_refusal_from_deep_inside_a_real_application(entitled: Checker) -> None:
    """Raised in a plain function that FastAPI runs in a thread; the tenant goes with it."""
    import httpx
    from fastapi import FastAPI

    app = FastAPI()
    app.add_middleware(EntitlementMiddleware)
    app.add_middleware(TenantMiddleware, resolver=lambda scope: "acme")

    @app.get("/deep")
    def deep() -> str:
        return guard(entitled, "other")(lambda: "never")()

    async def ask() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            return await client.get("/deep")

    got = asyncio.run(ask())
    assert (got.status_code, got.json()["reason"]) == (403, "no_entitlement")
    assert got.headers["content-type"] == "application/problem+json"


def test_no_framework_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, entitlements.integrations.asgi, entitlements.integrations.flask, entitlements.checker;"
        "print([one for one in ('flask', 'starlette', 'fastapi', 'openfeature', 'pyarrow', 'duckdb', 'pydantic', 'sqlalchemy')"
        " if one in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
