"""The WSGI middleware behind real servers: tenants never mix, bodies keep theirs, and each request counts once."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from metering.context import current_tenant, required_tenant, tenant
from metering.errors import BadEvent
from metering.integrations.wsgi import TenantMiddleware
from tests.metering.requests_served import ask, counted, recorder, send_raw, until

TENANTS = [f"tenant-{number:02}" for number in range(20)]


def from_header(environ: Any) -> str | None:
    """Believe the client: only where there is nothing to steal."""
    assert current_tenant() is None, "the resolver sees what an earlier request left behind"
    return environ.get("HTTP_X_TENANT")


def path_of(environ: Any) -> str:
    return str(environ["PATH_INFO"])


def seen_by(environ: Any, start_response: Any) -> Iterable[bytes]:
    """Answer with the tenants that were seen: when called, and at each step of the body."""
    called = current_tenant()
    # Set and never reset, as applications do.
    tenant(called).__enter__()
    start_response("200 OK", [("content-type", "application/json")])

    def body() -> Iterator[bytes]:
        yield json.dumps([called, current_tenant()]).encode()
        with tenant("inner"):
            yield b"\n"
            assert current_tenant() == "inner"
        yield json.dumps([current_tenant()]).encode()

    return [json.dumps([called, called]).encode(), b"\n", b"[]"] if environ["PATH_INFO"] == "/list" else body()


APP_FOR_GUNICORN = """
import sys
from metering.integrations.wsgi import TenantMiddleware
from metering.recorder import Recorder
from tests.metering.test_integrations_wsgi import from_header, path_of, seen_by

usage = Recorder({root!r}, ship="none")
app = TenantMiddleware(seen_by, resolver=from_header, recorder=usage, meter="api", route=path_of)
"""


def accepts(port: int) -> bool:
    try:
        return ask(port, "/nobody", None)[0] == 200
    except (OSError, HTTPException):
        return False


@pytest.mark.parametrize(
    "worker",
    [
        ["-k", "sync", "-w", "2"],
        ["-k", "gthread", "--threads", "8"],
        ["-k", "gevent", "-w", "2"],
        ["--preload", "-w", "2"],
    ],
    ids=["sync", "gthread", "gevent", "preload"],
)
def test_gunicorn_never_mixes_tenants_and_counts_each_request_once(tmp_path: Path, worker: list[str]) -> None:
    (tmp_path / "served.py").write_text(APP_FOR_GUNICORN.format(root=str(tmp_path / "data")), encoding="utf-8")
    root = Path(__file__).parents[2]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "served:app",
        "-b",
        f"127.0.0.1:{port}",
        "--log-level",
        "error",
        *worker,
    ]
    paths = os.pathsep.join([str(tmp_path), str(root)])
    server = subprocess.Popen(
        [*command, "--no-control-socket"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE
    )
    try:
        until(lambda: accepts(port) or server.poll() is not None)
        with ThreadPoolExecutor(16) as clients:
            asked = [(name, path) for name in TENANTS for path in ("/list", "/stream") for _ in range(10)]
            answers = list(clients.map(lambda one: ask(port, one[1], one[0]), asked))
    finally:
        server.send_signal(signal.SIGTERM)
        _, complaints = server.communicate(timeout=30)
    assert b"Traceback" not in complaints, complaints.decode()
    for (name, path), (status, body) in zip(asked, answers, strict=True):
        first, last = body.decode().split("\n")
        assert (status, json.loads(first), json.loads(last)) == (200, [name, name], [] if path == "/list" else [name])
    assert counted(tmp_path / "data") == {
        ("api", name, path, "200"): 10 for name in TENANTS for path in ("/list", "/stream")
    }


class Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def run_once(app: Any, *, keeps_open: bool = True) -> bytes:
    """Serve one request with wsgiref, in a thread; return the raw answer, or its beginning when the client hangs up."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        request = b"GET /here HTTP/1.0\r\nx-tenant: acme\r\n\r\n"
        answer = send_raw(server.server_port, request, read_to_end=keeps_open)
        thread.join(30)
    return answer


