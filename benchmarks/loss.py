"""What is lost when a process ends, by Tallybook and by the clients that applications send usage through today.

Enters: nothing; the peers are measured if the interpreter of `--peers` can import them (`pip install -r
benchmarks/peers.txt`, into an environment of their own). Leaves: per ending and client, how many events never arrived
although the call that took them had returned. Every client runs the same program with its default settings, against a
receiver on loopback that always answers 200. Tallybook's receiver is its lake: the events in it after `ship()`.
Refuses: to guess. What cannot be measured on this machine is left out, and the table says so.

    python -m benchmarks.loss [--quick] [--write] [--peers PYTHON]
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.__main__ import write_results
from benchmarks.figures import Figure
from benchmarks.loss_child import REFUSED, RETURNED
from metering.keeper import is_led
from metering.lake import Lake
from metering.layout import Layout
from metering.ship import ship

CHILD = Path(__file__).with_name("loss_child.py")
REPOSITORY = CHILD.parents[1]
PAGE_OF_LOSSES = REPOSITORY / "docs" / "losses.md"
TABLE_BEGINS, TABLE_ENDS = "<!-- table -->", "<!-- end of table -->"
US = "tallybook"
# client: (what the table calls it, its distribution, what it must be able to import)
PEERS = {
    "segment": ("Segment track", "segment-analytics-python", "segment.analytics"),
    "posthog": ("PostHog capture", "posthog", "posthog"),
    "sentry": ("Sentry metrics.count", "sentry-sdk", "sentry_sdk"),
    "opentelemetry": (
        "OpenTelemetry spans",
        "opentelemetry-sdk",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    ),
    "datadog": ("Datadog statsd, UDP", "datadog", "datadog.dogstatsd"),
}
# A client may take this long for what it does at the end; what arrived later does not count.
PATIENCE_S = 30.0
QUIET_S = 0.5
NO_DISK, NOT_INSTALLED, NOT_MEASURED = "keeps nothing on a disk", "not installed", "not measured here"
_MARK = re.compile(rb"tb:(\d+):")


@dataclass(frozen=True, slots=True)
class Ending:
    """One row: its words, the child's word for it, how many events, and how the surroundings fail meanwhile."""

    name: str
    child: str
    count: int
    fault: str | None = None


ENDINGS = (
    Ending("normal exit, 500 events", "exit", 500),
    Ending("normal exit after a burst of 20,000", "exit", 20_000),
    Ending("SIGTERM without a handler", "SIGTERM", 500),
    Ending("SIGKILL", "SIGKILL", 500),
    Ending("os._exit", "os._exit", 500),
    Ending("child of os.fork, normal exit", "fork", 500),
    Ending("child of multiprocessing (fork)", "multiprocessing", 500),
    Ending("gunicorn --preload, a worker SIGKILLed", "gunicorn", 500),
    Ending("slow disk (200 ms per fsync), SIGKILL", "SIGKILL", 5_000, "slow disk"),
    Ending("full disk (2 MiB), SIGKILL", "SIGKILL", 40_000, "full disk"),
    Ending("receiver or lake away for 10 minutes, normal exit", "paced", 3_000, "away"),
)


@dataclass(frozen=True, slots=True)
class Loss:
    """What became of the events of one run: calls that returned, calls that said no, lost of the former, arrived twice."""

    returned: int
    refused: int
    lost: int
    doubled: int
    invented: int

    @property
    def share(self) -> float:
        return 100 * self.lost / self.returned if self.returned else 0.0


Results = dict[str, dict[str, list[Loss] | str]]


class _Http:
    """A receiver of HTTP that keeps every body, and answers 200 unless it is told to be away (503)."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.is_away = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if not receiver.is_away:
                    receiver.bodies.append(_unpacked(body, self.headers.get("Content-Encoding")))
                self.send_response(503 if receiver.is_away else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST  # noqa: N815 - the library's name

            def log_message(self, *_arguments: object) -> None:
                """Say nothing: the table is the only output."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_arguments: object) -> None:
                """Say nothing: a client that is killed resets its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Udp:
    """A receiver of datagrams that reads as fast as it can, unless it is told to be away."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.is_away = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._is_open = True
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while self._is_open:
            datagram = self._socket.recv(65536)
            if not self.is_away:
                self.bodies.append(datagram)

    def close(self) -> None:
        self._is_open = False
        # A last datagram wakes the reader.
        self._socket.sendto(b"", self._socket.getsockname())


