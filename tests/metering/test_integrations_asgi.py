"""The ASGI middleware behind a real uvicorn: tenants never mix, and each request counts once, however it ends."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from http import client
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from metering.context import carry, current_tenant, required_tenant, tenant
from metering.errors import BadEvent
from metering.integrations.asgi import TenantMiddleware
from tests.metering.requests_served import ask, ask_in_turn, counted, recorder, send_raw, serving, until

TENANTS = [f"tenant-{number:02}" for number in range(20)]
Seen = Counter[tuple[str, str | None, str]]


def from_header(scope: MutableMapping[str, Any]) -> str | None:
    """Believe the client: only where there is nothing to steal."""
    name = dict(scope["headers"]).get(b"x-tenant")
    return None if name is None else name.decode()


async def from_header_slowly(scope: MutableMapping[str, Any]) -> str | None:
    assert current_tenant() is None, "the resolver sees what an earlier request left behind"
    await asyncio.sleep(0)
    return from_header(scope)


def observing(seen: Seen) -> list[Route]:
    """Return routes of every shape that note which tenant they see, beside the one that the client is."""

    def note(request: Request, where: str) -> None:
        seen[request.headers["x-tenant"], current_tenant(), where] += 1

    async def work(request: Request) -> Response:
        note(request, "async")
        await asyncio.sleep(len(request.path_params["id"]) / 1000)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(note, request, "to_thread"))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, carry(note), request, "carried")
        await request.body()
        note(request, "async")
        with tenant("inner"):
            await asyncio.sleep(0)
        return PlainTextResponse("done", background=BackgroundTask(note, request, "background"))

    def sync(request: Request) -> Response:
        note(request, "sync")
        return PlainTextResponse("done")

    async def stream(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            for _ in range(3):
                note(request, "async body")
                yield "x"
                await asyncio.sleep(0)

        return StreamingResponse(body())

    async def stream_sync(request: Request) -> Response:
        def body() -> Iterator[str]:
            for _ in range(3):
                note(request, "sync body")
                yield "x"

        return StreamingResponse(body())

    return [
        Route("/work/{id}", work, methods=["POST"]),
        Route("/sync/{id}", sync, methods=["POST"]),
        Route("/stream/{id}", stream, methods=["POST"]),
        Route("/stream-sync/{id}", stream_sync, methods=["POST"]),
    ]


def test_hundreds_of_concurrent_requests_never_mix(tmp_path: Path) -> None:
    seen: Seen = Counter()
    usage = recorder(tmp_path)
    app = Starlette(routes=observing(seen))
    metered = TenantMiddleware(app, resolver=from_header_slowly, recorder=usage, meter="api_requests")

    paths = ("work", "sync", "stream", "stream-sync")
    # Bodies over 64 KiB make uvicorn resume reading in the context of an earlier request.
    requests = [
        (f"/{path}/{number}", TENANTS[number % 20], b"x" * 100_000 if path == "work" and number % 3 == 0 else b"")
        for number in range(200)
        for path in paths
    ]
    waiting = iter(requests)

    async def ask_all(port: int) -> Counter[int]:
        # A hundred connections at once, each with whatever request is the next: tenants change on every connection.
        return sum(await asyncio.gather(*(ask_in_turn(port, waiting) for _ in range(100))), Counter())

    with usage, serving(metered) as port:
        assert asyncio.run(ask_all(port)) == {200: 800}
    wheres = {
        "async": 20,
        "to_thread": 10,
        "carried": 10,
        "background": 10,
        "sync": 10,
        "async body": 30,
        "sync body": 30,
    }
    assert seen == {(name, name, where): number for name in TENANTS for where, number in wheres.items()}
    routes = ("/work/{id}", "/sync/{id}", "/stream/{id}", "/stream-sync/{id}")
    assert counted(tmp_path) == {("api_requests", name, route, "200"): 10 for name in TENANTS for route in routes}
    assert metered.requests_without_tenant == 0


def pipelined(name: bytes, body: bytes, *, close: bool = False) -> bytes:
    tenant_line = b"x-tenant: " + name + b"\r\n" if name else b""
    last = b"connection: close\r\n" if close else b""
    head = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: %d\r\n" % len(body)
    return head + tenant_line + last + b"\r\n" + body


def test_what_a_request_left_behind_is_not_seen_by_the_next_on_its_connection() -> None:
    probe: contextvars.ContextVar[str] = contextvars.ContextVar("probe", default="clean")
    seen: list[tuple[str | None, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((current_tenant(), probe.get()))
        probe.set("left behind")
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def leaky(scope: Any, receive: Any, send: Any) -> None:
        # The innermost code sets and never resets, as applications do.
        tenant(current_tenant()).__enter__()
        await app(scope, receive, send)

    big = b"x" * 300_000
    with serving(TenantMiddleware(leaky, resolver=from_header), lifespan="off", http="h11") as port:
        parts = [
            pipelined(b"acme", big),
            pipelined(b"", big),
            pipelined(b"globex", b""),
            pipelined(b"", b"", close=True),
        ]
        send_raw(port, b"".join(parts))
    # The probe shows that the server did hand a used context on: the test would see a leak if there was one.
    assert [name for name, _ in seen] == ["acme", None, "globex", None]
    assert "left behind" in {state for _, state in seen[1:]}


def ending(started: Counter[str]) -> Starlette:
    """Return an application whose requests end in every way that there is."""

    async def ok(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def refuse(request: Request) -> Response:
        raise HTTPException(429)

    async def fail(request: Request) -> Response:
        raise LookupError("on purpose")

    async def fail_in_body(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield "x"
            raise LookupError("on purpose")

        return StreamingResponse(body())

    async def fail_in_background(request: Request) -> Response:
        async def background() -> None:
            raise LookupError("on purpose")

        return PlainTextResponse("ok", background=BackgroundTask(background))

    async def endless(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            try:
                while True:
                    started["body"] += 1
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                started["ended"] += 1

        return StreamingResponse(body())

    async def nobodys(request: Request) -> Response:
        return PlainTextResponse(required_tenant())

    here = [Route(f"/{view.__name__}", view) for view in (ok, refuse, fail, fail_in_body, fail_in_background, endless)]
    return Starlette(routes=[*here, Route("/nobodys", nobodys), Mount("/below", routes=[Route("/{id}", ok)])])


def get(port: int, path: str, name: str | None = "acme", method: str = "GET") -> int | None:
    """Return the status of one request, None where the server hung up."""
    try:
        return ask(port, path, name, method)[0]
    except client.HTTPException:
        return None


def test_a_request_counts_once_however_it_ends(tmp_path: Path) -> None:
    started: Counter[str] = Counter()
    usage = recorder(tmp_path)
    app = TenantMiddleware(ending(started), resolver=from_header, recorder=usage, meter="api")
    with usage, serving(app) as port:
        paths = ["ok", "refuse", "fail", "fail_in_body", "fail_in_background", "nowhere", "below/7"]
        answers = [get(port, f"/{path}") for path in paths]
        assert answers == [200, 429, 500, None, 200, 404, 200]
        assert get(port, "/ok", method="POST") == 405
        assert get(port, "/nobodys", name=None) == 500
        send_raw(port, b"GET /endless HTTP/1.1\r\nhost: here\r\nx-tenant: acme\r\n\r\n", read_to_end=False)
        until(lambda: started["ended"] == 1)
    assert app.requests_without_tenant == 1
    expected = {
        ("/ok", "200"): 1,
        ("/ok", "405"): 1,
        ("/refuse", "429"): 1,
        ("/fail", "500"): 1,
        ("/fail_in_body", "200"): 1,
        ("/fail_in_background", "200"): 1,
        ("/endless", "200"): 1,
        ("/{id}", "200"): 1,
        (None, "404"): 1,
    }
    assert counted(tmp_path) == {("api", "acme", *ending): number for ending, number in expected.items()}


Messages = list[MutableMapping[str, Any]]


async def drive(app: Any, scope: dict[str, Any], sends: Callable[[Any], Awaitable[None]] | None = None) -> Messages:
    """Run one scope without a server; return what was sent."""
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return {"type": f"{scope['type']}.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if sends is not None:
            await sends(message)

    await app({"headers": [(b"x-tenant", b"acme")], **scope}, receive, send)
    return sent


START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body"}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


def test_a_client_that_goes_away_counts_once(tmp_path: Path) -> None:
    async def gone(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client went away")

    async def leaves(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(3600)

    async def cancelled(app: Any) -> None:
        task = asyncio.create_task(drive(app, {"type": "http"}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def metered(app: Any, meter: str) -> TenantMiddleware:
        return TenantMiddleware(
            app, resolver=from_header, recorder=usage, meter=meter, route=lambda scope: scope["type"]
        )

    with recorder(tmp_path) as usage:
        with pytest.raises(OSError, match="went away"):
            asyncio.run(drive(metered(answer, "gone"), {"type": "http"}, gone))
        asyncio.run(drive(metered(leaves, "leaves"), {"type": "http"}))
        asyncio.run(cancelled(metered(waits, "waits")))
    assert counted(tmp_path) == {
        ("gone", "acme", "http", "200"): 1,
        ("leaves", "acme", "http", None): 1,
        ("waits", "acme", "http", None): 1,
    }


def test_a_handler_that_raises_before_it_answers_counts_as_500(tmp_path: Path) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("on purpose")

    with recorder(tmp_path) as usage:
        app = TenantMiddleware(fails, resolver=from_header, recorder=usage, meter="api")
        with pytest.raises(LookupError, match="on purpose"):
            asyncio.run(drive(app, {"type": "http"}))
    assert counted(tmp_path) == {("api", "acme", None, "500"): 1}


def test_a_request_counts_when_it_was_answered_not_when_its_background_task_ends() -> None:
    order: list[str | None] = []

    class Notes:
        def record(self, meter: str, /, *, tenant: str, route: str | None, status: str | None) -> None:
            order.append(status)

    async def lingers(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "more_body": True})
        order.append("half")
        await send(BODY)
        order.append("background")

    asyncio.run(drive(TenantMiddleware(lingers, resolver=from_header, recorder=Notes(), meter="api"), {"type": "http"}))
    assert order == ["half", "200", "background"]


def test_the_recorder_refuses_in_the_open_and_only_once(tmp_path: Path) -> None:
    asked: list[str] = []

    class Full:
        def record(self, meter: str, /, *, tenant: str, route: str | None, status: str | None) -> None:
            asked.append(tenant)
            raise OSError("the disk is full")

    app = TenantMiddleware(answer, resolver=from_header, recorder=Full(), meter="api")
    with pytest.raises(OSError, match="disk is full"):
        asyncio.run(drive(app, {"type": "http"}))
    assert asked == ["acme"]


def test_a_route_that_cannot_be_read_costs_the_route_not_the_event(tmp_path: Path) -> None:
    def broken(scope: Any) -> str:
        raise LookupError("no route here")

    with recorder(tmp_path) as usage:
        app = TenantMiddleware(answer, resolver=from_header, recorder=usage, meter="api", route=broken)
        with pytest.raises(LookupError, match="no route"):
            asyncio.run(drive(app, {"type": "http"}))
    assert counted(tmp_path) == {("api", "acme", None, "200"): 1}


def test_a_resolver_that_raises_or_names_badly_lets_nothing_run(tmp_path: Path) -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("the application ran")

    def refuses(scope: Any) -> str:
        raise PermissionError("no session")

    with recorder(tmp_path) as usage:
        for resolver, error in ((refuses, PermissionError), (lambda scope: "a\nb", BadEvent)):
            app = TenantMiddleware(never, resolver=resolver, recorder=usage, meter="api")
            with pytest.raises(error):
                asyncio.run(drive(app, {"type": "http"}))
            assert app.requests_without_tenant == 1
    assert not counted(tmp_path)


def test_a_meter_without_a_recorder_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="give both"):
        TenantMiddleware(answer, resolver=from_header, meter="api")
    with pytest.raises(BadEvent, match="meter"):
        TenantMiddleware(answer, resolver=from_header, meter=" ", recorder=recorder(Path("nowhere")))


def test_lifespan_passes_untouched_and_other_scopes_have_a_tenant() -> None:
    seen: list[tuple[str, str | None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], current_tenant()))

    async def main() -> None:
        with tenant("host"):
            for kind in ("lifespan", "http", "websocket", "job"):
                await drive(TenantMiddleware(app, resolver=from_header), {"type": kind})
            seen.append(("after", current_tenant()))

    asyncio.run(main())
    assert seen == [("lifespan", "host"), ("http", "acme"), ("websocket", "acme"), ("job", "acme"), ("after", "host")]


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.receive_text()
            await websocket.send_text(f"{current_tenant()}")
    except WebSocketDisconnect:
        pass


async def shut(websocket: WebSocket) -> None:
    await websocket.close()


async def deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("pay first", status_code=402))


async def break_down(websocket: WebSocket) -> None:
    await websocket.accept()
    raise LookupError("on purpose")


@pytest.mark.parametrize(
    ("path", "events", "status"),
    [("/echo", 3, "101"), ("/shut", 0, "403"), ("/deny", 0, "402"), ("/break_down", 0, "101"), ("/nowhere", 0, "403")],
)
def test_a_websocket_counts_once_and_has_its_tenant_for_all_messages(
    tmp_path: Path, path: str, events: int, status: str
) -> None:
    usage = recorder(tmp_path)
    routes = [WebSocketRoute(f"/{view.__name__}", view) for view in (echo, shut, deny, break_down)]
    wanted = Middleware(TenantMiddleware, resolver=from_header, recorder=usage, meter="sockets")
    app = Starlette(routes=routes, middleware=[wanted])
    inbox = [{"type": "websocket.connect"}, *[{"type": "websocket.receive", "text": "whose?"}] * events]
    inbox.append({"type": "websocket.disconnect", "code": 1006})
    sent: list[Any] = []

    async def main() -> None:
        async def receive() -> Any:
            return inbox.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": path, "headers": [(b"x-tenant", b"acme")], "query_string": b""}
        scope["extensions"] = {"websocket.http.response": {}}  # type: ignore[assignment]
        await app(scope, receive, send)

    with usage:
        if path == "/break_down":
            with pytest.raises(LookupError):
                asyncio.run(main())
        else:
            asyncio.run(main())
    assert [message["text"] for message in sent if message["type"] == "websocket.send"] == ["acme"] * events
    route = None if path == "/nowhere" else path
    assert counted(tmp_path) == {("sockets", "acme", route, status): 1}


def test_baggage_and_headers_choose_nobody() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_tenant() is None
        await answer(scope, receive, send)

    headers = [(b"baggage", b"tenant.id=acme,tenant=acme"), (b"x-tenant", b"acme"), (b"tenant", b"acme")]
    asyncio.run(drive(TenantMiddleware(app, resolver=lambda scope: None), {"type": "http", "headers": headers}))


def test_a_socket_that_is_closed_before_it_asks_disturbs_nobody(tmp_path: Path) -> None:
    usage = recorder(tmp_path)
    app = TenantMiddleware(answer, resolver=from_header, recorder=usage, meter="api")
    with usage, serving(app, lifespan="off") as port:
        socket.create_connection(("127.0.0.1", port)).close()
        assert get(port, "/") == 200
    assert counted(tmp_path) == {("api", "acme", None, "200"): 1}
