"""A hard quota as one process sees it: a lease in memory, spent without asking anyone, refilled ahead of need.

Enters: quantities to spend. Leaves: a `Decision` each, from the lease in about a microsecond, and never more spent than was
granted. Refuses: what no lease covers; and, while the books are away, all (`when_away="closed"`) or nothing ("open": what is
let through is counted, and metered as ever, but no longer covered by the promise).

A lease is spent until shortly before it expires, by the monotonic clock from before it was asked for: wall clocks may step.
A child of a fork begins without a lease. `consume` spends and records as one act: when the recorder says that it recorded
nothing, the spend is returned; when it cannot be known (killed in between), the spend stands. So what was metered is never
more than what was spent, and what was spent never more than the quota.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from entitlements.decisions import BILLIONTHS, Decision, Standing, from_billionths, to_billionths
from entitlements.errors import LeaseLost
from entitlements.lease_keeper import keeper
from entitlements.leases import RATE, QuotaKey
from metering.clock import EPOCH, SystemClock, from_us
from metering.errors import BadEvent, NotYetDurable, Retryable
from metering.events import check_quantity
from metering.forks import here as _here
from metering.forks import notice_fork, of_one_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from entitlements.decisions import Reason
    from entitlements.leases import Lease, LeaseBook
    from metering.clock import Clock
    from metering.series import Quantity

    Record = Callable[[Quantity], object]
    Window = tuple[datetime, datetime | None]

# A lease covers what is expected in this time, so a busy process asks the books about twice as often.
HORIZON_S = 1.0
# Before anything is known of the demand, a first lease is of so many times what was asked for.
FIRST_DEMAND = 7
# Spending stops this long before a lease expires: this part of its time, at most so many seconds.
MARGIN_PART, MARGIN_MAX_S = 0.05, 1.0
# Who was refused does not ask the books again for this long, nor who found them away.
REFUSED_S, AWAY_S = 0.1, 0.5
# Windows of rate limits are forgotten after this time: longer than any clock may step back over one.
RATE_KEPT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class HardQuotaCounts:
    """What became of the asking so far, in this process. `let_through` is in units of the meter, the others are calls.

    `away` counts answers given while the books were away, `trouble` is what they said last (None: they answer).
    """

    refused: int
    away: int
    let_through: Decimal
    refills: int
    trouble: Exception | None


def forever(start: datetime) -> Callable[[datetime], Window]:
    """Return the window of a quota that never starts anew."""
    return lambda _now: (start, None)


def every(length: timedelta) -> Callable[[datetime], Window]:
    """Return windows of one length, counted from 1970-01-01 UTC: seconds, minutes, hours, days."""

    def window(now: datetime) -> Window:
        start = EPOCH + (now - EPOCH) // length * length
        return start, start + length

    return window


def expected(spent: int, elapsed_s: float, horizon_s: float) -> int:
    """Return what will be spent within the horizon if it goes on as in the time that elapsed. In billionths."""
    return spent * int(horizon_s * 1e6) // max(1000, int(elapsed_s * 1e6))


class HardQuota:
    """One tenant's hard quota of one feature, spent by this process. Safe for all threads; not for signal handlers.

    `window` says which window [start, end) an instant is in. `quota` is entered into the books for a window that they do not
    know yet; what they know holds, unless this one is `said_at` a later instant (see `set_quota`). `record` is what
    `consume` calls, such as `recorder.bind(...).add`; `holder` names who spends, and is asked when a lease is taken. Close
    it, or use it as a context manager: what is not returned counts as spent.
    """

    def __init__(
        self,
        book: LeaseBook,
        *,
        tenant: str,
        feature: str,
        quota: Decimal | int,
        window: Callable[[datetime], Window],
        record: Record | None = None,
        when_away: Literal["closed", "open"] = "closed",
        refusal: Reason = "lease_refused",
        holder: str | Callable[[], str] = "",
        said_at: datetime | None = None,
        clock: Clock | None = None,
    ) -> None:
        if when_away not in {"closed", "open"}:
            raise ValueError(f'when_away is "closed" or "open", not {when_away!r}')
        self.tenant, self.feature = tenant, feature
        self._book, self._quota, self._window, self._record = book, quota, window, record
        self._lets_through = when_away == "open"
        self._is_rate = refusal == "rate_limited"
        self._refusal = refusal
        self._holder = holder
        self._said_at = said_at
        self._clock = clock or SystemClock()
        self._monotonic_s: Callable[[], float] = time.monotonic if clock is None else clock.monotonic_s
        self._is_closed = False
        self._renew()
        of_one_process.add(self)

    def _renew(self) -> None:
        """Be a process that holds nothing: at the beginning, and again in the child of a fork."""
        if hasattr(self, "_lock"):
            self._book.renew_after_fork()
            keeper.renew_after_fork()
        # `_lock` guards what is spent, for an instant; `_refilling` is held while the books are asked.
        self._lock, self._refilling = threading.Lock(), threading.Lock()
        self._left = self._held = self._low = 0
        self._deadline_s = float("-inf")
        # Counts leases, so that a spend is returned to the lease it came from or not at all.
        self._generation = 0
        self._lease: Lease | None = None
        self._told: Lease | None = None
        self._key: QuotaKey | None = None
        self._standing = Standing(self.tenant, self.feature, to_billionths(self._quota))
        # Asked for, and perhaps granted with the answer lost: asking again under this name finds it.
        self._wished_id = uuid4().hex
        self._unsettled: list[tuple[QuotaKey, str, int]] = []
        self._is_asked = self._is_enrolled = False
        # Spent of leases that are gone; what was spent, and when, at the last refill and at the last tick.
        self._spent_before = self._spent_then = self._spent_at_tick = 0
        self._refilled_at_s = self._monotonic_s()
        self._refused_from, self._refused_until_s, self._away_until_s = 0, float("-inf"), float("-inf")
        self._pruned_at_s = self._refilled_at_s
        self._refused = self._away = self._let_through = self._refills = 0
        self._trouble: Exception | None = None

    def spend(self, quantity: Quantity = 1) -> Decision:
        """Spend so much, whole or not at all. Asks the books only when the lease does not cover it.

        Raises BadEvent for what is no quantity, and what the books raise when they are not merely away.
        """
        return self._spend(quantity)[0]

    def _spend(self, quantity: Quantity) -> tuple[Decision, int]:
        """Return the decision, and the generation of the lease that paid."""
        if not _here[0]:
            notice_fork()
        wanted = quantity * BILLIONTHS if type(quantity) is int and quantity >= 0 else _to_spend(quantity)
        with self._lock:
            left = self._left - wanted
            if left >= 0 and self._monotonic_s() < self._deadline_s:
                self._left = left
                since, standing, is_low = self._held - left, self._standing, left < self._low
                generation = self._generation
            else:
                left = -1
        if left < 0:
            return self._spend_slowly(wanted)
        if is_low and not self._is_asked:
            self._is_asked = True
            keeper.ask(self)
        return Decision(True, "lease_granted", standing, since), generation

    def check(self, quantity: Quantity = 1) -> Decision:
        """Return whether so much could be spent now, spending nothing; a lease may be taken for it. Errors as of `spend`."""
        decision, generation = self._spend(quantity)
        if decision.reason == "lease_granted":
            self._return(quantity, generation)
        return decision

    def consume(self, quantity: Quantity = 1, *, record: Record | None = None) -> Decision:
        """Spend and record as one act; a refusal records nothing. Raises what `record` raises, the spend returned.

        `record` is called with the quantity (default: that of the constructor). An event that was written although the disk
        has not answered yet (NotYetDurable) counts, so its spend stands.
        """
        write = record or self._record
        if write is None:
            raise TypeError("consume needs something that records: say record= here, or where the quota was made")
        decision, generation = self._spend(quantity)
        if decision.allowed:
            try:
                write(quantity)
            except NotYetDurable:
                raise
            # Not BaseException: an interrupt may strike after the row was written.
            except Exception:
                if decision.reason == "lease_granted":
                    self._return(quantity, generation)
                raise
        return decision

    @property
    def quota(self) -> Decimal | int:
        """Return how much there is per window, as this process was told last."""
        return self._quota

    def set_quota(self, quota: Decimal | int) -> None:
        """Change how much there is, in the books for all: a top-up, another plan. Errors as the books raise them."""
        with self._refilling:
            self._quota = quota
            self._book.set_quota(self._key_now(), quota)
            self._refused_until_s = float("-inf")

    def hear(self, quota: Decimal | int, said_at: datetime) -> None:
        """Take to heart how much there is as of an instant. The books hear of it with the next lease; asks nobody now."""
        if quota != self._quota:
            self._refused_until_s = float("-inf")
        self._quota, self._said_at = quota, said_at

    def counts(self) -> HardQuotaCounts:
        """Return what became of the asking so far."""
        through = from_billionths(self._let_through)
        return HardQuotaCounts(self._refused, self._away, through, self._refills, self._trouble)

    def tend(self) -> None:
        """Refill, prolong or return the lease, whichever is due. Called by the keeper of this process."""
        with self._refilling:
            self._is_asked = False
            try:
                self._tend()
            except Exception as trouble:  # noqa: BLE001 (a spender meets it again, and raises what is not passing)
                self._note_away(trouble)

    def close(self) -> None:
        """Return what is left of the lease. Idempotent. Spending afterwards raises ValueError; errors as of the books."""
        if not _here[0]:
            notice_fork()
        with self._refilling:
            self._is_closed = True
            self._let_go()
            self._settle_all()

    def __enter__(self) -> HardQuota:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _return(self, quantity: Quantity, generation: int) -> None:
        with self._lock:
            # Another lease by now: which of the two paid is not known, and the old one was settled with this spend.
            if generation == self._generation:
                self._left += to_billionths(check_quantity(quantity))

    def _spend_slowly(self, wanted: int) -> tuple[Decision, int]:
        with self._refilling:
            if self._is_closed:
                raise ValueError(f"the hard quota of {self.feature!r} was closed; make another")
            # Who waited may find what another has brought.
            if (spent := self._spend_held(wanted)) is not None:
                return spent
            now_s = self._monotonic_s()
            if now_s < self._away_until_s:
                return self._answer_away(wanted), 0
            is_known = now_s < self._refused_until_s and wanted >= self._refused_from and self._key_now() == self._key
            if not is_known:
                try:
                    # Other threads spend while the books are asked: what they took is asked for again.
                    is_more = True
                    while is_more:
                        is_more = self._refill(wanted)
                        if (spent := self._spend_held(wanted)) is not None:
                            return spent
                except Exception as trouble:
                    if not _is_away(trouble):
                        raise
                    self._note_away(trouble)
                    return self._answer_away(wanted), 0
                self._refused_from, self._refused_until_s = wanted, now_s + REFUSED_S
            self._refused += 1
            return Decision(False, self._reason(), self._standing, self._held - self._left), 0

    def _spend_held(self, wanted: int) -> tuple[Decision, int] | None:
        with self._lock:
            if self._left < wanted or self._monotonic_s() >= self._deadline_s:
                return None
            self._left -= wanted
            return Decision(True, "lease_granted", self._standing, self._held - self._left), self._generation

    def _reason(self) -> Reason:
        told = self._told
        is_all_gone = told is not None and told.holders == 0 and told.remaining == 0
        return "quota_exhausted" if is_all_gone and not self._is_rate else self._refusal

    def _answer_away(self, wanted: int) -> Decision:
        self._away += 1
        if self._lets_through:
            self._let_through += wanted
            return Decision(True, "books_away_open", self._standing, self._held - self._left + self._let_through)
        return Decision(False, "books_away_closed", self._standing, self._held - self._left)

    def _note_away(self, trouble: Exception) -> None:
        self._trouble = trouble
        self._away_until_s = self._monotonic_s() + AWAY_S

    def _key_now(self) -> QuotaKey:
        start, end = self._window(from_us(self._clock.now_us()))
        # A rate limit is a quota of its own, also where a month begins with its second.
        return QuotaKey(self.tenant, f"{self.feature}{RATE}" if self._is_rate else self.feature, start, end)

    def _tend(self) -> None:
        spent = self._spent_before + self._held - self._left
        is_idle, self._spent_at_tick = spent == self._spent_at_tick, spent
        if self._lease is not None:
            left_s = self._deadline_s - self._monotonic_s()
            if is_idle and left_s < self._book.valid_s / 2:
                self._let_go()
            elif self._left < self._low or left_s < self._book.valid_s / 2:
                self._refill(0)
        self._settle_all()

    def _refill(self, wanted: int) -> bool:
        """Ask the books for what is wanted now and expected soon; return whether they gave more. With `_refilling` held."""
        key = self._key_now()
        if key != self._key:
            self._let_go()
            # It may have been granted in the window before, its answer lost.
            if self._key is not None:
                self._unsettled.append((self._key, self._wished_id, 0))
            self._key, self._wished_id = key, uuid4().hex
            self._standing = Standing(self.tenant, self.feature, to_billionths(self._quota), resets_at=key.end)
        self._settle_all()
        began_s = self._monotonic_s()
        demand = self._demand(wanted, began_s)
        try:
            lease = self._ask(key, wanted, demand)
        except LeaseLost:
            # Settled or forgotten in the books: nothing of it may be spent, and another is asked for under another name.
            self._let_go()
            self._unsettled.clear()
            self._wished_id = uuid4().hex
            lease = self._ask(key, wanted, demand)
        self._trouble = None
        self._refills += 1
        self._told = lease
        return self._hold(lease, began_s)

    def _demand(self, wanted: int, now_s: float) -> int:
        spent = self._spent_before + self._held - self._left
        if spent == 0:
            return wanted * FIRST_DEMAND
        demand = expected(spent - self._spent_then, now_s - self._refilled_at_s, HORIZON_S)
        self._spent_then, self._refilled_at_s = spent, now_s
        return demand

    def _ask(self, key: QuotaKey, wanted: int, demand: int) -> Lease:
        if self._lease is None:
            holder = self._holder if isinstance(self._holder, str) else self._holder()
            return self._book.take(
                key, self._quota, lease_id=self._wished_id, holder=holder, needed=wanted, demand=demand,
                said_at=self._said_at,
            )  # fmt: skip
        with self._lock:
            # What is far more than expected goes back; what stays is not asked for again.
            surplus = max(0, self._left - wanted - 4 * demand)
            surplus -= surplus % BILLIONTHS
            self._left -= surplus
            self._held -= surplus
            held, spent, missing = self._held, self._held - self._left, max(0, wanted - self._left)
        return self._book.renew(
            key, self._lease.lease_id, held=held, spent=spent, needed=missing, demand=demand, quota=self._quota,
            said_at=self._said_at,
        )  # fmt: skip

    def _hold(self, lease: Lease, began_s: float) -> bool:
        margin_s = min(MARGIN_MAX_S, lease.valid_s * MARGIN_PART)
        with self._lock:
            more = lease.quantity - self._held
            # What others were granted counts as used: nobody but their holders knows better.
            left = lease.quota - lease.others
            resets_at = None if self._key is None else self._key.end
            self._standing = Standing(self.tenant, self.feature, lease.quota, lease.others, left, resets_at)
            if lease.quantity == 0 and self._lease is None:
                return False
            self._generation += self._lease is None
            self._held += more
            self._left += more
            self._low = self._left // 2
            self._deadline_s = began_s + lease.valid_s - margin_s
            self._lease = lease
        if not self._is_enrolled:
            self._is_enrolled = True
            keeper.enrol(self)
        return more > 0

    def _let_go(self) -> None:
        """Stop spending; what was spent is to be said to the books. With `_refilling` held."""
        with self._lock:
            lease, spent = self._lease, self._held - self._left
            self._spent_before += spent
            self._left = self._held = self._low = 0
            self._deadline_s = float("-inf")
            self._lease = None
            self._generation += 1
        if lease is not None and self._key is not None:
            self._unsettled.append((self._key, lease.lease_id, spent))
            self._wished_id = uuid4().hex

    def _settle_all(self) -> None:
        now = from_us(self._clock.now_us())
        while self._unsettled:
            key, lease_id, spent = self._unsettled[0]
            # Nobody reconciles the seconds of a rate limit.
            if not (self._is_rate and key.end is not None and key.end <= now):
                self._book.settle(key, lease_id, spent)
            self._unsettled.pop(0)
        if self._is_rate and self._monotonic_s() - self._pruned_at_s > RATE_KEPT.total_seconds() / 60:
            self._pruned_at_s = self._monotonic_s()
            self._book.prune(RATE_KEPT, tenant=self.tenant, feature=f"{self.feature}{RATE}")


def rate_limit(
    book: LeaseBook,
    *,
    tenant: str,
    feature: str,
    quantity: Decimal | int,
    per: timedelta = timedelta(seconds=1),
    record: Record | None = None,
    when_away: Literal["closed", "open"] = "closed",
    clock: Clock | None = None,
) -> HardQuota:
    """Return a limit on how much may be used within each second, minute or other span, over all processes together."""
    return HardQuota(
        book, tenant=tenant, feature=feature, quota=quantity, window=every(per), record=record, when_away=when_away,
        refusal="rate_limited", clock=clock,
    )  # fmt: skip


def _is_away(trouble: Exception) -> bool:
    """Tell whether the books could not be asked just now, from an error that the same call will always meet."""
    if isinstance(trouble, DBAPIError):
        return trouble.connection_invalidated or type(trouble).__name__ in {"OperationalError", "InterfaceError"}
    return isinstance(trouble, Retryable | OSError) or (
        isinstance(trouble, SQLAlchemyError) and type(trouble).__name__ == "TimeoutError"
    )


def _to_spend(quantity: Quantity) -> int:
    """Return a quantity in billionths. Raises BadEvent for what is none, and for one below zero, whatever the meter allows."""
    number = check_quantity(quantity, negative_allowed=True)
    if number < 0:
        what = f"quantity {number} is negative, and a hard limit is only spent; record what is taken back with the recorder"
        raise BadEvent("negative_quantity", what)
    return to_billionths(number)
