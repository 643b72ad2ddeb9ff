"""The burn-down against a slow walk through time, in pieces, and in the worked example of the price models, section 8."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entitlements.burndown import Grant, Run, State, Used, burn_down, burn_order, ceiling, in_units_of
from metering.periods import BillingCycle
from tests.oracle_grants import Row, walk, walked

DAY_0 = datetime(2026, 3, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    return DAY_0 + timedelta(days=number)


def test_the_worked_example() -> None:
    """A 100, priority 1, until day 10; B 50, rollover 20 to 30; 70 on day 2, 60 on day 12; reset on day 15, overage kept."""
    grants = [
        Grant("A", Decimal(100), day(0), priority=1, expires_at=day(10)),
        Grant("B", Decimal(50), day(0), priority=2, rollover_min=Decimal(20), rollover_max=Decimal(30)),
    ]
    usage = [Used(day(2), Decimal(70)), Used(day(12), Decimal(60))]
    start = State(day(0), {"A": Decimal(100), "B": Decimal(50)})
    run = burn_down(grants, usage, start, day(15), resets=[day(15)], keep_overage=True)
    assert run.state == State(day(15), {"A": Decimal(0), "B": Decimal(10)}, granted_usage=Decimal(10))
    shown = [(one.usage, dict(one.burned), one.overage, one.is_reset) for one in run.segments]
    assert shown == [
        (Decimal(70), {"A": Decimal(70)}, Decimal(0), False),
        (Decimal(60), {"B": Decimal(50)}, Decimal(10), False),
        (Decimal(0), {"B": Decimal(10)}, Decimal(0), True),
        (Decimal(0), {}, Decimal(0), False),
    ]


def test_a_default_allowance_is_exactly_full_at_each_reset() -> None:
    allowance = Grant("a", Decimal(100), day(0), rollover_min=Decimal(100), rollover_max=Decimal(100))
    run = burn_down([allowance], [Used(day(1), Decimal(130))], State(day(0)), day(8), resets=[day(7)])
    assert (run.state.balance, run.state.overage, run.state.usage) == (100, 0, 0)


@pytest.mark.parametrize("cuts", [[], [3], [3, 5, 6]])
def test_use_that_is_taken_back_gives_back_what_it_burned_in_its_segment(cuts: list[int]) -> None:
    """A 40 until day 10 and B 40. 50 on day 2, 30 back on day 5: A keeps 20, B all, wherever the run was cut."""
    grants = [Grant("A", Decimal(40), day(0), expires_at=day(10)), Grant("B", Decimal(40), day(0))]
    usage = [Used(day(2), Decimal(50)), Used(day(5), Decimal(-30))]
    state = State(day(0))
    for cut in (*cuts, 8):
        run = burn_down(grants, usage, state, day(cut))
        state = run.state
        for one in run.accounts.values():
            assert one.brought + one.given == one.used + one.remaining + one.expired + one.voided
    assert state == State(
        day(8), {"A": Decimal(20), "B": Decimal(40)}, usage=Decimal(20), granted_usage=Decimal(20), burned={"A": Decimal(20)}
    )  # fmt: skip


def test_use_that_is_taken_back_later_pays_for_use_to_come() -> None:
    """A is gone, so 30 of what it paid are over below zero: of 40 on day 12, B pays 10."""
    grants = [Grant("A", Decimal(40), day(0), expires_at=day(10)), Grant("B", Decimal(40), day(0))]
    usage = [Used(day(2), Decimal(40)), Used(day(11), Decimal(-30)), Used(day(12), Decimal(40))]
    states = [burn_down(grants, usage, State(day(0)), day(until)).state for until in (12, 13)]
    assert [(one.balances["B"], one.overage, one.usage) for one in states] == [(40, -30, 10), (30, 0, 50)]


def test_a_run_that_stops_where_a_grant_begins_and_another_recurs_goes_on_as_one_that_did_not() -> None:
    """5 are over when B begins, which burns first, and A is full again: B pays them, also if somebody looked just then."""
    every_other_day = BillingCycle("day", DAY_0.replace(tzinfo=None), "UTC", 2)
    grants = [
        Grant("A", Decimal(10), day(0), priority=2, recurrence=every_other_day),
        Grant("B", Decimal(40), day(2), priority=1),
    ]
    usage = [Used(day(1), Decimal(15))]
    middle = burn_down(grants, usage, State(day(0)), day(2)).state
    for start in (State(day(0)), middle):
        assert burn_down(grants, usage, start, day(3)).state.balances == {"A": 10, "B": 35}


def test_of_grants_that_are_alike_in_all_else_the_id_decides() -> None:
    grants = [Grant(name, Decimal(1), day(0)) for name in "cab"]
    assert [one.id for one in burn_order(grants)] == ["a", "b", "c"]


def test_no_digit_is_lost() -> None:
    """29 digits before the point and 9 behind it are more than Python's decimals keep unasked."""
    most = Decimal("12345678901234567890123456789.123456789")
    grant = Grant("a", most, day(0), rollover_max=most)
    usage = [Used(day(1), Decimal("0.000000001")), Used(day(3), most)]
    run = burn_down([grant], usage, State(day(0)), day(4), resets=[day(2)])
    assert run.segments[0].balances_at_end == {"a": Decimal("12345678901234567890123456789.123456788")}
    assert (run.state.overage, run.accounts["a"].used) == (Decimal("0.000000001"), most)
    left = ceiling([grant], Decimal("12345678901234567890123456789.123456788"), day(1))
    assert left.balances == {"a": Decimal("0.000000001")}
    assert in_units_of(Decimal("123456789012345678901234567891.23456789"), Decimal(10)) == most


