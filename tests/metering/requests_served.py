"""What the tests of the middlewares share: a real journal read back, a real ASGI server, and raw requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import uvicorn

from metering.decode import decode_segment
from metering.recorder import Recorder
from metering.segments import producer_folders, read_segment

Counted = Counter[tuple[str, str, str | None, str | None]]


def recorder(root: Path | str) -> Recorder:
    return Recorder(root, ship="none", seal_interval_s=3600.0)


def rows(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the usage events in the journal of recorders that are closed or dead."""
    for folder in producer_folders(root / "journal"):
        with folder:
            folder.recover(time.time_ns() // 1000)
        for path in folder.sealed():
            yield from decode_segment(read_segment(path), None).events.to_pylist()


def counted(root: Path) -> Counted:
    """Return how often each (meter, tenant, route, status) stands in the journal."""
    found: Counted = Counter()
    for row in rows(root):
        attributes = json.loads(row["attributes"] or "{}")
        assert row["quantity"] == 1
        found[row["meter"], row["tenant_id"], attributes.get("route"), attributes.get("status")] += 1
    return found


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Run uvicorn with `app` on a free port of loopback, in a thread of its own; yield the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()


def until(is_true: Any, patience_s: float = 20.0) -> None:
    """Return as soon as `is_true()` says so; fail when it does not in time."""
    deadline = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def send_raw(port: int, *parts: bytes, read_to_end: bool = True) -> bytes:
    """Send bytes over one connection and return what comes back until the server closes; or hang up at the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        answer = connection.recv(65536)
        while read_to_end:
            more = connection.recv(65536)
            if not more:
                break
            answer += more
    return answer


def ask(port: int, path: str, name: str | None, method: str = "GET") -> tuple[int, bytes]:
    """Return status and body of one request of the tenant `name`, or of nobody."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={} if name is None else {"x-tenant": name})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def ask_in_turn(port: int, requests: Iterator[tuple[str, str, bytes]]) -> Counter[int]:
    """Send requests (path, tenant, body) over one connection that stays open; return how often each status came back."""
    statuses: Counter[int] = Counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for path, name, body in requests:
        head = f"POST {path} HTTP/1.1\r\nhost: here\r\nx-tenant: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        statuses[int(answer.split(b" ")[1])] += 1
        if b"chunked" in answer:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.close()
    await writer.wait_closed()
    return statuses
