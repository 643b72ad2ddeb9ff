"""A crowd that draws on hard quotas and is killed at it: `python -m tests.crash.quota_children URL ROOT PROCESSES RUNS SEED`.

One process forks the others, kills, stops and restarts them at random, and prints at its end what it was told, as JSON. A run
is one quota of a random size. Each worker draws on the runs in turn until it is refused, and says before and after each
consumption how much. Inside a worker the database fails: in mid-transaction, before the commit, after it with the answer
lost; connections are cut by others (PostgreSQL); its wall clock steps; and it kills itself where it hurts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import struct
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

from sqlalchemy import Engine, create_engine, event, text

from entitlements.decisions import to_billionths
from entitlements.hard_quota import HardQuota, forever
from entitlements.lease_keeper import keeper
from entitlements.leases import LeaseBook
from metering.clock import SystemClock
from metering.recorder import Recorder
from rating.errors import BooksUnavailable
from tallybook.books import open_books
from tallybook.lease_accounts import holder_of

START = datetime(2026, 1, 1, tzinfo=UTC)
SAID = struct.Struct("<BIq")
BEGINS, SPENT, REFUSED, ENDS = range(4)


def size_of(run: int, seed: int) -> Decimal:
    """Return the quota of a run: random, because a bug may hide from a round number."""
    chance = random.Random(f"{seed}/{run}")
    return Decimal(chance.choice((0, 1, 7, chance.randint(2, 40), chance.randint(2, 200)))) + Decimal(
        chance.choice(("0", "0", "0.5", "0.000000001"))
    )


class SteppingClock(SystemClock):
    """A wall clock that somebody sets, by up to six hours either way, whenever it is read."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._off_us = chance, 0

    def now_us(self) -> int:
        if self._chance.random() < 0.05:
            self._off_us = self._chance.randint(-6 * 3600, 6 * 3600) * 1_000_000
        return super().now_us() + self._off_us


class Faults:
    """What goes wrong in the books of one worker."""

    def __init__(self, engine: Engine, chance: random.Random) -> None:
        self._engine, self._chance = engine, chance
        self.url = engine.url
        event.listen(engine, "after_cursor_execute", self._after_statement)
        event.listen(engine, "commit", self._at_commit)

    def _after_statement(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith(("UPDATE", "INSERT")):
            self._strike("in mid-transaction")

    def _at_commit(self, connection: Any) -> None:
        self._strike("before the commit")
        if self._chance.random() < 0.02:
            raw = connection.connection.driver_connection
            if connection.dialect.name == "sqlite":
                raw.execute("COMMIT")
            else:
                raw.commit()
            self._strike("after the commit", 1.0)

    def _strike(self, where: str, part: float = 0.02) -> None:
        drawn = self._chance.random()
        if drawn < part / 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if drawn < part:
            raise BooksUnavailable(f"injected {where}")

    def cut_another(self) -> None:
        """Cut a connection of somebody else, as a server that restarts does."""
        if self.url.get_backend_name() != "postgresql":
            return
        engine = create_engine(self.url)
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
                )
            )
        engine.dispose()


def work(url: str, root: str, first: int, runs: int, seed: int, name: str, said: int) -> None:
    """Draw on the runs from `first` on, each until it refuses."""
    chance = random.Random(f"{seed}/{name}")
    keeper._tick_s = 0.05
    engine = open_books(url)
    faults = Faults(engine, chance)
    usage = Recorder(root, ship="none", segment_bytes=1 << 16)
    holder = holder_of(usage)
    for run in range(first, runs):
        book = LeaseBook(engine, SteppingClock(chance), valid_s=chance.choice((0.02, 0.2, 3.0)))
        quota = HardQuota(
            book, tenant=f"run-{run}", feature="tokens", quota=size_of(run, seed), window=forever(START), holder=holder,
            record=usage.bind("tokens", tenant=f"run-{run}").add,
        )  # fmt: skip
        draw(quota, run, chance, faults, said)
        if chance.random() < 0.8:
            # What is not returned counts as spent.
            with contextlib.suppress(BooksUnavailable):
                quota.close()
    usage.close()
    os.write(said, SAID.pack(ENDS, runs, 0))


