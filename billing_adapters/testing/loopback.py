"""A fake behind a real socket: served on a free port of the loopback address for as long as a block lasts.

Enters: the handler class of a fake. Leaves: its address. Refuses: any other interface.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that keeps connections open and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing: what was asked is in the `calls` of the fake."""


@contextmanager
def serve_handler(handler: type[QuietHandler]) -> Iterator[str]:
    """Serve a handler, each request in a thread of its own; give its address."""
    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serve_handler_over_tls(handler: type[QuietHandler], certificate: Path) -> Iterator[str]:
    """Serve a handler over TLS, as `localhost`; the file holds a certificate for that name and its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = _Unwrapping(("127.0.0.1", 0), handler)
    server.tls = context
    with _serving(server) as port:
        yield f"https://localhost:{port}"


class _Unwrapping(ThreadingHTTPServer):
    """A server that shakes hands in the thread of the request, where a client that does not believe it does no harm."""

    tls: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            wrapped = self.tls.wrap_socket(request, server_side=True)
        except OSError:
            return
        with wrapped:
            super().finish_request(wrapped, client_address)


@contextmanager
def _serving(server: ThreadingHTTPServer) -> Iterator[int]:
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)  # seconds
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
