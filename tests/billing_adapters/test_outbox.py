"""The outbox in SQLite and PostgreSQL: intents are rows, claims are fenced, lanes are in order, people decide with reasons."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Engine, select

from billing_adapters.adapter import Answer, Capabilities, Found, Intent, Item, Numbers, ReadBack, Window
from billing_adapters.books import deliveries
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.deliveries import attempts_of, list_deliveries, retry, waive
from billing_adapters.desk import OutboxDesk
from billing_adapters.discovery import make_adapter
from billing_adapters.errors import AdapterMisconfigured, BudgetSpent, DeliveryNotOpen, LeaseLost
from billing_adapters.outbox import Outbox
from billing_adapters.outcomes import Next, Outcome
from metering.clock import FixedClock
from metering.control_points import DELIVERED, read_points

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LEASE = timedelta(minutes=10)
CAPABILITIES = Capabilities(
    name="probe",
    kinds=("hour",),
    grain="hour",
    natural_key=("key",),
    numbers=Numbers("decimal_text", 6),
    zero="sent",
    repeat_same="safe",
    repeat_other="refused",
    read_back=ReadBack(can_prove_absence=True),
    downwards=("none",),
    upwards=("a later hour",),
    batch_items=8,
    calls_per_s=1000,
)


def intent(key: str, payload: str = "1", **more: object) -> Intent:
    return Intent("hour", key, payload, "acme-inc", f"subject-{key}", **more)  # type: ignore[arg-type]


class Probe:
    """An adapter that answers as it is told, and remembers what it was given."""

    def __init__(self, capabilities: Capabilities = CAPABILITIES, answers: dict[str, Outcome] | None = None) -> None:
        self.capabilities = capabilities
        self.answers = answers or {}
        self.found: dict[str, Found] = {}
        self.batches: list[list[str]] = []
        self.raises: Exception | None = None

    def prepare(self, source: object) -> Sequence[Intent]:
        return [source] if isinstance(source, Intent) else []

    def send(self, items: Sequence[Item], desk: OutboxDesk) -> Sequence[Answer]:
        desk.spend()
        keys = [item.natural_key for item in items]
        self.batches.append(keys)
        if self.raises is not None:
            raise self.raises
        told = [self.answers.get(key, Outcome.ACCEPTED) for key in keys]
        if Outcome.BATCH_POISONED in told:
            told = [Outcome.BATCH_POISONED] * len(keys)
        return [Answer(outcome, "told", f"id-{key}") for outcome, key in zip(told, keys, strict=True)]

    def read_back(self, items: Sequence[Item], desk: OutboxDesk) -> Sequence[Found]:
        desk.spend()
        return [self.found.get(item.natural_key, Found("absent")) for item in items]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def outbox(books: Engine, clock: FixedClock) -> Outbox:
    return Outbox(books, CAPABILITIES, clock)


def deliver(books: Engine, probe: Probe, clock: FixedClock, **more: object) -> Delivered:
    wait = lambda seconds: clock.advance(timedelta(seconds=seconds))  # noqa: E731
    return Deliverer(books, probe, clock=clock, wait=wait, chance=lambda: 1.0, **more).run()  # type: ignore[arg-type]


def states(books: Engine) -> dict[str, str]:
    with books.connect() as connection:
        return {row.natural_key: row.state for row in list_deliveries(connection)}


def only(books: Engine) -> object:
    with books.connect() as connection:
        (row,) = list_deliveries(connection)
    return row


def test_an_intent_is_one_row_however_often_it_is_meant(outbox: Outbox) -> None:
    first = outbox.enqueue([intent("a", amount=Decimal("49.00"), currency="USD"), intent("b"), intent("a")])
    assert (first.new, first.there, first.parked) == (2, 1, 0)
    again = outbox.enqueue([intent("a", amount=Decimal("49.00"), currency="USD"), intent("b")])
    assert (again.new, again.there, again.parked) == (0, 2, 0)
    assert outbox.missing([intent("a"), intent("c")]) == [intent("c")]


def test_other_content_under_a_taken_key_is_parked_where_the_first_stays(outbox: Outbox, books: Engine) -> None:
    outbox.enqueue([intent("a", "1")])
    assert outbox.enqueue([intent("a", "2")]).parked == 1
    with books.connect() as connection:
        (parked,) = list_deliveries(connection, states=["parked"])
    assert (parked.outcome, parked.money) == ("CONFLICT_OTHER_VALUE", "AT_RISK")
    assert "other content" in parked.reason


def test_other_content_follows_in_order_where_the_provider_overwrites(books: Engine, clock: FixedClock) -> None:
    probe = Probe(replace(CAPABILITIES, repeat_other="overwrites"))
    outbox = Outbox(books, probe.capabilities, clock)
    outbox.enqueue([intent("a", "1"), intent("a", "2")])
    (first,) = outbox.claim("one", 9, LEASE)
    assert first.item.payload == "1"
    assert not outbox.claim("two", 9, LEASE)
    outbox.finish(first, Next("delivered", Outcome.ACCEPTED, False, ""), Answer(Outcome.ACCEPTED))
    (second,) = outbox.claim("two", 9, LEASE)
    assert second.item.payload == "2"


def test_what_can_never_be_sent_is_parked_at_once_with_its_reason(outbox: Outbox, books: Engine) -> None:
    outbox.enqueue([intent("a", refusal="four decimals")])
    row = only(books)
    assert (row.state, row.reason, row.money) == ("parked", "four decimals", "DATA_QUALITY")  # type: ignore[attr-defined]
    with books.connect() as connection:
        assert {one.reason for one in read_points(connection, DELIVERED)} == {"meant", "parked"}


def test_the_nearest_deadline_comes_first_and_none_comes_last(outbox: Outbox) -> None:
    outbox.enqueue(
        [
            intent("never"),
            intent("tomorrow", recover_by=NOW + timedelta(days=1)),
            intent("soon", recover_by=NOW + timedelta(hours=1)),
        ]
    )
    assert [claim.item.natural_key for claim in outbox.claim("one", 9, LEASE)] == ["soon", "tomorrow", "never"]


def test_of_one_lane_one_rank_is_under_way(outbox: Outbox, clock: FixedClock) -> None:
    outbox.enqueue([intent("credit", lane="acme", rank="2"), intent("invoice", lane="acme", rank="1"), intent("other")])
    first = outbox.claim("one", 9, LEASE)
    assert sorted(claim.item.natural_key for claim in first) == ["invoice", "other"]
    assert not outbox.claim("two", 9, LEASE)
    invoice = next(claim for claim in first if claim.item.natural_key == "invoice")
    outbox.finish(invoice, Next("parked", Outcome.REJECTED_PERMANENT, False, "no"), Answer(Outcome.REJECTED_PERMANENT))
    assert [claim.item.natural_key for claim in outbox.claim("two", 9, LEASE)] == ["credit"]


def test_a_lease_that_ran_out_goes_to_another_and_the_first_may_write_no_more(
    outbox: Outbox, books: Engine, clock: FixedClock
) -> None:
    outbox.enqueue([intent("a")])
    (dead,) = outbox.claim("dead", 9, LEASE)
    assert not outbox.claim("alive", 9, LEASE)
    clock.advance(LEASE)
    (alive,) = outbox.claim("alive", 9, LEASE)
    assert alive.is_uncertain
    assert alive.item.is_resumed
    done = Next("delivered", Outcome.ACCEPTED, False, "")
    assert not outbox.keep(dead, {"draft": "in_1"})
    assert not outbox.finish(dead, done, Answer(Outcome.ACCEPTED))
    assert states(books) == {"a": "attempting"}
    assert outbox.finish(alive, done, Answer(Outcome.ACCEPTED, provider_id="in_2"))
    with books.connect() as connection:
        attempts = attempts_of(connection, alive.item.delivery_id)
    assert [(one.number, one.deliverer, one.outcome) for one in attempts] == [
        (1, "dead", "ACCEPTED"),
        (2, "alive", "ACCEPTED"),
    ]


def test_many_who_claim_at_once_share_and_never_hold_the_same(outbox: Outbox, books: Engine) -> None:
    outbox.enqueue([intent(f"key-{number:03}") for number in range(60)])
    held: list[list[str]] = [[] for _ in range(4)]

    def claim(number: int) -> None:
        while claims := outbox.claim(f"deliverer-{number}", 5, LEASE):
            held[number] += [one.item.natural_key for one in claims]

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for keys in held for key in keys) == [f"key-{number:03}" for number in range(60)]


def test_a_poisoned_batch_is_bisected_to_the_one(books: Engine, clock: FixedClock) -> None:
    probe = Probe(answers={"key-5": Outcome.BATCH_POISONED})
    Outbox(books, CAPABILITIES, clock).enqueue([intent(f"key-{number}") for number in range(8)])
    done = deliver(books, probe, clock)
    assert done.states == {"delivered": 7, "parked": 1}
    assert states(books)["key-5"] == "parked"
    assert sorted(len(batch) for batch in probe.batches) == [1, 1, 2, 2, 4, 4, 8]


def test_an_uncertain_item_is_looked_for_before_it_is_written(books: Engine, clock: FixedClock) -> None:
    probe = Probe(answers={"a": Outcome.UNKNOWN, "b": Outcome.UNKNOWN, "c": Outcome.UNKNOWN})
    Outbox(books, CAPABILITIES, clock).enqueue([intent("a"), intent("b"), intent("c")])
    deliver(books, probe, clock)
    assert set(states(books).values()) == {"pending"}
    probe.found = {"a": Found("same", provider_id="id-a"), "b": Found("other", "theirs")}
    probe.answers, probe.batches = {}, []
    clock.advance(timedelta(minutes=1))
    deliver(books, probe, clock)
    assert states(books) == {"a": "delivered", "b": "parked", "c": "delivered"}
    assert probe.batches == [["c"]]


def test_who_cannot_look_and_cannot_repeat_does_not_write(books: Engine, clock: FixedClock) -> None:
    blind = replace(CAPABILITIES, read_back=None, repeat_same="unsafe")
    probe = Probe(blind, {"a": Outcome.UNKNOWN})
    Outbox(books, blind, clock).enqueue([intent("a")])
    for _ in range(3):
        deliver(books, probe, clock)
        clock.advance(timedelta(hours=1))
    assert probe.batches == [["a"]]
    assert states(books) == {"a": "pending"}


def test_a_key_that_expired_is_no_reason_to_write_again(books: Engine, clock: FixedClock) -> None:
    short = replace(CAPABILITIES, read_back=None, key_lives=timedelta(hours=24))
    probe = Probe(short, {"a": Outcome.UNKNOWN})
    Outbox(books, short, clock).enqueue([intent("a")])
    deliver(books, probe, clock)
    clock.advance(timedelta(hours=1))
    deliver(books, probe, clock)
    clock.advance(timedelta(hours=24))
    deliver(books, probe, clock)
    assert probe.batches == [["a"], ["a"]]


def test_what_was_not_sent_in_time_is_lost_and_what_may_have_arrived_is_not(books: Engine, clock: FixedClock) -> None:
    probe = Probe(replace(CAPABILITIES, read_back=ReadBack(can_prove_absence=False)), {"maybe": Outcome.UNKNOWN})
    ends = NOW + timedelta(hours=1)
    outbox = Outbox(books, probe.capabilities, clock)
    outbox.enqueue([intent("maybe", recover_by=ends)])
    deliver(books, probe, clock)
    outbox.enqueue([intent("never", recover_by=ends)])
    clock.advance(timedelta(hours=2))
    deliver(books, probe, clock)
    assert states(books) == {"maybe": "pending", "never": "parked"}
    with books.connect() as connection:
        rows = {row.natural_key: row for row in list_deliveries(connection)}
    assert (rows["never"].outcome, rows["never"].money) == ("EXPIRED", "LOST")
    assert rows["maybe"].money == "AT_RISK"
    assert probe.batches == [["maybe"]]


def test_wrong_rights_stop_the_adapter_and_harm_no_item(books: Engine, clock: FixedClock) -> None:
    probe = Probe()
    probe.raises = AdapterMisconfigured("the key was revoked")
    Outbox(books, CAPABILITIES, clock).enqueue([intent(f"key-{number}") for number in range(12)])
    with pytest.raises(AdapterMisconfigured):
        deliver(books, probe, clock)
    assert set(states(books).values()) == {"pending"}
    assert len(probe.batches) == 1
    probe.raises = None
    assert deliver(books, probe, clock).states == {"delivered": 12}


def test_an_adapter_that_always_fails_is_stopped(books: Engine, clock: FixedClock) -> None:
    probe = Probe()
    probe.raises = ZeroDivisionError("a defect")
    Outbox(books, CAPABILITIES, clock).enqueue([intent(f"key-{number:03}") for number in range(100)])
    with pytest.raises(AdapterMisconfigured, match="5 times in a row, last by ZeroDivisionError: a defect"):
        deliver(books, probe, clock)
    assert len(probe.batches) == 5
    assert set(states(books).values()) == {"pending"}


@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.RETRY_SAFE])
def test_a_provider_that_is_away_is_not_asked_for_every_item(
    books: Engine, clock: FixedClock, outcome: Outcome
) -> None:
    keys = [f"key-{number:03}" for number in range(200)]
    probe = Probe(answers=dict.fromkeys(keys, outcome))
    Outbox(books, CAPABILITIES, clock).enqueue([intent(key) for key in keys])
    done = deliver(books, probe, clock)
    assert done.is_away
    assert sum(len(batch) for batch in probe.batches) < 40
    assert set(states(books).values()) == {"pending"}
    probe.answers = {}
    clock.advance(timedelta(minutes=1))
    assert deliver(books, probe, clock).states["delivered"] == 200


def test_a_budget_stops_a_run_and_the_next_goes_on(books: Engine, clock: FixedClock) -> None:
    probe = Probe()
    Outbox(books, CAPABILITIES, clock).enqueue([intent(f"key-{number:03}") for number in range(40)])
    done = deliver(books, probe, clock, calls_max=2)
    assert done.is_budget_spent
    assert done.calls == 2
    assert deliver(books, probe, clock).states == {"delivered": 40 - done.states["delivered"]}


def test_all_deliverers_together_keep_the_pace(books: Engine, clock: FixedClock) -> None:
    outbox = Outbox(books, CAPABILITIES, clock)
    waited: list[float] = []
    calls: list[datetime] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        clock.advance(timedelta(seconds=seconds))

    desks = [OutboxDesk(outbox, 10, wait) for _ in range(2)]
    for number in range(60):
        desks[number % 2].spend()
        calls.append(outbox.now)
    for at in range(len(calls) - 20):
        assert calls[at + 20] - calls[at] >= timedelta(seconds=1)
    assert calls[-1] - calls[0] >= timedelta(seconds=4)
    assert waited


def test_who_lost_its_lease_may_call_no_more(outbox: Outbox, clock: FixedClock) -> None:
    outbox.enqueue([intent("a")])
    claims = outbox.claim("slow", 9, LEASE)
    desk = OutboxDesk(outbox, 10, lambda _seconds: None)
    desk.hold(claims)
    desk.spend()
    clock.advance(LEASE)
    with pytest.raises(LeaseLost, match="the lease is over: hour subject-a"):
        desk.spend()
    with pytest.raises(BudgetSpent):
        OutboxDesk(outbox, 10, lambda _seconds: None, calls_max=0).spend()


def test_progress_and_names_are_kept(outbox: Outbox, clock: FixedClock) -> None:
    outbox.enqueue([intent("a")])
    (claim,) = outbox.claim("one", 9, LEASE)
    desk = OutboxDesk(outbox, 10, lambda _seconds: None)
    desk.hold([claim])
    desk.keep(claim.item.delivery_id, draft="in_1")
    desk.keep(claim.item.delivery_id, lines="3")
    clock.advance(LEASE)
    (again,) = outbox.claim("two", 9, LEASE)
    assert again.item.progress == {"draft": "in_1", "lines": "3"}
    with pytest.raises(LeaseLost):
        desk.keep(claim.item.delivery_id, draft="in_2")
    assert desk.linked("customer", "acme-inc") is None
    assert desk.link("customer", "acme-inc", "cus_1") == "cus_1"
    assert desk.link("customer", "acme-inc", "cus_2") == "cus_1"


def test_people_retry_and_waive_with_a_name_and_a_reason(books: Engine, clock: FixedClock) -> None:
    probe = Probe(answers={"a": Outcome.REJECTED_PERMANENT, "b": Outcome.REJECTED_PERMANENT})
    Outbox(books, CAPABILITIES, clock).enqueue([intent("a"), intent("b")])
    deliver(books, probe, clock)
    with books.connect() as connection:
        first, second = (row.delivery_id for row in list_deliveries(connection))
    with pytest.raises(ValueError, match="by somebody and for a reason"):
        retry(books, first, who="ada", why=" ", now=NOW)
    assert waive(books, second, who="ada", why="a test account", now=NOW).reason == "waived by ada: a test account"
    assert retry(books, first, who="ada", why="the customer exists now", now=NOW).state == "pending"
    probe.answers = {}
    deliver(books, probe, clock)
    assert sorted(states(books).values()) == ["delivered", "waived"]
    with pytest.raises(DeliveryNotOpen, match="parked or waived or pending"):
        retry(books, first, who="ada", why="again", now=NOW)
    with books.connect() as connection:
        said = [(one.deliverer, one.outcome, one.detail) for one in attempts_of(connection, first)]
        assert said == [
            ("deliverer", "REJECTED_PERMANENT", "told"),
            ("ada", "retried", "the customer exists now"),
            ("deliverer", "ACCEPTED", "told"),
        ]
        assert connection.scalar(select(deliveries.c.decided_by).where(deliveries.c.delivery_id == second)) == "ada"


def test_nothing_is_parked_without_a_reason(books: Engine, outbox: Outbox) -> None:
    outbox.enqueue([intent("a")])
    with pytest.raises(Exception, match="parked_with_reason"), books.begin() as connection:
        connection.execute(deliveries.update().values(state="parked"))


@pytest.mark.parametrize(
    ("window", "used_at", "recover_by"),
    [
        (Window(), "2026-10-31T10:00", None),
        (Window(timedelta(hours=24)), "2026-10-15T10:00", "2026-10-16T10:00"),
        (Window(timedelta(hours=24), timedelta(hours=6)), "2026-10-15T10:00", "2026-10-16T10:00"),
        (Window(timedelta(hours=24), timedelta(hours=6)), "2026-10-31T23:00", "2026-11-01T06:00"),
        (Window(timedelta(hours=24), timedelta(hours=6)), "2026-12-31T23:00", "2027-01-01T06:00"),
        # 01:00 US Pacific on the 1st; 2026-11-01 01:00 is before the clocks go back there.
        (Window(None, timedelta(hours=1), "America/Los_Angeles"), "2026-10-31T20:00", "2026-11-01T08:00"),
        (Window(None, timedelta(hours=1), "America/Los_Angeles"), "2026-11-01T03:00", "2026-11-01T08:00"),
    ],
)
def test_windows_end_by_age_and_by_month(window: Window, used_at: str, recover_by: str | None) -> None:
    expected = None if recover_by is None else datetime.fromisoformat(recover_by).replace(tzinfo=UTC)
    assert window.recover_by(datetime.fromisoformat(used_at).replace(tzinfo=UTC)) == expected


def test_an_adapter_that_nobody_registered_is_named() -> None:
    with pytest.raises(AdapterMisconfigured, match="no adapter is called 'nobody'; installed are"):
        make_adapter("nobody", {})
