"""Real deliverers, really killed, over real HTTP; two more finish: each invoice is at the fake Stripe once, with our amount."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from billing_adapters.books import deliveries, delivery_attempts, delivery_links, delivery_paces
from billing_adapters.deliveries import list_deliveries
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.books import control_points
from metering.clock import SystemClock
from tallybook.books import metadata, open_books
from tests.billing_adapters.stripe_world import holdings
from tests.crash.workspace import REPOSITORY
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)

INVOICES = 12
FAILURES = ("lost", "error_after", "away", "throttled")


class KilledAt:
    """Counts the fake's calls and kills a process at one of them, before or after it was done."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.child: subprocess.Popen[bytes] | None = None
        self.left = 0
        self.kills = 0
        self._lock = threading.Lock()

    def fault(self, _method: str, _path: str) -> str | None:
        with self._lock:
            self.left -= 1
            if self.left == 0 and self.child is not None:
                self.child.kill()
                self.child.wait()
                self.kills += 1
        return self.chance.choice(FAILURES) if self.child is not None and self.chance.random() < 0.05 else None


def deliver_with_kills(url: str, kills: int, seed: int) -> None:
    engine = open_books(url)
    metadata.create_all(engine, tables=[deliveries, delivery_attempts, delivery_links, delivery_paces, control_points])
    chance = random.Random(seed)
    killer = KilledAt(chance)
    fake = StripeFake(SystemClock(), fault=killer.fault)
    with serve(fake) as address:
        command = [sys.executable, "-m", "tests.crash.delivery_children", url, address, fake.api_key, str(INVOICES)]
        for number in range(kills):
            killer.left = chance.randint(1, 25)
            killer.child = subprocess.Popen([*command, f"killed-{number}"], cwd=REPOSITORY)
            killer.child.wait()
        killer.child = None
        last = [subprocess.Popen([*command, f"last-{number}"], cwd=REPOSITORY) for number in range(2)]
        assert [one.wait() for one in last] == [0, 0]
    with engine.connect() as connection:
        assert {row.state for row in list_deliveries(connection)} == {"delivered"}
    assert holdings(fake) == {f"invoice-{n}": ["4950 usd in 3 lines of 4950"] for n in range(1, INVOICES + 1)}
    assert len(fake.store.all("customer")) == 3
    assert killer.kills >= 1
    engine.dispose()


def test_killed_deliverers_deliver_once(tmp_path: Path) -> None:
    deliver_with_kills(f"sqlite:///{tmp_path}/books.sqlite", kills=3, seed=1)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(10))
def test_many_killed_deliverers(seed: int, postgres_url: str) -> None:  # noqa: F811 (the fixture)
    deliver_with_kills(postgres_url, kills=12, seed=seed)
