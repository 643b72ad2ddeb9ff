"""The contract of adapters: what any adapter must show before anybody's money goes through it.

Enters: a `World` of yours, which is your adapter with a double of its provider. Leaves: tests, for pytest or by hand.
Refuses: adapters that write twice, that lose, that send floats, or that call an unanswered call done; and, of those that can list
what their provider has, lists that leave out, that write, or that break off half-way without a word.

    from billing_adapters.testing.contract import AdapterContract

    class TestOurs(AdapterContract):
        def make_world(self):
            return OurWorld()

Nothing here waits, and no network is used but what your world uses.
"""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from billing_adapters.books import deliveries, delivery_attempts, delivery_links, delivery_paces
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.deliveries import list_deliveries
from billing_adapters.testing.contract_of_lists import check_breaks, check_list, check_spans
from billing_adapters.testing.holding import hold
from metering.books import control_points
from metering.clock import FixedClock, from_us

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing_adapters.adapter import Adapter, Intent
    from billing_adapters.deliveries import Delivery

BEGINNING = datetime(2026, 11, 1, 12, tzinfo=UTC)
PASSES_MAX = 60
STEPS = ("claim", "claimed", "looked", "send", "sent", "finished")


class World(Protocol):
    """Your adapter and a double of its provider, over one clock. A new world is empty."""

    clock: FixedClock

    def adapter(self) -> Adapter:
        """Return a new adapter for the provider of this world."""

    def sources(self) -> Sequence[object]:
        """Return at least three sources that `prepare` makes intents of. The same ones each time."""

    def fail(self, how: str, times: int = 1) -> None:
        """Make the provider's next writes fail: `lost` (done, then no answer), `away` (not done, no answer), `throttled`."""

    def holdings(self) -> Mapping[str, Sequence[str]]:
        """Return what counts at the provider, by natural key: one text per thing it would bill. Twice billed: two texts."""

    def expected(self, intent: Intent) -> str:
        """Return the text that `holdings` shows for an intent that arrived once, whole and right."""


class Crashed(BaseException):
    """The process died here. No `except Exception` may keep it alive."""


def now_of(world: World) -> datetime:
    return from_us(world.clock.now_us())


