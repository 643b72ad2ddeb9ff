"""Usage for those whose prices live at Stripe: windows that overwrite, raw events, the stream, and refusals that come later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from billing_adapters.adapter import Intent
from billing_adapters.deliver import Deliverer
from billing_adapters.deliveries import list_deliveries
from billing_adapters.errors import ProviderAway
from billing_adapters.provider_list import Asked
from billing_adapters.stripe_adapter.meter_events import StripeMeterAdapter, StripeMeterSettings
from billing_adapters.testing.contract import BEGINNING, AdapterContract
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import InProcess
from billing_adapters.usage_totals import UsageTotal, by_first_write, by_overwriting
from metering.clock import FixedClock

HOUR = timedelta(hours=1)
START = BEGINNING - 2 * HOUR


def total(hour: int, quantity: str, *, before: str = "0", name: str = "tokens", account: str = "acme") -> UsageTotal:
    start = START + hour * HOUR
    return UsageTotal(account, f"sub-{account}", name, start, start + HOUR, Decimal(quantity), Decimal(before))


class MeterWorld:
    def __init__(self, settings: StripeMeterSettings) -> None:
        self.clock = FixedClock(BEGINNING)
        self.fake = StripeFake(self.clock)
        self.settings = settings
        meters = self.fake.client().v1.billing.meters
        more = {"event_time_window": "hour"} if settings.mode == "window" else {}
        for name in ("tokens", "calls"):
            params: Any = {"display_name": name, "event_name": name, "default_aggregation": {"formula": "sum"}, **more}
            meters.create(params)

    def adapter(self) -> StripeMeterAdapter:
        client_of = lambda key: stripe.StripeClient(key, http_client=InProcess(self.fake), max_network_retries=0)  # noqa: E731
        return StripeMeterAdapter(client_of, self.fake.api_key, self.settings)

    def sources(self) -> Sequence[object]:
        return [total(0, "12.5"), total(1, "0.000001", before="12.5"), total(0, "7", name="calls", account="globex"),
                total(1, "0", name="calls", account="globex", before="7")]  # fmt: skip

    def fail(self, how: str, times: int = 1) -> None:
        self.fake.fail(how, times)

    def holdings(self) -> dict[str, list[str]]:
        accounts = {one["id"]: one["metadata"]["tallybook_account"] for one in self.fake.store.all("customer")}
        found: dict[str, list[str]] = {}
        for name, counted in self.fake.meters.counted.items():
            for (customer, _), (at_s, value) in counted.items():
                at = datetime.fromtimestamp(at_s, BEGINNING.tzinfo)
                key = f"sub-{accounts[customer]} {name} {at:%Y-%m-%dT%H:%M:%S}Z"
                found.setdefault(key, []).append(f"{value:f}")
        return found

    def expected(self, intent: Intent) -> str:
        return f"{intent.quantity:f}".rstrip("0").rstrip(".") if intent.quantity else "0"


class TestWindows(AdapterContract):
    def make_world(self) -> MeterWorld:
        return MeterWorld(StripeMeterSettings())


@pytest.mark.prove
class TestRawEvents(AdapterContract):
    def make_world(self) -> MeterWorld:
        return MeterWorld(StripeMeterSettings(mode="raw"))


@pytest.mark.prove
class TestStream(AdapterContract):
    def make_world(self) -> MeterWorld:
        return MeterWorld(StripeMeterSettings(by_stream=True))


def deliver(world: MeterWorld, suite: AdapterContract, engine: Any, *sources: UsageTotal) -> None:
    adapter = world.adapter()
    deliverer = Deliverer(engine, adapter, clock=world.clock, wait=lambda s: world.clock.advance(timedelta(seconds=s)))
    deliverer.outbox.enqueue([intent for one in sources for intent in adapter.prepare(one)])
    deliverer.run()


def test_a_late_event_is_a_new_total_of_its_window() -> None:
    world, engine = MeterWorld(StripeMeterSettings()), AdapterContract().open_books()
    deliver(world, AdapterContract(), engine, total(0, "5"))
    deliver(world, AdapterContract(), engine, total(0, "5.5"), total(1, "1", before="5.5"))
    assert [value for _, value in world.fake.meters.counted["tokens"].values()] == [Decimal("5.5"), Decimal(1)]


def test_what_stripe_cannot_take_is_parked_with_the_reason() -> None:
    world, engine = MeterWorld(StripeMeterSettings()), AdapterContract().open_books()
    deliver(world, AdapterContract(), engine, total(0, "-1"), total(1, "1234567890.123456"))
    with engine.connect() as connection:
        reasons = sorted(row.reason for row in list_deliveries(connection, states=["parked"]))
    assert "below zero" in reasons[0]
    assert "more than 15 digits" in reasons[1]


def test_a_window_that_is_too_old_is_lost_and_said_so() -> None:
    world, engine = MeterWorld(StripeMeterSettings()), AdapterContract().open_books()
    deliver(world, AdapterContract(), engine, total(-36 * 24, "5"))
    with engine.connect() as connection:
        (row,) = list_deliveries(connection)
    assert (row.state, row.outcome, row.money) == ("parked", "EXPIRED", "LOST")


QUANTITIES = st.lists(st.decimals(0, 1000, places=9), min_size=1, max_size=40)


@given(QUANTITIES, st.integers(0, 9))
def test_windows_that_overwrite_telescope_to_the_ledger(quantities: list[Decimal], decimals: int) -> None:
    before, sent = Decimal(0), Decimal(0)
    for hour, quantity in enumerate(quantities):
        now = by_overwriting(UsageTotal("a", "s", "n", START, START + hour * HOUR, quantity, before), decimals)
        sent += now
        before += quantity
        assert now >= 0
        assert 0 <= before - sent < Fraction(1, 10**decimals)
        assert -now.as_tuple().exponent <= decimals  # type: ignore[operator]


@given(st.lists(st.decimals(-50, 1000, places=9), min_size=1, max_size=40), st.integers(0, 9))
def test_windows_whose_first_write_stays_carry_what_is_left(quantities: list[Decimal], decimals: int) -> None:
    ledger, sent = Decimal(0), Decimal(0)
    for quantity in quantities:
        now, carried = by_first_write(UsageTotal("a", "s", "n", START, START, quantity, ledger, sent), decimals)
        ledger += quantity
        sent += now
        assert now >= 0
        assert sent + carried == ledger
        assert carried < Fraction(1, 10**decimals)


def test_what_is_sent_and_carried_is_the_ledger_to_the_last_digit() -> None:
    """Quantities have up to 38 digits; decimals by themselves keep 28."""
    wide, unit = Decimal("12345678901234567890123456789"), Decimal("0.000000001")
    now, carried = by_first_write(UsageTotal("a", "s", "n", START, START, wide, unit), 0)
    assert (now, carried) == (wide, unit)
    assert by_overwriting(UsageTotal("a", "s", "n", START, START, unit, wide), 9) == unit


@pytest.mark.parametrize("settings", [{"mode": "both"}, {"decimals": 13}])
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mode is window or raw"):
        StripeMeterSettings(**settings)


def test_what_meters_counted_comes_back_by_windows_that_are_over() -> None:
    world, suite = MeterWorld(StripeMeterSettings()), AdapterContract()
    engine = suite.open_books()
    # 150 hours of calls are more than a page; of tokens a value that no double holds.
    hours = [total(hour, str(hour + 1), name="calls", account="globex") for hour in range(150)]
    world.clock.advance(timedelta(hours=150))
    deliver(world, suite, engine, total(0, "12.1"), *hours)
    [globex, acme] = [
        next(one["id"] for one in world.fake.store.all("customer") if one["metadata"]["tallybook_account"] == account)
        for account in ("globex", "acme")
    ]
    start, hour = START, HOUR
    spans = [
        Asked("globex", "calls", start, start + 200 * hour, hour, globex),
        # Half an hour into the first window: it is asked for as a whole.
        Asked("acme", "tokens", start + hour / 2, start + 5 * hour, hour, acme),
        Asked("acme", "no_such_meter", start, start + hour, hour, acme),
        Asked("initech", "tokens", start, start + hour, hour, None),
    ]
    calls: list[str] = []
    read_at = start + timedelta(hours=149, minutes=30)
    held = world.adapter().list_held(start, read_at, asked=spans, spend=lambda: calls.append("call"), read_at=read_at)
    rows = held.table("quantities").to_pylist()
    # The window that is not over at the time of asking is left out.
    found = {(row["account_id"], row["name"], row["start"]): row["quantity"] for row in rows}
    expected = {("globex", "calls", start + n * hour): Decimal(n + 1) for n in range(149)}
    assert found == {**expected, ("acme", "tokens", start): Decimal("12.1")}
    assert {(row["adapter"], row["end"] - row["start"], row["status"]) for row in rows} == {
        ("stripe_meters", hour, "counted")
    }
    # One page of meters, one of customers (nobody knows initech's), two of calls, one of tokens.
    assert len(calls) == 5


def test_a_large_total_of_a_meter_comes_back() -> None:
    """18 digits before the point and the 12 places of a list are more than the 28 that decimals have by themselves."""
    world, suite = MeterWorld(StripeMeterSettings()), AdapterContract()
    large = Decimal("200000000000000000")
    world.clock.advance(timedelta(hours=2))
    deliver(world, suite, suite.open_books(), total(0, "1"))
    # One event takes 15 digits; what a window adds up to may be longer.
    counted = world.fake.meters.counted["tokens"]
    counted.update({name: (at, large) for name, (at, _) in counted.items()})
    asked = [Asked("acme", "tokens", START, START + HOUR, HOUR, None)]
    read_at = START + 2 * HOUR
    held = world.adapter().list_held(START, read_at, asked=asked, spend=lambda: None, read_at=read_at)
    assert [row["quantity"] for row in held.table("quantities").to_pylist()] == [large]


def test_half_a_list_of_meters_is_none() -> None:
    world = MeterWorld(StripeMeterSettings())
    world.fake.client().v1.customers.create({"name": "acme"})
    start = START
    asked = [Asked("acme", "tokens", start, start + timedelta(hours=2), timedelta(hours=1), "cus_1")]
    world.fake.fault = lambda method, path: "throttled" if path.endswith("event_summaries") else None
    with pytest.raises(ProviderAway, match="read it again"):
        world.adapter().list_held(start, start, asked=asked, spend=lambda: None, read_at=start + timedelta(hours=2))