def _unpacked(body: bytes, encoding: str | None) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if encoding == "deflate" else body


# The interpreter that has the peers, where it is not this one.
PEERS_PYTHON = os.environ.get("PEERS_PYTHON", sys.executable)


def run(quick: bool) -> list[Figure]:
    """Return the share of events lost, per ending and client. `quick` runs once and keeps the receiver away for 3 s.

    Not quick, it takes a quarter of an hour: ten minutes of it are the outage, through which nothing but waiting is done.
    """
    return as_figures(measure(quick, PEERS_PYTHON))


def measure(quick: bool, peers: str) -> Results:
    """Run every ending with every client; return the losses of each repeat, or why there are none."""
    installed = {client: version_of(peers, client) for client in PEERS}
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, ending in enumerate(ENDINGS):
            print(f"  {ending.name} ...", file=sys.stderr, flush=True)
            clients = {client: sys.executable if client == US else peers for client in (US, *PEERS)}
            row = results[ending.name] = {}
            repeats = 1 if quick or ending.fault is not None else 3
            for repeat in range(repeats):
                below = Path(folder, f"{place}-{repeat}")
                for client, found in _run_all(below, ending, clients, installed, quick).items():
                    earlier = row.get(client)
                    row[client] = [*earlier, found] if isinstance(earlier, list) and isinstance(found, Loss) else (
                        [found] if isinstance(found, Loss) else found
                    )  # fmt: skip
        _wait_for_shippers(Path(folder))
    return results


def _run_all(
    folder: Path, ending: Ending, clients: Mapping[str, str], installed: Mapping[str, str | None], quick: bool
) -> dict[str, Loss | str]:
    def one(client: str) -> Loss | str:
        if client != US and installed[client] is None:
            return NOT_INSTALLED
        if client != US and ending.fault in {"slow disk", "full disk"}:
            return NO_DISK
        here = folder / client
        here.mkdir(parents=True)
        return run_us(here, ending, clients, quick) if client == US else _run_peer(here, client, ending, clients, quick)

    # One after the other, but for the outage, which is mostly waiting.
    with ThreadPoolExecutor(len(clients) if ending.fault == "away" else 1) as pool:
        return dict(zip(clients, pool.map(one, clients), strict=True))


def _run_peer(folder: Path, client: str, ending: Ending, clients: Mapping[str, str], quick: bool) -> Loss | str:
    receiver = _Udp() if client == "datadog" else _Http()
    try:
        with _away(receiver, ending, quick):
            if not _run_child(folder, client, receiver.address, ending, clients[client], quick):
                return NOT_MEASURED
        _wait_until_quiet(receiver)
    finally:
        receiver.close()
    arrived = Counter(int(number) for body in receiver.bodies for number in _MARK.findall(body))
    return _compare(folder, arrived)


def run_us(folder: Path, ending: Ending, clients: Mapping[str, str], quick: bool) -> Loss | str:
    root = folder / "workspace"
    layout = Layout.of(root)
    with contextlib.ExitStack() as stack:
        if ending.fault == "full disk" and not stack.enter_context(_small_disk(layout.journal, 2 << 20)):
            return NOT_MEASURED
        if ending.fault == "slow disk" and shutil.which("strace") is None:
            return NOT_MEASURED
        with _lake_away(layout, ending, quick):
            python = clients["segment"] if ending.child == "gunicorn" else sys.executable
            if not _run_child(folder, US, str(root), ending, python, quick):
                return NOT_MEASURED
        ship(layout, Lake(layout.lake))
    lake = Lake(layout.lake)
    arrived: Counter[int] = Counter()
    for file in lake.data_files():
        keys = pq.ParquetFile(file.path).read(columns=["idempotency_key"])["idempotency_key"].to_pylist()
        arrived.update(int(key[3:-1]) for key in keys)
    return _compare(folder, arrived)


