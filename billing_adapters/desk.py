"""What an adapter may ask of the outbox while it sends: pace, lease, progress, names.

Enters: the claims that a deliverer holds. Leaves: permission for a call, or an error that stops this deliverer alone.
Refuses: calls of who lost its lease, and calls faster than the provider's rate, over all deliverers of all hosts together.

The pace is one instant per adapter in the books, from when on the next call may be made; who reserves moves it on. Calls are
reserved some at a time, so that the books are not asked for each.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from billing_adapters.books import delivery_links, delivery_paces
from billing_adapters.errors import BudgetSpent, LeaseLost
from billing_adapters.outbox import describe
from metering.books import insertion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing_adapters.outbox import Claim, Outbox

RESERVED_AT_ONCE = 20


class OutboxDesk:
    """One deliverer's desk. `wait` is given seconds; `calls_max` is the budget of this run, None for none."""

    def __init__(
        self, outbox: Outbox, calls_per_s: int, wait: Callable[[float], object], *, calls_max: int | None = None
    ) -> None:
        if calls_per_s < 1:
            raise ValueError(f"a rate is at least one call per second, not {calls_per_s}")
        self._outbox = outbox
        self._interval = timedelta(seconds=1) / calls_per_s
        self._at_once = min(RESERVED_AT_ONCE, calls_per_s)
        self._wait = wait
        self._calls_max = calls_max
        self._slots: deque[datetime] = deque()
        self._claims: dict[str, Claim] = {}
        self._kept: dict[str, dict[str, str]] = {}
        self.calls = 0

    def hold(self, claims: Sequence[Claim]) -> None:
        """Say which claims the calls from now on are for."""
        self._claims = {claim.item.delivery_id: claim for claim in claims}
        self._kept = {}

    def spend(self, calls: int = 1) -> None:
        """Wait for the provider's rate. Raises LeaseLost when a lease is over, BudgetSpent when this run may not go on."""
        for _ in range(calls):
            if self._calls_max is not None and self.calls >= self._calls_max:
                raise BudgetSpent(f"this run may make {self._calls_max} calls and made them; run it again to go on")
            self._wait_for_slot()
            self.calls += 1
        now = self._outbox.now
        for claim in self._claims.values():
            if now >= claim.until:
                raise LeaseLost(f"the lease is over: {describe(claim)}", delivery_id=claim.item.delivery_id)

    def keep(self, delivery_id: str, **progress: str) -> None:
        """Keep what was reached, durably. Raises LeaseLost when somebody else holds the item."""
        kept = self._kept.setdefault(delivery_id, {})
        kept.update(progress)
        if not self._outbox.keep(self._claims[delivery_id], kept):
            raise LeaseLost(f"taken over: {describe(self._claims[delivery_id])}", delivery_id=delivery_id)

    def linked(self, kind: str, our_id: str) -> str | None:
        """Return the provider's id of a thing of ours, None if it has none yet."""
        query = select(delivery_links.c.provider_id).where(
            delivery_links.c.adapter == self._outbox.adapter,
            delivery_links.c.kind == kind,
            delivery_links.c.our_id == our_id,
        )
        with self._outbox.engine.connect() as connection:
            return connection.scalar(query)

    def link(self, kind: str, our_id: str, provider_id: str) -> str:
        """Keep the provider's id of a thing of ours unless there is one; return the one that is kept."""
        row = {"adapter": self._outbox.adapter, "kind": kind, "our_id": our_id, "provider_id": provider_id}
        with self._outbox.engine.begin() as connection:
            new = (
                insertion(connection, delivery_links).values(**row, linked_at=self._outbox.now).on_conflict_do_nothing()
            )
            kept = connection.scalar(new.returning(delivery_links.c.provider_id))
        return kept or self.linked(kind, our_id) or provider_id

    def _wait_for_slot(self) -> None:
        if not self._slots:
            self._slots.extend(self._reserve())
        slot = self._slots.popleft()
        left = slot - self._outbox.now
        if left > timedelta(0):
            self._wait(left / timedelta(seconds=1))

    def _reserve(self) -> list[datetime]:
        """Move the adapter's pace on and return the instants of our calls. A compare-and-set, repeated if another won."""
        own = delivery_paces.c.adapter == self._outbox.adapter
        while True:
            with self._outbox.engine.begin() as connection:
                found = connection.scalar(select(delivery_paces.c.next_call_at).where(own))
                first = self._outbox.now if found is None else max(found, self._outbox.now)
                following = first + self._interval * self._at_once
                if found is None:
                    new = insertion(connection, delivery_paces).values(
                        adapter=self._outbox.adapter, next_call_at=following
                    )
                    done = connection.execute(new.on_conflict_do_nothing())
                else:
                    moved = update(delivery_paces).where(own, delivery_paces.c.next_call_at == found)
                    done = connection.execute(moved.values(next_call_at=following))
            if done.rowcount == 1:
                return [first + self._interval * number for number in range(self._at_once)]