@pytest.mark.parametrize(("until", "resets"), [(-1, []), (5, [0]), (5, [6])])
def test_time_runs_forward(until: int, resets: list[int]) -> None:
    with pytest.raises(ValueError, match="runs forward"):
        burn_down([], [], State(day(0)), day(until), resets=[day(number) for number in resets])


amounts = st.integers(0, 60).map(Decimal)
# Some use is taken back.
quantities = st.integers(-20, 60).map(Decimal)
# Few quarters of days, so that instants meet.
instants = st.integers(0, 16).map(lambda quarters: day(quarters / 4))


@st.composite
def grants_of(draw: st.DrawFn) -> Row:
    grant: Row = {
        "id": draw(st.sampled_from("abcdefgh")),
        "amount": draw(amounts),
        "priority": draw(st.integers(0, 1)),
        "from": draw(st.integers(-2, 14).map(lambda quarters: day(quarters / 4))),
        "min": draw(amounts),
        "max": draw(amounts),
        "created_at": draw(st.none() | instants),
    }
    for name in ("expires_at", "voided_at"):
        if draw(st.booleans()):
            grant[name] = grant["from"] + timedelta(days=draw(st.integers(0, 12)) / 4)
    if draw(st.booleans()):
        grant |= {"every_days": draw(st.integers(1, 2)), "anchor": draw(instants)}
    return grant


def made(row: Row) -> Grant:
    cycle = None
    if "every_days" in row:
        cycle = BillingCycle("day", row["anchor"].replace(tzinfo=None), "UTC", row["every_days"])
    return Grant(
        row["id"], row["amount"], row["from"], row["priority"], row.get("expires_at"), row.get("voided_at"),
        row["created_at"], cycle, row["min"], row["max"],
    )  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> dict[str, Any]:
    grants = draw(st.lists(grants_of(), max_size=4, unique_by=lambda grant: grant["id"]))
    usage = sorted(draw(st.lists(st.tuples(instants, quantities), max_size=8)), key=lambda one: one[0])
    until = draw(instants)
    resets = sorted({at for at in draw(st.lists(instants, max_size=3)) if day(0) < at <= until})
    # All resets keep what is over, or none, or some of them.
    keep = draw(st.booleans() | st.lists(st.sampled_from(resets), unique=True)) if resets else draw(st.booleans())
    return {"grants": grants, "usage": usage, "until": until, "resets": resets, "keep": keep}


def run_of(history: dict[str, Any], start: State, until: datetime) -> Run:
    usage = [Used(at, quantity) for at, quantity in history["usage"]]
    resets = [at for at in history["resets"] if start.at < at <= until]
    return burn_down(
        [made(row) for row in history["grants"]], usage, start, until, resets=resets, keep_overage=history["keep"]
    )


