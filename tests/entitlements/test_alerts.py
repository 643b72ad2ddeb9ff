"""Alerts: raised once per crossing and window, told at least once, whoever dies or is away."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from entitlements.alerts import CLAIM, Alert, AlertBook, Level, Threshold, crossing
from entitlements.errors import AlertRefused
from entitlements.leases import QuotaKey
from entitlements.webhook import Webhook
from metering.clock import FixedClock
from metering.errors import Retryable
from tallybook.books import migrate, open_books
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)

START = datetime(2026, 10, 1, tzinfo=UTC)
OCTOBER = QuotaKey("acme", "tokens", START, datetime(2026, 11, 1, tzinfo=UTC))
NOVEMBER = QuotaKey("acme", "tokens", datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
EIGHTY = Threshold("percent", Decimal(80))
FULL = Threshold("percent", Decimal(100))
FIFTY_DOLLARS = Threshold("amount", Decimal("50.00"), "USD")


def at(quantity: str, quota: str | None = "1000") -> Level:
    return Level(Decimal(quantity), None if quota is None else Decimal(quota))


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/books.sqlite" if is_sqlite else request.getfixturevalue("postgres_url")
    engine = open_books(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(START + timedelta(days=4))


@pytest.fixture
def book(books: Engine, clock: FixedClock) -> AlertBook:
    return AlertBook(books, clock, chance=lambda: 0.5)


# What is crossed


@pytest.mark.parametrize(
    ("before", "after", "crossed"),
    [
        ("0", "799.999999999", []),
        ("799.999999999", "800", [EIGHTY]),
        ("800", "801", []),
        ("0", "1000", [EIGHTY, FULL]),
        ("1000", "5000", []),
        ("900", "700", []),
    ],
)
def test_a_threshold_is_crossed_when_it_is_reached(before: str, after: str, crossed: list[Threshold]) -> None:
    assert crossing(at(before), at(after), [EIGHTY, FULL]) == crossed


def test_just_below_is_below_with_any_number_of_digits() -> None:
    quota = "100000000000000000000000000000"
    assert not at("79999999999999999999999999999.999999999", quota).reaches(EIGHTY)
    assert at("80000000000000000000000000000", quota).reaches(EIGHTY)


def test_units_and_money_have_thresholds_too() -> None:
    many = Threshold("quantity", Decimal(5))
    spent = Level(Decimal(5), amount=Decimal("50.00"), currency="USD")
    assert crossing(Level(), spent, [many, FIFTY_DOLLARS]) == [many, FIFTY_DOLLARS]
    assert crossing(Level(), Level(amount=Decimal(60), currency="EUR"), [FIFTY_DOLLARS]) == []


def test_without_a_quota_there_is_no_percentage_and_of_none_any_use_is_too_much() -> None:
    assert crossing(Level(), at("99", quota=None), [EIGHTY]) == []
    assert crossing(at("0", quota="0"), at("0.000000001", quota="0"), [EIGHTY]) == [EIGHTY]
    assert not at("0", quota="0").reaches(EIGHTY)


def test_a_top_up_and_more_use_cross_again_only_for_who_does_not_know() -> None:
    assert crossing(at("800"), at("800", quota="2000"), [EIGHTY]) == []
    assert crossing(at("800", quota="2000"), at("1600", quota="2000"), [EIGHTY]) == [EIGHTY]


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=20))
def test_use_in_pieces_crosses_what_use_at_once_crosses(uses: list[int]) -> None:
    total, seen = 0, []
    for use in uses:
        seen += crossing(at(str(total)), at(str(total + use)), [EIGHTY, FULL])
        total += use
    assert seen == crossing(at("0"), at(str(total)), [EIGHTY, FULL])


@pytest.mark.parametrize(
    ("kind", "value", "currency"),
    [
        ("percent", "0", None),
        ("amount", "5", None),
        ("quantity", "5", "USD"),
        ("share", "5", None),
        ("percent", "NaN", None),
    ],
)
def test_what_is_no_threshold_is_refused(kind: str, value: str, currency: str | None) -> None:
    with pytest.raises(ValueError, match=r"threshold is|has a currency"):
        Threshold(kind, Decimal(value), currency)  # type: ignore[arg-type]


# The books


def test_a_crossing_is_raised_once_per_window(book: AlertBook) -> None:
    (first,) = book.observe(OCTOBER, at("850"), [EIGHTY, FULL])
    assert (first.threshold, first.level) == ("percent:80", 850)
    # Seen again, also after use was taken back and came again.
    assert book.observe(OCTOBER, at("900"), [EIGHTY, FULL]) == []
    assert [one.threshold for one in book.observe(OCTOBER, at("1000"), [EIGHTY, FULL])] == ["percent:100"]
    assert [one.threshold for one in book.observe(NOVEMBER, at("850"), [EIGHTY, FULL])] == ["percent:80"]
    assert len(book.pending()) == 3
    assert first in book.pending()


def test_two_who_see_it_at_once_raise_it_once(books: Engine) -> None:
    barrier = threading.Barrier(4)
    raised: list[Alert] = []

    def see() -> None:
        barrier.wait()
        raised.extend(AlertBook(books).observe(OCTOBER, at("1000"), [EIGHTY, FULL]))

    threads = [threading.Thread(target=see) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.threshold for one in raised) == ["percent:100", "percent:80"]


def test_a_receiver_that_is_away_is_told_later(book: AlertBook, clock: FixedClock) -> None:
    book.observe(OCTOBER, at("1000"), [EIGHTY, FULL])

    def away(_alert: Alert) -> None:
        raise ConnectionError("nobody there")

    done = book.deliver(away)
    assert (done.delivered, len(done.failures)) == (0, 2)
    told: list[str] = []
    assert book.deliver(lambda alert: told.append(alert.threshold)).delivered == 0
    clock.advance(timedelta(seconds=3))
    assert book.deliver(lambda alert: told.append(alert.threshold)).delivered == 2
    assert sorted(told) == ["percent:100", "percent:80"]
    assert book.pending() == []
    assert book.deliver(lambda alert: told.append(alert.threshold)).delivered == 0


def test_who_dies_between_telling_and_noting_tells_again(book: AlertBook, clock: FixedClock) -> None:
    book.observe(OCTOBER, at("850"), [EIGHTY])
    told: list[str] = []

    def dies(alert: Alert) -> None:
        told.append(alert.alert_id)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        book.deliver(dies)
    assert book.deliver(lambda alert: told.append(alert.alert_id)).delivered == 0
    clock.advance(CLAIM)
    assert book.deliver(lambda alert: told.append(alert.alert_id)).delivered == 1
    assert len(told) == 2
    assert len(set(told)) == 1


# The webhook


class Receiver(BaseHTTPRequestHandler):
    got: list[tuple[str, dict[str, str], bytes]] = []  # noqa: RUF012 (of the one server of a test)
    answers: list[int] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, dict(self.headers), body))
        self.send_response(self.answers.pop(0))
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    Receiver.got, Receiver.answers = [], []
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_is_signed_and_retried(book: AlertBook, clock: FixedClock, server: HTTPServer) -> None:
    (alert,) = book.observe(OCTOBER, at("850"), [EIGHTY])
    hook = Webhook(f"http://127.0.0.1:{server.server_port}/alerts?a=1", secret=lambda: b"secret", clock=clock)
    Receiver.answers = [503, 302, 204]
    for _ in range(2):
        (refused,) = book.deliver(hook).failures
        assert isinstance(refused, AlertRefused)
        assert isinstance(refused, Retryable)
        clock.advance(timedelta(minutes=1))
    assert book.deliver(hook).delivered == 1
    assert [path for path, _, _ in Receiver.got] == ["/alerts?a=1"] * 3
    _, headers, body = Receiver.got[-1]
    assert json.loads(body) == alert.as_dict()
    assert headers["Idempotency-Key"] == alert.alert_id
    seconds = clock.now_us() // 1_000_000
    expected = hmac.new(b"secret", f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["Tallybook-Signature"] == f"t={seconds},v1={expected}"


def test_a_host_that_does_not_answer_may_be_asked_again(server: HTTPServer) -> None:
    alert = Alert("id", "acme", "tokens", "percent:80", START, None, Decimal(1), START)
    with pytest.raises(
        AlertRefused, match=r"127.0.0.1 did not answer \(ConnectionRefusedError\); alert id stays pending"
    ):
        Webhook("http://127.0.0.1:1/", secret=lambda: b"secret")(alert)


def test_other_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="begins with https"):
        Webhook("file:///etc/passwd", secret=lambda: b"")
