"""Is what runs by itself well: one JSON document for people and monitors, served over HTTP where somebody asks for it.

Enters: a workspace, and a scheduler that runs. Leaves: `Wellness`: how each step stands, the age of the oldest usage event that
is not shipped, the next deadline of a delivery, and whether all is in order. HTTP 200 when it is, 503 when it is not.
Refuses: to serve anything but GET and HEAD of /health; to name tenants or accounts; to listen beyond the loopback address
unasked.

Not in order: a step is late by more than its patience, an event waits for the lake for longer than `UNSHIPPED_MAX`, a deadline is
nearer than `DEADLINE_NEAR`, the books cannot be read, or the scheduler is stopping. Times are of this host's clock.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import func, select

from billing_adapters.books import deliveries
from billing_adapters.outbox import END_OF_TIME, OPEN_STATES
from metering.clock import from_us, iso_utc
from metering.health import oldest_unshipped_ns
from tallybook.books import reading
from tallybook.errors import BadSettings
from tallybook.runner import Runner, Standing
from tallybook.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tallybook.scheduling import Scheduler

UNSHIPPED_MAX = timedelta(minutes=15)
DEADLINE_NEAR = timedelta(hours=2)
SILENCE_S = 30
# How late a step may be before somebody should look: it waits for others, and for its turn.
PATIENCE = {"pass": timedelta(minutes=30), "hour": timedelta(hours=2), "month": timedelta(hours=12)}


@dataclass(frozen=True, slots=True)
class Wellness:
    """How all stands at an instant. `troubles`: sentences; none when all is in order."""

    at: datetime
    standings: tuple[Standing, ...]
    oldest_unshipped: timedelta
    waiting: int
    next_deadline: datetime | None
    troubles: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        return not self.troubles

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; spans of time in seconds."""
        return {
            "status": "ok" if self.is_well else "failing",
            "at": iso_utc(self.at),
            "troubles": list(self.troubles),
            "oldest_unshipped_s": self.oldest_unshipped.total_seconds(),
            "deliveries_waiting": self.waiting,
            "next_deadline": None if self.next_deadline is None else iso_utc(self.next_deadline),
            "steps": [_step_json(one, self.at) for one in self.standings],
        }


def look(runner: Runner) -> Wellness:
    """Return how all stands. Reads the books and the heads of journal segments; changes nothing but markers never begun."""
    workspace, now = runner.workspace, runner.workspace.now
    standings = tuple(runner.standings())
    oldest_ns = oldest_unshipped_ns(workspace.layout)
    unshipped = timedelta(0) if oldest_ns is None else max(now - from_us(oldest_ns // 1000), timedelta(0))
    is_open = deliveries.c.state.in_(OPEN_STATES)
    with reading(workspace.books) as connection:
        waiting, soonest = connection.execute(
            select(func.count(), func.min(deliveries.c.deadline)).where(is_open)
        ).one()
    deadline = None if soonest is None or soonest == END_OF_TIME else soonest
    troubles = [f"{_name(one)} is late by {one.lag(now)}: {_why(one)}" for one in standings if is_late(one, now)]
    if unshipped > UNSHIPPED_MAX:
        troubles.append(f"a usage event waits for the lake for {unshipped}")
    if deadline is not None and deadline - now < DEADLINE_NEAR:
        troubles.append(f"what waits to be delivered is refused from {iso_utc(deadline)} on")
    return Wellness(now, standings, unshipped, waiting, deadline, tuple(troubles))


def is_late(standing: Standing, now: datetime) -> bool:
    """Return whether a step has been due for longer than it may be."""
    return standing.lag(now) > PATIENCE[standing.step.grain]


@contextmanager
def serve_health(root: Path, scheduler: Scheduler, host: str, port: int | None) -> Iterator[str | None]:
    """Serve /health while the block lasts; give its address. Nothing without a port."""
    if port is None:
        yield None
        return
    with Workspace(root) as workspace:
        runner = Runner(workspace, only=scheduler.only, holder=scheduler.holder)
        try:
            server = ThreadingHTTPServer((host, port), _handler(runner, scheduler))
        except OSError as error:
            what = f"cannot serve /health on {host}:{port}: {error.strerror or error}"
            raise BadSettings(f"{what}; say another --health-port or --health-host") from None
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="tallybook-health", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(runner: Runner, scheduler: Scheduler) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # Whoever connects and says nothing is not waited for.
        timeout = SILENCE_S

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/health":
                self.send_error(404, "there is /health")
                return
            body = _answer(runner, scheduler)
            text = orjson.dumps(body, option=orjson.OPT_INDENT_2)
            self.send_response(200 if body["status"] == "ok" else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_HEAD = do_GET  # noqa: N815 (the name is http.server's)

        def log_message(self, *_: Any) -> None:
            """Say nothing: monitors ask all the time."""

    return Handler


def _answer(runner: Runner, scheduler: Scheduler) -> dict[str, Any]:
    try:
        body = look(runner).to_json()
    except Exception as error:  # noqa: BLE001 - that it cannot be told is the answer
        said = runner.workspace.settings.without_secrets(f"{type(error).__name__}: {error}")
        body = {"status": "failing", "troubles": [said], "steps": []}
    if scheduler.last_error is not None:
        body["troubles"].append(scheduler.last_error)
    if scheduler.stopping.is_set():
        body["troubles"].append("the scheduler is stopping")
    if body["troubles"]:
        body["status"] = "failing"
    return body


def _step_json(one: Standing, now: datetime) -> dict[str, Any]:
    began = one.marker.began_at
    return {
        "step": one.step.name,
        "place": one.marker.place,
        "last_run": None if began is None else iso_utc(began),
        "done_until": None if one.step.grain == "pass" else iso_utc(one.marker.done_until),
        "next_period": None if one.coming is None else one.coming.period,
        "lag_s": one.lag(now).total_seconds(),
        "waits_for": one.obstacle,
        "failures": one.marker.failures,
        "error": one.marker.error,
    }


def _name(one: Standing) -> str:
    return f"{one.step.name} {one.marker.place}".strip()


def _why(one: Standing) -> str:
    return one.marker.error or one.obstacle or "nobody does it"
