"""Checks from memory: what they answer, what consuming changes, and what holds while the source is away."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from entitlements.checker import Checker
from entitlements.decisions import Decision
from entitlements.view import FixedSource, View
from metering.clock import SystemClock
from metering.errors import BadEvent
from metering.in_flight import in_flight
from metering.lake import Lake
from metering.recorder import Recorder
from metering.ship import ship
from tests.entitlements.views import RESETS_AT, Shelf, figures, rule_of, static_view, view_of


@pytest.fixture
def usage(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path, ship="none") as recorder:
        yield recorder


def checker(view: View, recorder: Recorder | None = None, **settings: Any) -> Checker:
    return Checker(FixedSource(view), recorder, refresh_interval_s=3600, stale_after_s=7200, **settings)


def rows(recorder: Recorder) -> int:
    return sum(batch.rows for batch in in_flight(recorder.layout, None, SystemClock().now_us()))


def test_boolean_and_static_features() -> None:
    entitled = checker(static_view())
    assert entitled.check("acme", "sso").reason == "granted"
    assert entitled.check("acme", "seats").value == 25
    assert entitled.check("acme", "beta").reason == "switched_off"
    assert entitled.check("acme", "other").reason == "no_entitlement"
    assert not entitled.check("nobody", "sso")


def test_a_feature_of_another_time_is_not_effective() -> None:
    assert checker(view_of(rule_of())).check("acme", "soon").reason == "not_effective"


@pytest.mark.parametrize(
    ("keys", "quantity", "allowed", "reason"),
    [
        ({}, 3, True, "within_quota"),
        ({}, 4, True, "soft_limit_exceeded"),
        ({}, 0, True, "within_quota"),
        ({"overage": "blocked"}, 3, True, "within_quota"),
        ({"overage": "blocked"}, Decimal("3.000000001"), False, "quota_exhausted"),
        ({"overage": "blocked"}, Decimal("3.0"), True, "within_quota"),
        ({"limit": "hard"}, 1, False, "lease_refused"),
    ],
)
def test_a_quota(keys: dict[str, str], quantity: int | Decimal, allowed: bool, reason: str) -> None:
    decision = checker(view_of(rule_of(**keys), figures(10, 7))).check("acme", "tokens", quantity)
    assert (decision.allowed, decision.reason) == (allowed, reason)
    assert (decision.limit, decision.used, decision.remaining, decision.resets_at) == (10, 7, 3, RESETS_AT)


def test_nothing_left_is_said_also_when_nothing_is_asked_for() -> None:
    entitled = checker(view_of(rule_of(overage="blocked"), figures(10, 10)))
    assert entitled.check("acme", "tokens", 0).reason == "quota_exhausted"


@pytest.mark.parametrize(
    ("fold", "consumed", "used", "next_one"),
    [
        ("adds", [2, 3], 9, (True, False)),
        ("counts", [500, 500], 6, (True, True)),
        ("raises", [8, 5], 8, (True, True)),
        ("sets", [8, 5], 5, (True, True)),
    ],
)
def test_what_this_process_used_counts_as_the_meter_counts(
    usage: Recorder, fold: Any, consumed: list[int], used: int, next_one: tuple[bool, bool]
) -> None:
    entitled = checker(view_of(rule_of(fold, overage="blocked"), figures(10, 4)), usage)
    for quantity in consumed:
        assert entitled.consume("acme", "tokens", quantity)
    assert entitled.check("acme", "tokens").used == used
    assert (entitled.check("acme", "tokens", 1).allowed, entitled.check("acme", "tokens", 2).allowed) == next_one
    assert rows(usage) == len(consumed)


def test_a_ceiling_stops_the_level_not_the_sum(usage: Recorder) -> None:
    entitled = checker(view_of(rule_of("raises", overage="blocked"), figures(10, 4)), usage)
    assert [entitled.consume("acme", "tokens", size).allowed for size in (10, 10, 11)] == [True, True, False]


def test_a_level_may_be_set_to_nothing(usage: Recorder) -> None:
    entitled = checker(view_of(rule_of("sets"), figures(10, 4)), usage)
    assert entitled.check("acme", "tokens").used == 4
    assert entitled.consume("acme", "tokens", 0).used == 0


def test_what_is_refused_is_not_recorded(usage: Recorder) -> None:
    entitled = checker(view_of(rule_of(overage="blocked")), usage)
    answers = [entitled.consume("acme", "tokens", 4, key=f"k{number}", model="m") for number in range(4)]
    assert [one.allowed for one in answers] == [True, True, False, False]
    assert [one.remaining for one in answers] == [6, 2, 2, 2]
    assert rows(usage) == 2


def test_overage_is_recorded_and_told(usage: Recorder) -> None:
    entitled = checker(view_of(rule_of(), figures(10, 9)), usage)
    decision = entitled.consume("acme", "tokens", 3)
    assert (decision.allowed, decision.reason, decision.overage) == (True, "soft_limit_exceeded", 2)
    assert rows(usage) == 1


def test_what_cannot_be_recorded_is_not_counted(usage: Recorder) -> None:
    entitled = checker(view_of(rule_of()), usage)
    with pytest.raises(TypeError, match="exact"):
        entitled.consume("acme", "tokens", 0.5)  # type: ignore[arg-type]
    with pytest.raises(BadEvent):
        entitled.consume("acme", "tokens", 1, key="")
    assert entitled.check("acme", "tokens").used == 0


def test_own_use_is_kept_until_a_cut_includes_it(usage: Recorder) -> None:
    shelf = Shelf(view_of(rule_of()))
    entitled = Checker(shelf, usage, refresh_interval_s=3600, stale_after_s=7200)
    lake = Lake(usage.layout.lake)
    entitled.consume("acme", "tokens", 2)
    entitled.refresh()
    assert entitled.check("acme", "tokens").used == 2, "not in the lake yet"
    usage.seal()
    ship(usage.layout, lake, SystemClock())
    entitled.consume("acme", "tokens", 3)
    shelf.move(lake.cut(), figures(10, 2))
    entitled.refresh()
    assert entitled.check("acme", "tokens").used == 5, "2 of the lake, 3 of its own"
    usage.seal()
    ship(usage.layout, lake, SystemClock())
    shelf.move(lake.cut(), figures(10, 5))
    entitled.refresh()
    assert entitled.check("acme", "tokens").used == 5


def test_threads_never_consume_more_than_is_left(usage: Recorder) -> None:
    entitled = checker(view_of(rule_of(overage="blocked"), figures(1000)), usage)
    let_through: list[int] = []

    def work() -> None:
        let_through.append(sum(entitled.consume("acme", "tokens").allowed for _ in range(500)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(let_through) == 1000 == rows(usage)


# --- the source is away -----------------------------------------------------------------------------------------------


def test_the_last_view_holds_until_it_is_too_old() -> None:
    shelf = Shelf(static_view())
    entitled = Checker(shelf, refresh_interval_s=0.01, stale_after_s=0.05)
    assert entitled.check("acme", "sso").reason == "granted"
    shelf.view = None
    entitled.refresh()
    wait_until(lambda: entitled.check("acme", "sso").reason == "books_away_open")
    assert entitled.check("acme", "vault").reason == "books_away_closed"
    assert entitled.check("acme", "beta").reason == "switched_off", "what is off stays off"
    assert entitled.check("acme", "other").reason == "no_entitlement"
    health = entitled.health()
    assert health.is_away
    assert isinstance(health.error, ConnectionError)
    assert health.answered_open >= 1 == health.answered_closed
    shelf.view = static_view()
    entitled.refresh()
    assert entitled.check("acme", "vault").reason == "granted"
    entitled.close()


def wait_until(is_so: Any) -> None:
    turn = threading.Event()
    for _ in range(500):
        if is_so():
            return
        turn.wait(0.01)
    pytest.fail("it never came")


def test_what_is_let_through_in_an_outage_is_recorded(usage: Recorder) -> None:
    shelf = Shelf(view_of(rule_of(), figures(10, 10)))
    entitled = Checker(shelf, usage, refresh_interval_s=0.01, stale_after_s=0.02)
    entitled.start()
    shelf.view = None
    wait_until(lambda: entitled.check("acme", "tokens").reason == "books_away_open")
    assert entitled.consume("acme", "tokens", 5).reason == "books_away_open"
    assert rows(usage) == 1
    entitled.close()


@pytest.mark.parametrize(("on_unknown", "reason"), [("open", "books_away_open"), ("closed", "books_away_closed")])
def test_before_there_was_ever_a_view(on_unknown: Any, reason: str) -> None:
    entitled = Checker(Shelf(None), on_unknown=on_unknown)
    assert entitled.check("acme", "sso").reason == reason
    entitled.close()


def test_it_is_refreshed_in_the_background() -> None:
    shelf = Shelf(view_of(rule_of()))
    with Checker(shelf, refresh_interval_s=0.01, stale_after_s=60) as entitled:
        assert entitled.check("acme", "tokens").used == 0
        shelf.move({}, figures(10, 6))
        wait_until(lambda: entitled.check("acme", "tokens").used == 6)


# --- frameworks of work -----------------------------------------------------------------------------------------------


def test_the_async_twins_say_the_same(usage: Recorder) -> None:
    async def work() -> tuple[Decision, Decision]:
        entitled = checker(view_of(rule_of()), usage)
        return await entitled.consume_async("acme", "tokens", 4), await entitled.check_async("acme", "tokens")

    consumed, checked = asyncio.run(work())
    assert (consumed.remaining, checked.remaining) == (6, 6)


def test_a_forked_child_begins_anew_and_goes_on_refreshing(tmp_path: Path) -> None:
    usage = Recorder(tmp_path, ship="none")
    shelf = Shelf(view_of(rule_of()))
    entitled = Checker(shelf, usage, refresh_interval_s=0.02, stale_after_s=60).start()
    entitled.consume("acme", "tokens", 5)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            is_new = entitled.check("acme", "tokens").used == 0
            consumed = entitled.consume("acme", "tokens", 2).used == 2
            shelf.move({}, figures(10, 7))
            wait_until(lambda: entitled.check("acme", "tokens").used == 9)
            code = 0 if is_new and consumed else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert entitled.check("acme", "tokens").used == 5
    entitled.close()
    usage.close()