@given(histories())
def test_a_burn_down_is_a_slow_walk_through_time(history: dict[str, Any]) -> None:
    run = run_of(history, State(day(0)), history["until"])
    nothing: Row = {"at": day(0), "balances": {}, "overage": Decimal(0), "usage": Decimal(0), "paid": Decimal(0)}
    slow = walk(history["grants"], history["usage"], nothing, history["until"], history["resets"], history["keep"])
    state = run.state
    found = {
        "balances": dict(state.balances), "overage": state.overage, "usage": state.usage, "paid": state.granted_usage,
    }  # fmt: skip
    # A run of no length returns its start, which says nothing of the grants.
    assert history["until"] == day(0) or found == slow


@given(histories(), instants)
def test_in_pieces_from_any_stored_state_it_is_the_same(history: dict[str, Any], cut: datetime) -> None:
    whole = run_of(history, State(day(0)), history["until"]).state
    middle = run_of(history, State(day(0)), min(cut, history["until"])).state
    assert run_of(history, middle, history["until"]).state == whole


# Use of before the cut is taken back after it: in that piece less than nothing is used.
@example(
    {
        "grants": [
            {"id": "a", "amount": Decimal(1), "priority": 0, "from": day(0), "min": Decimal(0), "max": Decimal(0),
             "created_at": None, "every_days": 1, "anchor": day(0)},
        ],
        "usage": [(day(0), Decimal(3)), (day(2), Decimal(-1))], "until": day(2.25), "resets": [], "keep": False,
    },
    [day(2)],
)  # fmt: skip
@given(histories(), st.lists(instants, max_size=3))
def test_given_is_used_and_remaining_and_expired_and_voided(history: dict[str, Any], cuts: list[datetime]) -> None:
    """Of every grant, over the whole history, and from every state that was stored on the way; the walk counts the same."""
    until = history["until"]
    whole = run_of(history, State(day(0)), until)
    nothing: Row = {"at": day(0), "balances": {}, "overage": Decimal(0), "usage": Decimal(0), "paid": Decimal(0)}
    slow = walked(history["grants"], history["usage"], nothing, until, history["resets"], history["keep"])
    state, parts = State(day(0)), []
    for cut in sorted({*(cut for cut in cuts if cut < until), until}):
        run = run_of(history, state, cut)
        assert {name: one.brought for name, one in run.accounts.items()} == {
            **{name: Decimal(0) for name in run.accounts},
            **state.balances,
        }
        parts.append(run.accounts)
        state = run.state
        # A piece may take back what earlier ones used, and no more than that.
        for name in run.accounts:
            assert sum((part[name].used for part in parts if name in part), Decimal(0)) >= 0
    for accounts in (whole.accounts, *parts):
        for one in accounts.values():
            assert one.brought + one.given == one.used + one.remaining + one.expired + one.voided
            assert min(one.brought, one.given, one.remaining, one.expired, one.voided) >= 0
    if until == day(0):
        return
    for name, one in whole.accounts.items():
        lost = {what: slow.taken[what][name] for what in ("used", "expired", "voided")}
        assert {"given": one.given, "used": one.used, "expired": one.expired, "voided": one.voided} == {
            "given": slow.given[name],
            **lost,
        }
        assert one.remaining == whole.state.balances[name] == slow.left[name]
        pieces = [part[name] for part in parts if name in part]
        for what in ("given", "used", "expired", "voided"):
            assert sum((getattr(piece, what) for piece in pieces), Decimal(0)) == getattr(one, what)


@given(histories())
def test_what_was_used_was_burned_or_is_over(history: dict[str, Any]) -> None:
    """usage + overage before = burned + overage after; a balance falls by what was burned of it, and by nothing else."""
    overage = Decimal(0)
    for segment in run_of(history, State(day(0)), history["until"]).segments:
        keep = history["keep"] if isinstance(history["keep"], bool) else segment.start in history["keep"]
        before = overage if not segment.is_reset or keep else Decimal(0)
        assert segment.usage + before == sum(segment.burned.values(), Decimal(0)) + segment.overage
        overage = segment.overage
        assert all(balance >= 0 for balance in segment.balances_at_end.values())
        if not segment.is_reset:
            assert segment.balances_at_end == {
                name: balance - segment.burned.get(name, Decimal(0))
                for name, balance in segment.balances_at_start.items()
            }
