"""The process that ends. `python benchmarks/loss_child.py CLIENT ADDRESS NOTES ENDING COUNT [SECONDS]`, for every client alike.

Enters: the name of a client, where its receiver listens (for Tallybook: the workspace), a file for notes, an ending.
Leaves: events at the receiver, each with its own number, and one byte per number in the notes, which survive any end:
1 when the call returned, 2 when it said no (False, None or an exception). Needs nothing but the one client's library,
so that it runs under any interpreter that has it. Every client has its default settings.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RETURNED, REFUSED = 1, 2
Send = Callable[[int], bool]


def mark(number: int) -> str:
    """Return what the receiver looks for in the bytes that reach it."""
    return f"tb:{number}:"


def _tallybook(root: str) -> Send:
    from metering.errors import JournalFull
    from metering.recorder import Recorder

    # Where the engines are not installed (a peer's environment) something else ships, as a side-car does.
    usage = Recorder(root, ship="none" if os.environ.get("LOSS_SIDE_CAR") else "child")

    def send(number: int) -> bool:
        try:
            usage.record("tokens", tenant="acme", key=mark(number))
        except JournalFull:
            return False
        return True

    return send


def _segment(address: str) -> Send:
    from segment.analytics import Client

    client = Client("key", host=f"http://{address}")
    return lambda number: bool(client.track("acme", "tokens", {"number": mark(number)})[0])


def _posthog(address: str) -> Send:
    from posthog import Posthog

    client = Posthog("phc_key", host=f"http://{address}")
    return lambda number: client.capture("tokens", distinct_id="acme", properties={"number": mark(number)}) is not None


def _sentry(address: str) -> Send:
    import sentry_sdk

    sentry_sdk.init(dsn=f"http://key@{address}/1")

    def send(number: int) -> bool:
        sentry_sdk.metrics.count("tokens", 1, attributes={"number": mark(number)})
        return True

    return send


def _opentelemetry(address: str) -> Send:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"http://{address}/v1/traces")))
    tracer = provider.get_tracer("usage")

    def send(number: int) -> bool:
        with tracer.start_as_current_span("tokens", attributes={"number": mark(number)}):
            return True

    return send


def _datadog(address: str) -> Send:
    from datadog.dogstatsd import DogStatsd

    host, port = address.split(":")
    client = DogStatsd(host=host, port=int(port))

    def send(number: int) -> bool:
        client.increment("tokens", tags=[f"number:{mark(number)}"])
        return True

    return send


CLIENTS: dict[str, Callable[[str], Send]] = {
    "tallybook": _tallybook,
    "segment": _segment,
    "posthog": _posthog,
    "sentry": _sentry,
    "opentelemetry": _opentelemetry,
    "datadog": _datadog,
}


def noting(client: str, address: str, notes: str) -> Send:
    """Return a call that sends one event and notes what came of it."""
    with Path(notes).open("r+b") as file:
        noted = mmap.mmap(file.fileno(), 0)
    send = CLIENTS[client](address)

    def send_and_note(number: int) -> bool:
        is_taken = send(number)
        noted[number] = RETURNED if is_taken else REFUSED
        return is_taken

    return send_and_note


def _send_all(send: Send, numbers: Iterable[int]) -> None:
    for number in numbers:
        send(number)


def _fork(send: Send, count: int) -> None:
    """The client is made, and used once, before the fork; the child sends the rest and ends like any program."""
    send(0)
    child = os.fork()
    _send_all(send, range(1, count) if child == 0 else ())
    if child:
        os.waitpid(child, 0)


def _multiprocessing(send: Send, count: int) -> None:
    send(0)
    child = multiprocessing.get_context("fork").Process(target=_send_all, args=(send, range(1, count)))
    child.start()
    child.join()


def _paced(send: Send, count: int, seconds: float) -> None:
    """Send evenly over a time, however long single calls take."""
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + seconds * number / count - time.monotonic()))
        send(number)


def main() -> None:
    client, address, notes, ending, count, *seconds = sys.argv[1:]
    send, numbers = noting(client, address, notes), range(int(count))
    if ending == "fork":
        _fork(send, int(count))
    elif ending == "multiprocessing":
        _multiprocessing(send, int(count))
    elif ending == "paced":
        _paced(send, int(count), float(seconds[0]))
    else:
        _send_all(send, numbers)
    if ending == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    if ending == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "os._exit":
        os._exit(0)


def _application() -> Callable[[dict[str, Any], Callable[..., object]], list[bytes]]:
    """Return the WSGI application of the gunicorn ending: made once, before the workers are forked."""
    send = noting(os.environ["LOSS_CLIENT"], os.environ["LOSS_ADDRESS"], os.environ["LOSS_NOTES"])
    send(0)

    def serve(environment: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        first, _, end = environment["QUERY_STRING"].partition("-")
        _send_all(send, range(int(first), int(end)))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]

    return serve


if __name__ == "__main__":
    main()
elif "LOSS_CLIENT" in os.environ:
    application = _application()