def draw(quota: HardQuota, run: int, chance: random.Random, faults: Faults, said: int) -> None:
    refused = 0
    while refused < 2:
        quantity: int | Decimal = chance.choice((1, 1, 1, 1, 2, 5, Decimal("0.5"), Decimal("0.000000001")))
        drawn = chance.random()
        if drawn < 0.002:
            os.kill(os.getpid(), signal.SIGKILL)
        if drawn > 0.999:
            faults.cut_another()
        os.write(said, SAID.pack(BEGINS, run, to_billionths(quantity)))
        decision = quota.consume(quantity)
        os.write(said, SAID.pack(SPENT if decision else REFUSED, run, to_billionths(quantity)))
        refused += not decision


class Crowd:
    """Forks the workers, hears them, kills them, restarts them."""

    def __init__(self, url: str, root: str, processes: int, runs: int, seed: int) -> None:
        self._arguments = url, root
        self._runs, self._seed = runs, seed
        self._chance = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, tuple[int, int]] = {}  # pipe -> pid, worker
        self._at = dict.fromkeys(range(processes), 0)
        self._lives: Counter[int] = Counter()
        self._stopped: dict[int, float] = {}
        self.spent: Counter[int] = Counter()
        self.unknown: Counter[int] = Counter()
        self.refused = self.kills = self._heard = 0

    def run(self, words_between_kills: int) -> None:
        """Kill after so many words on average, whoever said them: a slow machine kills no more than a fast one."""
        for worker in self._at:
            self._start(worker)
        kill_at = 0.0
        while self._workers:
            for key, _ in self._selector.select(0.005):
                self._hear(key.fd, key.data)
            now_s = time.monotonic()
            for pid in [pid for pid, until_s in self._stopped.items() if now_s > until_s]:
                del self._stopped[pid]
                os.kill(pid, signal.SIGCONT)
            if self._heard > kill_at and self._workers:
                kill_at = self._heard + self._chance.uniform(0, 2 * words_between_kills)
                pid, _ = self._chance.choice(list(self._workers.values()))
                if self._chance.random() < 0.3:
                    # A zombie: it goes on when its lease has expired.
                    os.kill(pid, signal.SIGSTOP)
                    self._stopped[pid] = now_s + 0.1
                else:
                    os.kill(pid, signal.SIGKILL)

    def _start(self, worker: int) -> None:
        self._lives[worker] += 1
        hears, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                for other in self._workers:
                    os.close(other)
                os.close(hears)
                name = f"{worker}.{self._lives[worker]}"
                work(*self._arguments, self._at[worker], self._runs, self._seed, name, says)
                os._exit(0)
            except BaseException:  # noqa: BLE001 (shown, and the crowd ends with an error)
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        os.close(says)
        self._workers[hears] = pid, worker
        # What was heard and not yet whole, and what begins without having ended.
        self._selector.register(hears, selectors.EVENT_READ, [bytearray(), None])

    def _hear(self, pipe: int, state: list[Any]) -> None:
        read = os.read(pipe, 1 << 16)
        pid, worker = self._workers[pipe]
        if read:
            state[0] += read
            whole = len(state[0]) // SAID.size * SAID.size
            for kind, run, quantity in SAID.iter_unpack(bytes(state[0][:whole])):
                self._at[worker] = run
                self._heard += 1
                state[1] = (run, quantity) if kind == BEGINS else None
                self.spent[run] += quantity if kind == SPENT else 0
                self.refused += kind == REFUSED
            del state[0][:whole]
            return
        self._selector.unregister(pipe)
        os.close(pipe)
        del self._workers[pipe]
        self._stopped.pop(pid, None)
        _, status = os.waitpid(pid, 0)
        if state[1] is not None:
            self.unknown[state[1][0]] += state[1][1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.kills += 1
            self._start(worker)
        elif status != 0:
            raise SystemExit(f"worker {worker} ended with status {status}")


def main(url: str, root: str, processes: str, runs: str, seed: str) -> None:
    if url.startswith("postgresql"):
        # Once for all: to load it takes longer than most workers live.
        import_module("psycopg")
        import_module("sqlalchemy.dialects.postgresql.psycopg")
    crowd = Crowd(url, root, int(processes), int(runs), int(seed))
    try:
        crowd.run(words_between_kills=100)
    finally:
        for pid, _ in crowd._workers.values():
            os.kill(pid, signal.SIGKILL)
    told = {"spent": crowd.spent, "unknown": crowd.unknown, "refused": crowd.refused, "kills": crowd.kills}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