class AdapterContract:
    """Subclass it as a pytest class and give `make_world`. Every test begins with a new world and empty books."""

    def make_world(self) -> World:
        raise NotImplementedError("return a new World: your adapter and a double of its provider")

    # --- what is declared ---------------------------------------------------------------------------------------------

    def test_capabilities_say_how_it_can_be_repaired(self) -> None:
        said = self.make_world().adapter().capabilities
        hold(said.name and said.kinds and said.natural_key, "a name, kinds and a natural key are declared")
        hold(said.batch_items >= 1 and said.calls_per_s >= 1, "limits are at least one")
        hold(
            said.read_back is not None or said.repeat_same == "safe",
            "a lost answer can be repaired: by reading back, or by a repeat that is harmless",
        )
        hold(said.downwards, "there is some way to correct what was too much")

    def test_preparing_is_pure_and_takes_only_what_it_knows(self) -> None:
        world = self.make_world()
        first, second = (self._intents(world, world.adapter()) for _ in range(2))
        hold(first == second, "the same sources give the same intents, by any instance")
        hold(len(first) >= 3, "a world has sources for at least three intents")
        keys = [(intent.kind, intent.natural_key) for intent in first]
        hold(len(set(keys)) == len(keys), "natural keys tell intents apart")
        hold({kind for kind, _ in keys} <= set(world.adapter().capabilities.kinds), "kinds are declared")
        hold(not list(world.adapter().prepare(object())), "a source that it does not know gives no intent")

    def test_no_number_on_the_wire_has_an_exponent(self) -> None:
        world = self.make_world()
        for intent in self._intents(world, world.adapter()):
            found = re.search(r"[\"\s:,\[]-?\d+(\.\d+)?[eE][+-]?\d+[\"\s,\]}]", intent.payload)
            hold(not found, f"{intent.natural_key} holds a number with an exponent: {found}")

    # --- exactly once -------------------------------------------------------------------------------------------------

    def test_everything_arrives_once_and_again_changes_nothing(self) -> None:
        world, engine = self.make_world(), self.open_books()
        self._deliver_all(world, engine)
        before = dict(world.holdings())
        self._deliver_all(world, engine)
        hold(dict(world.holdings()) == before, "delivering again changes nothing")

    def test_a_lost_answer_is_repaired(self) -> None:
        self._survives("lost")

    def test_a_provider_that_is_away_is_waited_for(self) -> None:
        self._survives("away")

    def test_throttling_is_waited_out(self) -> None:
        self._survives("throttled", times=4)

    def test_a_lost_answer_is_repaired_after_the_keys_of_the_provider_expired(self) -> None:
        world, engine = self.make_world(), self.open_books()
        lives = world.adapter().capabilities.key_lives
        if lives is None or world.adapter().capabilities.window.oldest is not None:
            return
        world.fail("lost")
        self._run(world, engine)
        world.clock.advance(lives + timedelta(hours=1))
        self._deliver_all(world, engine)

    def test_a_crash_between_any_two_steps_is_repaired(self) -> None:
        for step in STEPS:
            for nth in (1, 2):
                world, engine = self.make_world(), self.open_books()
                self._run(world, engine, crash_at=(step, nth))
                self._deliver_all(world, engine)

    def test_two_deliverers_at_once_are_harmless(self) -> None:
        for step in STEPS:
            world, engine = self.make_world(), self.open_books()
            second = self._deliverer(world, engine, "second")
            self._enqueue(world, second)
            begun: list[str] = []

            def meanwhile(
                at: str, wanted: str = step, begun: list[str] = begun, other: Deliverer = second, now: World = world
            ) -> None:
                if at == wanted and not begun:
                    begun.append(at)
                    # The first one is away for longer than its lease, and the second takes over.
                    now.clock.advance(timedelta(minutes=11))
                    other.run()

            self._deliverer(world, engine, "first", on_step=meanwhile).run()
            self._deliver_all(world, engine)

    def test_what_arrived_is_found_by_reading_back(self) -> None:
        world, engine = self.make_world(), self.open_books()
        if world.adapter().capabilities.read_back is None:
            return
        self._deliver_all(world, engine)
        with engine.begin() as connection:
            # As if every process had died after its last byte: nobody wrote down what became of anything.
            connection.execute(deliveries.update().values(state="pending", is_uncertain=True))
        before = dict(world.holdings())
        done = self._run(world, engine)
        hold(done is not None and set(done.outcomes) == {"ALREADY_ACCEPTED_SAME"}, f"all is found: {done}")
        hold(dict(world.holdings()) == before, "reading back writes nothing")

    # --- what the provider says it has --------------------------------------------------------------------------------

    def test_the_list_shows_what_was_sent_once_and_writes_nothing(self) -> None:
        world, engine = self.make_world(), self.open_books()
        listing = world.adapter().capabilities.listing
        if listing is None:
            return
        self._deliver_all(world, engine)
        world.clock.advance(listing.settles + timedelta(minutes=1))
        before = dict(world.holdings())
        check_list(world.adapter(), self._intents(world, world.adapter()), until=now_of(world))
        hold(dict(world.holdings()) == before, "listing writes nothing")

    def test_spans_of_the_list_are_half_open_and_add_up(self) -> None:
        world, engine = self.make_world(), self.open_books()
        if world.adapter().capabilities.listing is None:
            return
        self._deliver_all(world, engine)
        world.clock.advance(timedelta(minutes=1))
        check_spans(world.adapter(), self._intents(world, world.adapter()), until=now_of(world))

    def test_a_list_that_breaks_off_is_no_list(self) -> None:
        world, engine = self.make_world(), self.open_books()
        if world.adapter().capabilities.listing is None:
            return
        self._deliver_all(world, engine)
        check_breaks(world.adapter(), self._intents(world, world.adapter()), until=now_of(world))

    # --- how ----------------------------------------------------------------------------------------------------------

    def open_books(self) -> Engine:
        """Return empty books. In memory; override it to run the contract over a database of yours."""
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        tables = [deliveries, delivery_attempts, delivery_links, delivery_paces, control_points]
        deliveries.metadata.create_all(engine, tables=tables)
        return engine

    def _survives(self, how: str, times: int = 1) -> None:
        for after in range(3):
            world, engine = self.make_world(), self.open_books()
            calls = 0

            def fail(step: str, world: World = world, after: int = after) -> None:
                nonlocal calls
                if step == "send":
                    if calls == after:
                        world.fail(how, times)
                    calls += 1

            deliverer = self._deliverer(world, engine, "first", on_step=fail)
            self._enqueue(world, deliverer)
            deliverer.run()
            self._deliver_all(world, engine)

    def _intents(self, world: World, adapter: Adapter) -> list[Intent]:
        return [intent for source in world.sources() for intent in adapter.prepare(source)]

    def _deliverer(self, world: World, engine: Engine, name: str, **more: object) -> Deliverer:
        return Deliverer(
            engine,
            world.adapter(),
            clock=world.clock,
            name=name,
            wait=lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
            chance=random.Random(0).random,  # noqa: S311 (jitter, the same every time)
            **more,  # type: ignore[arg-type]
        )

    def _enqueue(self, world: World, deliverer: Deliverer) -> None:
        deliverer.outbox.enqueue(self._intents(world, world.adapter()))

    def _run(self, world: World, engine: Engine, crash_at: tuple[str, int] | None = None) -> Delivered | None:
        """Run one deliverer once; None when it crashed."""
        seen = 0

        def step(at: str) -> None:
            nonlocal seen
            if crash_at is not None and at == crash_at[0]:
                seen += 1
                if seen == crash_at[1]:
                    raise Crashed(at)

        deliverer = self._deliverer(world, engine, "mortal", on_step=step)
        self._enqueue(world, deliverer)
        try:
            return deliverer.run()
        except Crashed:
            return None

    def _deliver_all(self, world: World, engine: Engine) -> None:
        """Run until nothing is open, and look at both sides: each intent once, whole, and as it was meant."""
        for _ in range(PASSES_MAX):
            self._run(world, engine)
            with engine.connect() as connection:
                is_open = list_deliveries(connection, states=["pending", "attempting"])
            if not is_open:
                break
            world.clock.advance(timedelta(minutes=16))
        with engine.connect() as connection:
            found = list_deliveries(connection)
        self._look(world, found)

    def _look(self, world: World, found: Sequence[Delivery]) -> None:
        intents = self._intents(world, world.adapter())
        states = {row.delivery_id: row for row in found}
        holdings = world.holdings()
        for intent in intents:
            row = states[intent.delivery_id(world.adapter().capabilities.name)]
            hold(row.state == "delivered", f"{row.natural_key} is {row.state} ({row.outcome}): {row.reason}")
            held = list(holdings.get(intent.natural_key, ()))
            hold(held == [world.expected(intent)], f"{intent.natural_key}: the provider holds {held}")
        hold(len(holdings) == len(intents), "nothing else is at the provider")
