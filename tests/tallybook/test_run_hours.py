"""Hours to a marketplace by themselves: one after the other after an outage, through a change of clocks, to the last minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_adapters.deliveries import list_deliveries
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake, serve
from metering.clock import FixedClock, from_us
from tallybook import Workspace
from tallybook.books import reading
from tallybook.run_books import list_runs
from tallybook.runner import Runner
from tests.tallybook.test_metered_hours import ARN, SETTINGS

# Berlin's clocks go back on 25 October 2026 at 01:00 UTC: its day has 25 hours, and the hour from 02:00 comes twice.
BEGIN = datetime(2026, 10, 24, 20, tzinfo=UTC)
CATALOG = """
meters: [{name: tokens}]
accounts: [{id: a, name: A, tenants: [acme]}]
contracts:
  - {id: c1, tenant: acme, licence: l-1, dimension: tok, meter: tokens, included: 0, from: 2026-10-24T20:00:00Z, to: END}
"""
RUN = """
[run]
from = 2026-10-24
timezone = "Europe/Berlin"
[run.steps]
maintain = "off"
reconcile_open = "off"
rate = "off"
alerts = "off"
close = "off"
invoice = "off"
reconcile = "off"
thresholds = "off"
"""


class Patient(Workspace):
    """A workspace that waits for a provider's pace on its own clock."""

    def deliver(self, *names: Any, **options: Any) -> Any:
        clock = self.clock
        assert isinstance(clock, FixedClock)
        return super().deliver(*names, **options, wait=lambda seconds: clock.advance(timedelta(seconds=seconds)))


class Market:
    """A workspace with a contract until `ends`, and a fake AWS that may be away."""

    def __init__(self, root: Path, ends: str) -> None:
        self.clock = FixedClock(BEGIN)
        self.fake = MarketplaceFake(self.clock)
        self.fake.add_licence(ARN, account="000000000001", product="prod-1", starts_at=BEGIN)
        self._serving = serve(self.fake)
        settings = SETTINGS.replace("2026-03-10", "2026-10-24").format(url=self._serving.__enter__(), arn=ARN) + RUN
        with Workspace.init(root, clock=self.clock) as made:
            (root / "catalog" / "all.yaml").write_text(CATALOG.replace("END", ends), encoding="utf-8")
            (root / "tallybook.toml").write_text(settings.replace("from = 2026-10-24\ntime", "time"), encoding="utf-8")
            made.apply()
        self.workspace = Patient(root, clock=self.clock)

    def use(self, quantity: int, at: datetime) -> None:
        path = self.workspace.layout.root / f"usage-{at:%d-%H-%M}.csv"
        path.write_text(f"tenant_id,meter,quantity,event_time\nacme,tokens,{quantity},{at:%Y-%m-%dT%H:%M:%SZ}\n")
        self.workspace.import_files([path])

    def run_at(self, at: datetime) -> None:
        self.clock.advance(at - from_us(self.clock.now_us()))
        Runner(self.workspace).run_due()

    def hours_done(self) -> list[str]:
        with reading(self.workspace.books) as connection:
            runs = list_runs(connection, step="deliver_hours")
        return [one.period for one in reversed(runs) if one.outcome == "done"]

    def billed(self) -> dict[str, Decimal]:
        return {at[:16]: quantity for (_, _, at), quantity in sorted(self.fake.billed.items())}

    def close(self) -> None:
        self.workspace.close()
        self._serving.__exit__(None, None, None)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")


@pytest.fixture
def market(tmp_path: Path, keys: None) -> Iterator[Market]:
    made = Market(tmp_path, "2026-10-26T00:00:00Z")
    yield made
    made.close()


def hour(number: int, minute: int = 0) -> datetime:
    return BEGIN + timedelta(hours=number, minutes=minute)


def test_missed_hours_are_told_one_by_one_and_an_hour_that_comes_twice_is_two(market: Market) -> None:
    for number in range(8):
        market.use(number + 1, hour(number, 30))
    market.run_at(hour(0, 10))
    market.run_at(hour(1, 14))
    assert market.hours_done() == [], "an hour is told when it is settled"
    market.run_at(hour(1, 15))
    assert market.hours_done() == ["2026-10-24T20:00:00Z"]
    # Nobody is there for the night in which the clocks change.
    market.run_at(hour(8, 20))
    assert market.hours_done() == [f"{hour(number):%Y-%m-%dT%H:%M:%SZ}" for number in range(8)]
    assert market.billed() == {f"{hour(number):%Y-%m-%dT%H:%M}": Decimal(number + 1) for number in range(8)}
    market.run_at(hour(8, 25))
    assert len(market.hours_done()) == 8
    with reading(market.workspace.books) as connection:
        assert {row.state for row in list_deliveries(connection)} == {"delivered"}


def test_the_last_minutes_of_a_contract_are_told_before_the_hour_is_over(tmp_path: Path, keys: None) -> None:
    market = Market(tmp_path, "2026-10-24T22:10:00Z")
    market.use(5, hour(1, 30))
    market.use(7, hour(2, 5))
    market.run_at(hour(0, 30))
    market.run_at(hour(2, 26))
    market.run_at(hour(2, 31))
    assert market.billed() == {"2026-10-24T21:00": Decimal(5), "2026-10-24T22:00": Decimal(7)}
    assert market.hours_done()[-1] == "2026-10-24T21:00:00Z", "the hour itself is not over"
    market.close()
