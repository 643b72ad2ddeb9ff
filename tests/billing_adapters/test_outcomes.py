"""What an answer means and what happens next, as a table; and the two rules that no answer may break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing_adapters.outcomes import MEANINGS, Next, Outcome, Policy, Standing, decide

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
POLICY = Policy(attempts_max=3)


def decided(standing: Standing, outcome: Outcome, *, chance: float = 1.0, now: datetime = NOW, **more: float) -> Next:
    return decide(standing, outcome, "said so", now=now, policy=POLICY, chance=lambda: chance, **more)


@pytest.mark.parametrize(
    ("outcome", "state", "is_uncertain"),
    [
        (Outcome.ACCEPTED, "delivered", False),
        (Outcome.ALREADY_ACCEPTED_SAME, "delivered", False),
        (Outcome.CONFLICT_OTHER_VALUE, "parked", False),
        (Outcome.NOT_ENTITLED, "pending", False),
        (Outcome.RETRY_SAFE, "pending", False),
        (Outcome.UNKNOWN, "pending", True),
        (Outcome.REJECTED_PERMANENT, "parked", False),
        (Outcome.EXPIRED, "parked", False),
        (Outcome.BATCH_POISONED, "parked", False),
    ],
)
def test_the_first_attempt(outcome: Outcome, state: str, is_uncertain: bool) -> None:
    found = decided(Standing(1, is_uncertain=False), outcome)
    assert (found.state, found.is_uncertain) == (state, is_uncertain)
    assert bool(found.reason) == (state != "delivered")


def test_every_outcome_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Outcome)


@pytest.mark.parametrize("outcome", [one for one in Outcome if MEANINGS[one].then != "delivered"])
def test_a_refusal_of_today_says_nothing_about_an_attempt_of_yesterday(outcome: Outcome) -> None:
    found = decided(Standing(2, is_uncertain=True), outcome)
    assert found.is_uncertain == (outcome is not Outcome.CONFLICT_OTHER_VALUE)
    if found.state == "parked" and found.is_uncertain:
        assert "may have arrived" in found.reason


def test_waits_are_random_parts_of_a_time_that_doubles() -> None:
    waits = [decided(Standing(n, is_uncertain=False, recover_by=NOW + timedelta(days=9)), Outcome.RETRY_SAFE).wait_s
             for n in range(1, 12)]  # fmt: skip
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]
    assert decided(Standing(5, is_uncertain=False, recover_by=NOW + timedelta(days=9)), Outcome.RETRY_SAFE,
                   chance=0.0).wait_s == 0.5  # fmt: skip
    assert decided(Standing(1, is_uncertain=False), Outcome.RETRY_SAFE, retry_after_s=77.0).wait_s == 77
    assert decided(Standing(1, is_uncertain=False), Outcome.NOT_ENTITLED).wait_s == 60


def test_one_more_attempt_comes_before_the_deadline() -> None:
    late = Standing(12, is_uncertain=False, recover_by=NOW + timedelta(seconds=100))
    assert decided(late, Outcome.RETRY_SAFE).wait_s == 50
    assert decided(late, Outcome.NOT_ENTITLED, retry_after_s=1000.0).wait_s == 50


def test_at_the_deadline_waiting_ends_and_doubt_does_not() -> None:
    over = Standing(1, is_uncertain=False, recover_by=NOW)
    found = decided(over, Outcome.NOT_ENTITLED)
    assert (found.state, found.outcome) == ("parked", Outcome.EXPIRED)
    assert "2026-11-01T12:00:00Z" in found.reason
    doubtful = decided(Standing(1, is_uncertain=True, recover_by=NOW), Outcome.RETRY_SAFE)
    assert (doubtful.state, doubtful.is_uncertain) == ("pending", True)
    given_up = decided(Standing(3, is_uncertain=True, recover_by=NOW), Outcome.UNKNOWN)
    assert (given_up.state, given_up.is_uncertain) == ("parked", True)


def test_attempts_are_counted_only_where_no_deadline_is_ahead() -> None:
    assert decided(Standing(3, is_uncertain=False), Outcome.RETRY_SAFE).state == "parked"
    ahead = Standing(3, is_uncertain=False, recover_by=NOW + timedelta(hours=1))
    assert decided(ahead, Outcome.RETRY_SAFE).state == "pending"


def test_a_poisoned_batch_is_split_until_one_is_left() -> None:
    assert decided(Standing(1, is_uncertain=False, batch_items=25), Outcome.BATCH_POISONED).is_split
    alone = decided(Standing(1, is_uncertain=False), Outcome.BATCH_POISONED)
    assert (alone.state, alone.outcome) == ("parked", Outcome.REJECTED_PERMANENT)