def ok(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [required_tenant().encode()]


def fails(environ: Any, start_response: Any) -> list[bytes]:
    raise LookupError("on purpose")


def fails_late(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("202 Accepted", [("content-type", "text/plain")])
    yield b"x"
    raise LookupError("on purpose")


def recovers(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    try:
        raise LookupError("on purpose")
    except LookupError:
        start_response("503 Sorry", [("content-type", "text/plain")], sys.exc_info())
    return [b"sorry"]


def writes(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])(b"written")
    return []


def endless(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    while True:
        assert required_tenant() == "acme"
        yield b"x" * 65536


def a_file(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"a file"))


def lazy(environ: Any, start_response: Any) -> Iterator[bytes]:
    # A generator function is an application, too: even its status comes with the first step.
    start_response("201 Created", [("content-type", "text/plain")])
    yield required_tenant().encode()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("app", "status"),
    [(ok, "200"), (fails, "500"), (fails_late, "202"), (recovers, "503"), (writes, "200"), (endless, "200"),
     (a_file, "200"), (lazy, "201")],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_request_counts_once_however_it_ends(
    tmp_path: Path, app: Any, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorder(tmp_path) as usage:
        metered = TenantMiddleware(app, resolver=from_header, recorder=usage, meter="api", route=path_of)
        answer = run_once(metered, keeps_open=app is not endless)
    assert counted(tmp_path) == {("api", "acme", "/here", status): 1}
    # What the server sent is what was counted.
    assert answer.split(b" ")[1].decode() == status
    assert ("on purpose" in capsys.readouterr().err) == (app in {fails, fails_late})


def test_the_middleware_keeps_to_the_rules_of_wsgi(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        for app, body in ((ok, b"acme"), (lazy, b"acme")):
            metered = TenantMiddleware(validator(app), resolver=from_header, recorder=usage, meter="api")
            assert run_once(validator(metered)).endswith(body)
    assert counted(tmp_path) == {("api", "acme", None, "200"): 1, ("api", "acme", None, "201"): 1}


ENVIRON: dict[str, Any] = {"HTTP_X_TENANT": "acme", "wsgi.file_wrapper": FileWrapper}


def start_nothing(*_arguments: object) -> Any:
    """Take a status as a server does."""


def test_whole_bodies_stay_what_they_are_so_that_servers_see_length_and_file() -> None:
    middleware = TenantMiddleware(ok, resolver=from_header)
    assert middleware(ENVIRON, start_nothing) == [b"acme"]
    assert isinstance(TenantMiddleware(a_file, resolver=from_header)(ENVIRON, start_nothing), FileWrapper)


def test_a_body_may_be_driven_by_several_threads_one_after_the_other() -> None:
    seen: list[str | None] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(4):
            seen.append(current_tenant())
            yield b"x"

    body = iter(TenantMiddleware(app, resolver=from_header)(ENVIRON, start_nothing))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for pool in (one, other, one, other):
            assert pool.submit(next, body).result() == b"x"
            assert pool.submit(current_tenant).result() is None
    assert seen == ["acme"] * 4


def test_close_reaches_the_application_under_its_tenant_and_counts(tmp_path: Path) -> None:
    closed: list[str | None] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            closed.append(current_tenant())

    with recorder(tmp_path) as usage:
        app = TenantMiddleware(lambda environ, start: Body(), resolver=from_header, recorder=usage, meter="api")
        body: Any = app(ENVIRON, start_nothing)
        body.close()
        body.close()
        # Exhausted and then closed is still one; that nobody said a status does not make it a failure.
        body = app(ENVIRON, start_nothing)
        assert list(body) == [b"x"]
        body.close()
    assert closed == ["acme"] * 3
    assert counted(tmp_path) == {("api", "acme", None, None): 2}


def test_an_event_that_is_refused_is_an_error_before_the_answer_and_closes_the_file(tmp_path: Path) -> None:
    held = io.BytesIO(b"a file")

    class Full:
        def record(self, meter: str, /, *, tenant: str, route: str | None, status: str | None) -> None:
            raise OSError("the disk is full")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        return FileWrapper(held)

    with pytest.raises(OSError, match="disk is full"):
        TenantMiddleware(app, resolver=from_header, recorder=Full(), meter="api")(ENVIRON, start_nothing)
    assert held.closed


def test_a_request_of_nobody_runs_without_a_tenant_and_is_counted_apart(tmp_path: Path) -> None:
    statuses: Counter[str] = Counter()
    with recorder(tmp_path) as usage, tenant("host"):
        app = TenantMiddleware(ok, resolver=lambda environ: None, recorder=usage, meter="api")
        with pytest.raises(BadEvent, match="no tenant is set"):
            app({}, lambda status, *rest: statuses.update([status]))
        assert current_tenant() == "host"
    assert (app.requests_without_tenant, counted(tmp_path)) == (1, Counter())
