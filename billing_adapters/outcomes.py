"""What a provider's answer means, the same for all providers, and what the outbox does next: the heart of delivery.

Enters: what is known of an item, and an answer. Leaves: what happens to the item: delivered, tried again (when, and whether
by reading first), split from its batch, or parked with a reason. Refuses: to do any of it; there is no clock, no database
and no network here. Source: DESIGN section 9; reference/providers.md, sections 1 and 10.

The rule behind all of it: an item is *uncertain* from before its first byte leaves until somebody who knows says what
became of it. What is uncertain is read back before it is written again, and stays so when a later attempt is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from metering.backoff import full_jitter_s
from metering.clock import iso_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Outcome(StrEnum):
    """The nine classes of answers. What each means is in `MEANINGS`."""

    ACCEPTED = "ACCEPTED"
    ALREADY_ACCEPTED_SAME = "ALREADY_ACCEPTED_SAME"
    CONFLICT_OTHER_VALUE = "CONFLICT_OTHER_VALUE"
    NOT_ENTITLED = "NOT_ENTITLED"
    RETRY_SAFE = "RETRY_SAFE"
    UNKNOWN = "UNKNOWN"
    REJECTED_PERMANENT = "REJECTED_PERMANENT"
    EXPIRED = "EXPIRED"
    BATCH_POISONED = "BATCH_POISONED"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an outcome says of one item.

    `at_provider`: is what we sent there now? `then`: what becomes of the item. `money`: the class of finding that stays until
    it is cleared (DESIGN section 10), None for none.
    """

    at_provider: Literal["yes", "no", "unknown", "other"]
    then: Literal["delivered", "retry", "retry_slowly", "split", "park"]
    money: Literal["AT_RISK", "TIMING", "DATA_QUALITY", "LOST"] | None
    sentence: str


MEANINGS: Mapping[Outcome, Meaning] = MappingProxyType(
    {
        Outcome.ACCEPTED: Meaning("yes", "delivered", None, "the provider confirmed exactly what we sent"),
        Outcome.ALREADY_ACCEPTED_SAME: Meaning("yes", "delivered", None, "an earlier write of this very value stands"),
        Outcome.CONFLICT_OTHER_VALUE: Meaning(
            "other", "park", "AT_RISK", "the provider holds another value under this key; the first one stays"
        ),
        Outcome.NOT_ENTITLED: Meaning(
            "no", "retry_slowly", "AT_RISK", "the provider knows no active agreement of this buyer now"
        ),
        Outcome.RETRY_SAFE: Meaning("no", "retry", "TIMING", "the provider says that it did nothing"),
        Outcome.UNKNOWN: Meaning("unknown", "retry", "AT_RISK", "no answer says whether it was done"),
        Outcome.REJECTED_PERMANENT: Meaning("no", "park", "DATA_QUALITY", "it can never be accepted as it is"),
        Outcome.EXPIRED: Meaning("no", "park", "LOST", "the provider's time window for it is over"),
        Outcome.BATCH_POISONED: Meaning("no", "split", "TIMING", "the whole batch was refused because of one of it"),
    }
)

_EARLIER = "; an earlier attempt may have arrived, so look at the provider first"


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient delivery is. Waits are random parts of a time that doubles (full jitter), from base to cap.

    `attempts_max` counts attempts in a row of items without a deadline, or past it: with these waits more than a day, so that
    an outage of the provider parks nothing. What is parked by it may be retried by a person. `slow_*` is for agreements that
    may merely be late.
    """

    attempts_max: int = 300
    base_s: float = 1.0
    cap_s: float = 900.0
    slow_base_s: float = 60.0
    slow_cap_s: float = 3600.0
    lease: timedelta = field(default=timedelta(minutes=10))


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an item when an answer arrives. `attempts` counts this one; `batch_items` were sent together."""

    attempts: int
    is_uncertain: bool
    recover_by: datetime | None = None
    batch_items: int = 1


@dataclass(frozen=True, slots=True)
class Next:
    """What happens to the item now. `wait_s` is for `pending`; `is_split`: try at once again, in a smaller batch."""

    state: Literal["delivered", "pending", "parked"]
    outcome: Outcome
    is_uncertain: bool
    reason: str
    wait_s: float = 0.0
    is_split: bool = False


def decide(
    standing: Standing,
    outcome: Outcome,
    detail: str,
    *,
    now: datetime,
    policy: Policy,
    chance: Callable[[], float],
    retry_after_s: float = 0.0,
) -> Next:
    """Return what happens to an item after an answer. Pure but for `chance`, which draws from [0, 1).

    `detail` is the provider's own word for it. A deadline ends waiting, never doubt: an uncertain item whose time is over
    goes on being read back until its attempts are used up, because it may be there.
    """
    meaning = MEANINGS[outcome]
    reason = f"{meaning.sentence}: {detail}" if detail else meaning.sentence
    if meaning.then == "delivered":
        return Next("delivered", outcome, False, "")
    if meaning.then == "split" and standing.batch_items > 1:
        return Next("pending", outcome, standing.is_uncertain, reason, is_split=True)
    if meaning.then == "split":
        # It was alone, so it is the one.
        earlier = _EARLIER if standing.is_uncertain else ""
        return Next("parked", Outcome.REJECTED_PERMANENT, standing.is_uncertain, reason + earlier)
    if meaning.then == "park":
        # A conflict is certain; a refusal of today says nothing about an attempt of yesterday.
        is_uncertain = standing.is_uncertain and meaning.at_provider == "no"
        return Next("parked", outcome, is_uncertain, reason + (_EARLIER if is_uncertain else ""))
    is_uncertain = standing.is_uncertain if meaning.at_provider == "no" else True
    is_over = standing.recover_by is not None and now >= standing.recover_by
    if is_over and not is_uncertain and standing.recover_by is not None:
        return Next("parked", Outcome.EXPIRED, False, f"{reason}; its time ended {iso_utc(standing.recover_by)}")
    if standing.attempts >= policy.attempts_max and (is_over or standing.recover_by is None):
        return Next("parked", outcome, is_uncertain, f"{reason}; {standing.attempts} attempts were made")
    wait_s = max(retry_after_s, _wait_s(meaning, standing.attempts, policy, chance))
    return Next("pending", outcome, is_uncertain, reason, _not_past(standing, now, wait_s, is_over=is_over))


def _wait_s(meaning: Meaning, attempts: int, policy: Policy, chance: Callable[[], float]) -> float:
    is_slow = meaning.then == "retry_slowly"
    base_s, cap_s = (policy.slow_base_s, policy.slow_cap_s) if is_slow else (policy.base_s, policy.cap_s)
    # At least half a second: the same pass must not ask the same item again and again.
    return max(0.5, full_jitter_s(attempts, chance, base_s=base_s, cap_s=cap_s))  # seconds


def _not_past(standing: Standing, now: datetime, wait_s: float, *, is_over: bool) -> float:
    """Return the wait, shortened so that one more attempt comes before the deadline."""
    if standing.recover_by is None or is_over:
        return wait_s
    left_s = (standing.recover_by - now) / timedelta(seconds=1)
    # Halving what is left leaves room for some more attempts, however near the end is.
    return min(wait_s, max(0.5, left_s / 2)) if wait_s >= left_s else wait_s  # seconds