def _run_child(folder: Path, client: str, address: str, ending: Ending, python: str, quick: bool) -> bool:
    """Run the process to its end. Return whether it could be run at all."""
    notes = folder / "notes"
    notes.write_bytes(bytes(ending.count))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    if ending.child == "gunicorn":
        return _run_gunicorn(folder, client, address, ending, python, environment)
    if ending.fault is not None and client == US and ending.fault != "away":
        environment["LOSS_SIDE_CAR"] = "1"
    slowly = ["strace", "-f", "-qq", "-o", os.devnull, "--seccomp-bpf", "-e", "trace=fsync,fdatasync"]
    slowly += ["-e", "inject=fsync,fdatasync:delay_enter=200000"]
    command = [python, str(CHILD), client, address, str(notes), ending.child, str(ending.count)]
    paced_s = _paced_s(quick) if ending.child == "paced" else 0.0
    command += [str(paced_s)] if paced_s else []
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*(slowly if ending.fault == "slow disk" else []), *command],
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        with process:
            try:
                process.wait(PATIENCE_S + paced_s)
            except subprocess.TimeoutExpired:
                process.kill()
    return RETURNED in notes.read_bytes() or REFUSED in notes.read_bytes()


def _run_gunicorn(
    folder: Path, client: str, address: str, ending: Ending, python: str, environment: dict[str, str]
) -> bool:
    """Serve requests from two preloaded workers, kill the one that served last, then end the server politely."""
    if version_of(python, "gunicorn") is None:
        return False
    environment |= {"LOSS_CLIENT": client, "LOSS_ADDRESS": address, "LOSS_NOTES": str(folder / "notes")}
    environment["LOSS_SIDE_CAR"] = "1"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-m", "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}"]
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(
            [*command, "benchmarks.loss_child:application"],
            env=environment, cwd=REPOSITORY, stdout=output, stderr=output,
        )  # fmt: skip
        # Ended whatever happens: leaving `with` waits for it, and a server that nobody told would never end.
        with server:
            try:
                worker = 0
                for first in range(1, ending.count, 50):
                    worker = _ask(f"http://127.0.0.1:{port}/?{first}-{min(first + 50, ending.count)}")
                os.kill(worker, signal.SIGKILL)
            finally:
                server.terminate()
                try:
                    server.wait(PATIENCE_S + 10)
                except subprocess.TimeoutExpired:
                    server.kill()
    return True


def _ask(url: str) -> int:
    # A crowded machine takes a while to load what is preloaded.
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                return int(answer.read())
        except ConnectionError:
            raise
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)


def _outage_s(quick: bool) -> float:
    return 3.0 if quick else 600.0


def _paced_s(quick: bool) -> float:
    """Return how long events are sent: through the outage, and a tenth of it longer."""
    return _outage_s(quick) * 1.1


@contextlib.contextmanager
def _away(receiver: _Http | _Udp, ending: Ending, quick: bool) -> Iterator[None]:
    """Keep the receiver away for the first ten elevenths of the run."""
    receiver.is_away = ending.fault == "away"

    def come_back() -> None:
        receiver.is_away = False

    timer = threading.Timer(_outage_s(quick), come_back)
    if receiver.is_away:
        timer.start()
    yield
    timer.cancel()
    receiver.is_away = False


@contextlib.contextmanager
def _lake_away(layout: Layout, ending: Ending, quick: bool) -> Iterator[None]:
    """Put a file in the place of the lake's folder, so that no shipper can reach it (root ignores permissions)."""
    if ending.fault != "away":
        yield
        return
    layout.root.mkdir(parents=True)
    layout.lake.touch()
    timer = threading.Timer(_outage_s(quick), layout.lake.unlink)
    timer.start()
    yield
    timer.join()


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a small disk for the journal; yield whether that could be done."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _wait_until_quiet(receiver: _Http | _Udp) -> None:
    until_s = time.monotonic() + PATIENCE_S
    seen, quiet_since_s = -1, time.monotonic()
    while time.monotonic() < until_s and time.monotonic() < quiet_since_s + QUIET_S:
        if len(receiver.bodies) != seen:
            seen, quiet_since_s = len(receiver.bodies), time.monotonic()
        time.sleep(0.05)


def _wait_for_shippers(folder: Path) -> None:
    """Wait for the shippers that the processes spawned: they end by themselves once all is shipped."""
    until_s = time.monotonic() + PATIENCE_S
    for lock in folder.rglob("ship.lock"):
        while time.monotonic() < until_s and is_led(Layout.of(lock.parents[1])):
            time.sleep(0.2)


