"""Leases and hard quotas: granted in one transaction, spent from memory, never more than there is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event, func, select, update
from sqlalchemy.exc import OperationalError

from entitlements.books import leases, quotas
from entitlements.checker import HardQuotas
from entitlements.decisions import BILLIONTHS
from entitlements.errors import EntitlementError, LeaseLost
from entitlements.hard_quota import HardQuota, every, expected, forever, rate_limit
from entitlements.leased import HardTerms, LeasedQuotas
from entitlements.leases import LeaseBook, QuotaKey, lease_size
from metering import Recorder
from metering.clock import FixedClock
from metering.errors import BadEvent, JournalFull
from rating.errors import BooksUnavailable
from tallybook.books import migrate, open_books
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)

START = datetime(2026, 10, 1, tzinfo=UTC)
OCTOBER = (START, datetime(2026, 11, 1, tzinfo=UTC))
KEY = QuotaKey("acme", "tokens", *OCTOBER)
U = BILLIONTHS


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/books.sqlite" if is_sqlite else request.getfixturevalue("postgres_url")
    engine = open_books(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Engine]:
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START + timedelta(days=4))


def granted(engine: Engine) -> Decimal:
    with engine.connect() as connection:
        return sum(connection.execute(select(quotas.c.granted)).scalars(), Decimal(0))


def quota_of(book: LeaseBook, clock: FixedClock, quota: int, **options: object) -> HardQuota:
    return HardQuota(
        book, tenant="acme", feature="tokens", quota=quota, window=lambda _now: OCTOBER, clock=clock, **options
    )  # type: ignore[arg-type]


# The size of a lease


def test_a_lease_shrinks_as_the_quota_runs_out() -> None:
    sizes = [lease_size(n * U, needed=U, demand=1000 * U, holders=3) // U for n in (8001, 801, 81, 9, 8, 1)]
    assert sizes == [1001, 101, 11, 2, 1, 1]


def test_what_is_needed_is_granted_whole_or_not_at_all() -> None:
    assert lease_size(5 * U, needed=5 * U, demand=9 * U, holders=0) == 5 * U
    assert lease_size(5 * U, needed=6 * U, demand=9 * U, holders=0) == 0


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 100))
def test_a_lease_is_never_more_than_what_is_left(remaining: int, needed: int, demand: int, holders: int) -> None:
    size = lease_size(remaining, needed=needed, demand=demand, holders=holders)
    assert 0 <= size <= remaining
    assert size == 0 or needed <= size <= needed + demand


def test_demand_is_what_goes_on_as_before() -> None:
    assert expected(500 * U, 2.0, 1.0) == 250 * U
    assert expected(3 * U, 0.0, 1.0) == 3000 * U


# The books


def test_leases_never_exceed_the_quota(both: Engine) -> None:
    book = LeaseBook(both)
    key = QuotaKey("acme", "tokens", START)
    first = book.take(key, 10, lease_id="a", holder="one", needed=6 * U)
    assert (first.quantity, first.remaining, first.holders) == (6 * U, 4 * U, 0)
    assert book.take(key, 10, lease_id="b", holder="two", needed=5 * U).quantity == 0
    assert book.take(key, 10, lease_id="b", holder="two", needed=4 * U).quantity == 4 * U
    assert book.granted(key) == (10, 10)
    book.settle(key, "a", 2 * U)
    assert book.granted(key) == (10, 6)
    again = book.take(key, 10, lease_id="c", holder="one", needed=4 * U)
    assert (again.quantity, again.holders) == (4 * U, 1)


def test_a_lost_answer_is_asked_for_again_and_grants_once(both: Engine) -> None:
    book = LeaseBook(both)
    key = QuotaKey("acme", "tokens", START)
    first = book.take(key, 10, lease_id="a", holder="one", needed=6 * U)
    assert book.take(key, 10, lease_id="a", holder="one", needed=3 * U).quantity == first.quantity
    grown = book.renew(key, "a", held=6 * U, spent=2 * U, needed=3 * U)
    assert grown.quantity == 9 * U
    # The answer was lost: its holder still counts 6.
    assert book.renew(key, "a", held=6 * U, spent=3 * U).quantity == 6 * U
    assert book.granted(key) == (10, 6)
    assert book.give_back(key, "a", keep=3 * U, spent=3 * U).quantity == 3 * U
    for _ in range(2):
        book.settle(key, "a", 3 * U)
    assert book.granted(key) == (10, 3)
    with pytest.raises(LeaseLost):
        book.take(key, 10, lease_id="a", holder="one", needed=U)
    with pytest.raises(LeaseLost):
        book.renew(key, "a", held=3 * U, spent=3 * U)


def test_a_lease_of_the_dead_counts_in_full_and_usage_says_what_it_was(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    book.take(KEY, 10, lease_id="dead", holder="one", needed=6 * U)
    clock.advance(timedelta(days=1))
    # Its holder has not come back for a day. It may have spent all of it; nothing is granted twice.
    assert book.take(KEY, 10, lease_id="b", holder="two", needed=5 * U).quantity == 0
    late = book.take(KEY, 10, lease_id="b", holder="two", needed=4 * U)
    assert (late.quantity, late.holders) == (4 * U, 0)
    with pytest.raises(EntitlementError, match="not over"):
        book.reconcile(KEY, Decimal(7))
    clock.advance(timedelta(days=60))
    done = book.reconcile(KEY, Decimal(7))
    assert (done.granted, done.metered, done.unused, done.ungranted) == (10, 7, 3, 0)
    assert book.reconcile(KEY, Decimal("10.5")).ungranted == Decimal("0.5")


def test_a_live_holder_may_settle_after_the_expiry(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    book.take(KEY, 10, lease_id="a", holder="one", needed=6 * U)
    clock.advance(timedelta(hours=1))
    book.settle(KEY, "a", U)
    assert granted(books) == 1


def test_nothing_is_granted_of_a_window_that_is_over_and_no_lease_outlives_it(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    end = START + timedelta(days=4, seconds=10)
    key = QuotaKey("acme", "tokens", START, end)
    assert book.take(key, 10, lease_id="a", holder="one", needed=U).valid_s == 10
    clock.advance(timedelta(seconds=10))
    assert book.take(key, 10, lease_id="b", holder="one", needed=U).quantity == 0
    assert book.renew(key, "a", held=U, spent=U, needed=U).quantity == U


def test_a_changed_quota_holds_for_all(both: Engine) -> None:
    book = LeaseBook(both)
    key = QuotaKey("acme", "tokens", START)
    book.take(key, 10, lease_id="a", holder="one", needed=6 * U)
    book.set_quota(key, 4)
    assert book.take(key, 10, lease_id="b", holder="two", needed=U).quantity == 0
    book.set_quota(key, Decimal("6.5"))
    assert book.take(key, 10, lease_id="b", holder="two", needed=U // 2).quantity == U // 2
    assert book.granted(key) == (Decimal("6.5"), Decimal("6.5"))


def test_more_than_was_granted_cannot_have_been_spent(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    book.take(KEY, 10, lease_id="a", holder="one", needed=6 * U)
    with pytest.raises(EntitlementError, match="cannot have been spent"):
        book.settle(KEY, "a", 7 * U)
    with pytest.raises(EntitlementError, match="only what was granted"):
        book.renew(KEY, "a", held=7 * U, spent=U)
    assert granted(books) == 6


def test_old_windows_are_forgotten_with_their_leases(both: Engine) -> None:
    # Of no clock but that of the books: PostgreSQL's own.
    now = datetime.now(UTC)
    clock = FixedClock(now)
    book = LeaseBook(both, clock)
    key = QuotaKey("acme", "t", now - timedelta(days=1), now + timedelta(seconds=1))
    book.take(key, 10, lease_id="a", holder="", needed=U)
    assert book.prune(timedelta(0)) == 0
    with both.begin() as connection:
        connection.execute(update(quotas).values(window_end=now - timedelta(hours=2)))
    assert book.prune(timedelta(hours=3)) == 0
    assert book.prune(timedelta(hours=1), tenant="acme", feature="other") == 0
    assert book.prune(timedelta(hours=1), tenant="acme", feature="t") == 1
    with both.connect() as connection:
        assert connection.execute(select(func.count()).select_from(leases)).scalar_one() == 0


@pytest.mark.parametrize("statement", ["UPDATE quotas", "INSERT INTO leases"])
def test_a_database_that_fails_in_mid_transaction_grants_nothing(both: Engine, statement: str) -> None:
    book = LeaseBook(both)
    key = QuotaKey("acme", "tokens", START)
    book.take(key, 10, lease_id="a", holder="one", needed=U)

    def fail(_connection: object, _cursor: object, text: str, *_rest: object) -> None:
        if text.startswith(statement):
            raise OperationalError(text, None, RuntimeError("the server went away"))

    event.listen(both, "after_cursor_execute", fail)
    with pytest.raises(BooksUnavailable):
        book.take(key, 10, lease_id="b", holder="two", needed=U)
    event.remove(both, "after_cursor_execute", fail)
    assert book.granted(key) == (10, 1)
    assert book.take(key, 10, lease_id="b", holder="two", needed=U).quantity == U


def test_books_whose_transactions_do_not_exclude_each_other_grant_nothing_twice(books: Engine) -> None:
    """An engine without BEGIN IMMEDIATE reads first and locks later; what changed in between is not overwritten."""
    careless = create_engine(books.url)
    key = QuotaKey("acme", "tokens", START)
    LeaseBook(books).take(key, 10, lease_id="a", holder="one", needed=U)

    to_do = ["take"]

    def take_in_between(_connection: object, _cursor: object, text: str, *_rest: object) -> None:
        if "FROM leases" in text and to_do:
            to_do.clear()
            LeaseBook(books).take(key, 10, lease_id="b", holder="two", needed=8 * U)

    event.listen(careless, "after_cursor_execute", take_in_between)
    with pytest.raises(EntitlementError, match="changed while it was locked"):
        LeaseBook(careless).take(key, 10, lease_id="c", holder="three", needed=8 * U)
    careless.dispose()
    assert LeaseBook(books).granted(key) == (10, 9)


# The process


def test_spending_is_local_and_what_is_left_returns(both: Engine) -> None:
    book = LeaseBook(both)
    with HardQuota(book, tenant="acme", feature="tokens", quota=100, window=forever(START)) as quota:
        for number in range(1, 6):
            decision = quota.spend()
            assert (decision.allowed, decision.reason) == (True, "lease_granted")
            assert (decision.limit, decision.used, decision.remaining) == (100, number, 100 - number)
        assert quota.spend("0.5").used == Decimal("5.5")
        assert 5 < granted(both) <= 100
    assert granted(both) == Decimal("5.5")
    with pytest.raises(ValueError, match="was closed"):
        quota.spend()


def test_the_last_unit_is_granted_and_not_one_more(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    one, two = quota_of(book, clock, 10), quota_of(book, clock, 10)
    spent = [quota.spend() for _ in range(10) for quota in (one, two)]
    assert sum(decision.allowed for decision in spent) == 10
    assert {decision.reason for decision in spent if not decision} <= {"quota_exhausted", "lease_refused"}
    assert granted(books) == 10
    one.close()
    two.close()
    alone = quota_of(book, clock, 10)
    assert alone.spend().reason == "quota_exhausted"
    assert alone.spend(0).allowed is False or granted(books) == 10


def test_what_one_process_does_not_need_reaches_another(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    idle, busy = quota_of(book, clock, 16), quota_of(book, clock, 16)
    assert idle.spend()
    while busy.spend():
        pass
    assert granted(books) == 16
    # Nothing is spent between two ticks, and half of the time of the lease is over.
    idle.tend()
    clock.advance(timedelta(seconds=16))
    idle.tend()
    while busy.spend():
        pass
    busy.close()
    assert granted(books) == 16
    with books.connect() as connection:
        assert connection.execute(select(func.sum(leases.c.spent))).scalar_one() == 16


def test_an_expired_lease_is_not_spent(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    quota = quota_of(book, clock, 100)
    assert quota.spend()
    before = quota.counts().refills
    clock.advance(timedelta(seconds=29, milliseconds=500))  # valid for 30 s, less the margin of 1 s
    assert quota.spend()
    assert quota.counts().refills == before + 1
    quota.close()
    assert granted(books) == 2


def test_a_new_window_begins_with_a_new_quota(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    quota = HardQuota(book, tenant="acme", feature="tokens", quota=2, window=every(timedelta(days=1)), clock=clock)
    assert [quota.spend().allowed for _ in range(3)] == [True, True, False]
    clock.advance(timedelta(days=1))
    decision = quota.spend()
    assert decision.allowed
    assert decision.resets_at == START + timedelta(days=6)


def test_a_top_up_lets_the_refused_go_on_at_once(books: Engine, clock: FixedClock) -> None:
    quota = quota_of(LeaseBook(books, clock), clock, 1)
    assert [quota.spend().allowed for _ in range(2)] == [True, False]
    quota.set_quota(2)
    assert [quota.spend().allowed for _ in range(2)] == [True, False]


def test_a_rate_limit_is_per_second_over_all_and_apart_from_the_quota(books: Engine, clock: FixedClock) -> None:
    book = LeaseBook(books, clock)
    with (
        rate_limit(book, tenant="acme", feature="tokens", quantity=3, clock=clock) as one,
        rate_limit(book, tenant="acme", feature="tokens", quantity=3, clock=clock) as two,
        quota_of(book, clock, 100) as month,
    ):
        for _ in range(3):
            answers = [limit.spend() for _ in range(4) for limit in (one, two)]
            assert sum(answer.allowed for answer in answers) == 3
            refused = next(answer for answer in answers if not answer)
            assert refused.reason == "rate_limited"
            assert month.spend().limit == 100
            clock.advance(timedelta(seconds=1))
    clock.advance(timedelta(days=1))
    assert LeaseBook(books, clock).prune(timedelta(hours=1), feature="tokens (rate)") == 3


def test_a_host_whose_clock_is_ahead_forgets_no_window_that_others_are_in(both: Engine, clock: FixedClock) -> None:
    """The limit of a window that is forgotten while it goes on would be granted a second time."""
    now, hour = datetime.now(UTC), timedelta(hours=1)
    books_clock, ahead = FixedClock(now), FixedClock(now + 7 * hour)
    book = LeaseBook(both, books_clock)

    def in_time() -> HardQuota:
        return HardQuota(
            book, tenant="acme", feature="tokens", quota=3, window=lambda _now: (now - hour, now + hour),
            refusal="rate_limited", clock=books_clock,
        )  # fmt: skip

    assert [quota.spend().allowed for quota in [in_time()] * 4] == [True, True, True, False]
    wrong = rate_limit(book, tenant="acme", feature="tokens", quantity=3, clock=ahead)
    for _ in range(3):
        # Old windows are looked for once a minute.
        ahead.advance(timedelta(minutes=2))
        wrong.spend()
        wrong.tend()
    assert not in_time().spend()


def test_consuming_records_what_it_spends(books: Engine, clock: FixedClock, tmp_path: Path) -> None:
    with Recorder(tmp_path / "data", ship="none") as usage:
        with quota_of(LeaseBook(books, clock), clock, 3, record=usage.bind("tokens", tenant="acme").add) as quota:
            assert [quota.consume().allowed for _ in range(5)] == [True, True, True, False, False]
        assert usage.ship_now().rows == 3


def test_a_record_that_fails_returns_the_spend(books: Engine, clock: FixedClock) -> None:
    quota = quota_of(LeaseBook(books, clock), clock, 3)

    def full(_quantity: object) -> None:
        raise JournalFull("the disk is full")

    for _ in range(10):
        with pytest.raises(JournalFull):
            quota.consume(record=full)
    kept: list[object] = []
    assert quota.consume(3, record=kept.append)
    assert kept == [3]
    assert not quota.consume(record=kept.append)
    assert kept == [3]


def test_an_interrupt_lets_the_spend_stand(books: Engine, clock: FixedClock) -> None:
    quota = quota_of(LeaseBook(books, clock), clock, 3)

    def interrupted(_quantity: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quota.consume(2, record=interrupted)
    quota.close()
    assert granted(books) == 2


def test_what_is_taken_back_is_not_the_business_of_a_lease(books: Engine, clock: FixedClock) -> None:
    with pytest.raises(BadEvent, match="a hard limit is only spent; record what is taken back with the recorder"):
        quota_of(LeaseBook(books, clock), clock, 3).spend(-1)


@pytest.mark.parametrize("quantity", [-1, True, 1.5, "1e3", Decimal("0.0000000001")])
def test_what_is_no_quantity_is_not_spent(books: Engine, clock: FixedClock, quantity: object) -> None:
    with pytest.raises(BadEvent):
        quota_of(LeaseBook(books, clock), clock, 3).spend(quantity)  # type: ignore[arg-type]


def test_while_the_books_are_away_a_lease_is_spent_and_then_what_was_declared_holds(
    books: Engine, clock: FixedClock
) -> None:
    book = LeaseBook(books, clock)
    closed, opened = quota_of(book, clock, 100), quota_of(book, clock, 100, when_away="open")
    assert closed.spend(2)
    assert opened.spend(2)

    def fail(*_arguments: object) -> None:
        raise OperationalError("BEGIN", None, RuntimeError("the server went away"))

    event.listen(books, "before_cursor_execute", fail)
    assert closed.spend(2).reason == "lease_granted"
    for _ in range(3):
        assert closed.spend(50).reason == "books_away_closed"
        through = opened.spend(50)
        assert (through.allowed, through.reason) == (True, "books_away_open")
    assert (closed.counts().away, closed.counts().let_through) == (3, 0)
    assert (opened.counts().away, opened.counts().let_through) == (3, 150)
    assert isinstance(opened.counts().trouble, BooksUnavailable)
    event.remove(books, "before_cursor_execute", fail)
    clock.advance(timedelta(seconds=1))
    assert closed.spend(50).reason == "lease_granted"
    assert closed.counts().trouble is None


def test_a_lease_whose_answer_was_lost_is_found_again(books: Engine, clock: FixedClock) -> None:
    quota = quota_of(LeaseBook(books, clock), clock, 10)

    def lose(_connection: object) -> None:
        raise OperationalError("COMMIT", None, RuntimeError("the answer was lost"))

    event.listen(books, "commit", commit_then := CommitThen(lose))
    assert quota.spend(10).reason == "books_away_closed"
    event.remove(books, "commit", commit_then)
    assert granted(books) == 10
    clock.advance(timedelta(seconds=1))
    assert quota.spend(10).reason == "lease_granted"
    assert granted(books) == 10


class CommitThen:
    """Commits, and then fails: what a client sees whose server answered into a dead connection."""

    def __init__(self, fail: object) -> None:
        self._fail = fail

    def __call__(self, connection: object) -> None:
        connection.connection.driver_connection.execute("COMMIT")  # type: ignore[attr-defined]
        self._fail(connection)  # type: ignore[operator]


def test_threads_spend_what_there_is_together(books: Engine) -> None:
    with HardQuota(LeaseBook(books), tenant="acme", feature="tokens", quota=2000, window=forever(START)) as quota:
        barrier = threading.Barrier(4)

        def run(_number: int) -> int:
            barrier.wait()
            return sum(quota.spend().allowed for _ in range(1000))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(run, range(4))) == 2000
    assert granted(books) == 2000


def test_a_child_of_a_fork_begins_without_a_lease(both: Engine) -> None:
    quota = HardQuota(LeaseBook(both), tenant="acme", feature="tokens", quota=20, window=forever(START))
    assert quota.spend(5)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        spent = 0
        try:
            while quota.spend():
                spent += 1
            quota.close()
        finally:
            os.write(writer, str(spent).encode())
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    spent_by_child = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    spent = 5
    while quota.spend():
        spent += 1
    assert spent + spent_by_child == 20
    quota.close()
    assert granted(both) == 20


# All quotas of a process


def test_a_check_takes_nothing(books: Engine, clock: FixedClock) -> None:
    with quota_of(LeaseBook(books, clock), clock, 3) as quota:
        assert all(quota.check(3) for _ in range(5))
        assert not quota.check(4)
        assert quota.spend(3)
        assert not quota.check()
    assert granted(books) == 3


def test_every_tenant_has_a_quota_of_its_own_and_hears_of_a_top_up(books: Engine, clock: FixedClock) -> None:
    limits = {("acme", "tokens"): 2, ("globex", "tokens"): 1}

    def terms(tenant: str, feature: str) -> HardTerms | None:
        limit = limits.get((tenant, feature))
        return None if limit is None else HardTerms(limit, lambda _now: OCTOBER)

    hard: HardQuotas = LeasedQuotas(LeaseBook(books, clock), terms, clock=clock)
    taken: list[object] = []
    asked = ["acme", "globex", "acme", "acme", "globex", "initech"]
    answers = [hard.consume(tenant, "tokens", 1, taken.append) for tenant in asked]
    assert [answer.allowed for answer in answers] == [True, True, True, False, False, False]
    assert answers[-1].reason == "no_entitlement"
    assert taken == [1, 1, 1]
    limits["acme", "tokens"] = 3
    assert hard.check("acme", "tokens", 1)
    assert hard.consume("acme", "tokens", 1, taken.append)
    assert not hard.check("acme", "tokens", 1)
    hard.close()  # type: ignore[attr-defined]
    assert granted(books) == 4