def _compare(folder: Path, arrived: Counter[int]) -> Loss:
    noted = (folder / "notes").read_bytes()
    returned = {number for number, state in enumerate(noted) if state == RETURNED}
    # A call that was interrupted may have arrived or not; one that said no must not have.
    refused = {number for number, state in enumerate(noted) if state == REFUSED}
    return Loss(
        returned=len(returned),
        refused=len(refused),
        lost=len(returned - arrived.keys()),
        doubled=sum(1 for times in arrived.values() if times > 1),
        invented=len(arrived.keys() & refused) + sum(1 for number in arrived if number >= len(noted)),
    )


def version_of(python: str, client: str) -> str | None:
    """Return the version of a client in that interpreter, or None when it cannot be imported there."""
    _, distribution, module = PEERS.get(client, (client, client, client))
    code = f"import importlib.metadata, {module}; print(importlib.metadata.version({distribution!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None if found.returncode == 0 else None


def as_figures(results: Results) -> list[Figure]:
    figures: list[Figure] = []
    for ending, row in results.items():
        worst = {client: max(one.share for one in found) for client, found in row.items() if isinstance(found, list)}
        peer = max((client for client in worst if client != US), key=lambda client: worst[client], default=None)
        for client, share in worst.items():
            compared = client == US and peer is not None and worst[peer] > 0
            figures.append(
                Figure(
                    name=f"{ending}: {name_of(client)}",
                    value=round(share, 2),
                    unit="% lost",
                    ratio=round(share / worst[peer], 3) if compared and peer else None,
                    against=name_of(peer) if compared and peer else None,
                    note=cell(row[client]),
                )
            )
    return figures


def name_of(client: str) -> str:
    return "Tallybook" if client == US else PEERS[client][0]


def cell(found: Sequence[Loss] | str) -> str:
    """Return one cell of the table: the share lost (least to most of the repeats), and what else is to be said."""
    if isinstance(found, str):
        return found
    least, most = min(one.share for one in found), max(one.share for one in found)
    text = _percent(most) if _percent(least) == _percent(most) else f"{_percent(least)} to {_percent(most)}"
    refused, doubled, invented = (
        max(getattr(one, name) for one in found) for name in ("refused", "doubled", "invented")
    )
    text += f"; {refused:,} refused to the caller" if refused else ""
    text += f"; {doubled:,} twice" if doubled else ""
    return text + (f"; {invented:,} invented" if invented else "")


def _percent(share: float) -> str:
    return "0" if share == 0 else f"{share:.1f} %" if 0.1 <= share < 99.95 else "100 %" if share >= 99.95 else "< 0.1 %"


def as_table(results: Results, quick: bool, peers: str) -> str:
    """Return the table of docs/losses.md with what it was measured by."""
    versions = {client: version_of(peers, client) for client in PEERS}
    gunicorn = version_of(peers, "gunicorn")
    heads = ["Tallybook", *(f"{PEERS[client][0]} {versions[client] or ''}".strip() for client in PEERS)]
    lines = ["| ending | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    lines += [
        f"| {ending} | " + " | ".join(cell(row[client]) for client in (US, *PEERS)) + " |"
        for ending, row in results.items()
    ]
    repeats = "one run each" if quick else "three runs each (least to most lost), faults once"
    says = (
        f"`python -m benchmarks.loss{' --quick' if quick else ''} --write --peers PYTHON`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"CPython {platform.python_version()}, gunicorn {gunicorn or 'not installed'}; {repeats}. "
        f"The receiver or the lake was away for {_outage_s(quick):.0f} s of {_paced_s(quick):.0f} s."
    )
    return f"{says}\n\n" + "\n".join(lines) + "\n"


def write_page(results: Results, quick: bool, peers: str, page: Path = PAGE_OF_LOSSES) -> None:
    """Put the table into docs/losses.md; the words around it stay."""
    before, _, rest = page.read_text(encoding="utf-8").partition(TABLE_BEGINS)
    after = rest.partition(TABLE_ENDS)[2]
    page.write_text(f"{before}{TABLE_BEGINS}\n{as_table(results, quick, peers)}{TABLE_ENDS}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="once each, and an outage of 3 s")
    parser.add_argument("--write", action="store_true", help="write docs/losses.md and RESULTS.md")
    parser.add_argument("--peers", metavar="PYTHON", default=PEERS_PYTHON, help="the interpreter that has the peers")
    options = parser.parse_args()
    results = measure(options.quick, options.peers)
    print(as_table(results, options.quick, options.peers))
    if options.write:
        write_page(results, options.quick, options.peers)
        write_results({"loss": as_figures(results)}, quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
