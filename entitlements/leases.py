"""Leases: parts of a hard quota that processes take from the books and spend on their own.

Enters: a quota (tenant, feature, window) and what a process needs. Leaves: a lease, granted in one transaction that raises
`granted` and never past the quota. Refuses: to give back what nobody accounted for.

The rule: **granted <= quota, always.** What a lease holds counts as used from the instant it is granted until its holder
says how much of it was spent. A holder that died said nothing, so its lease counts in full: some of the quota may go unused,
none is ever granted twice. That rests on no clock. Expiry only says when a live holder must have come back (to hear of a
changed quota, to return what it does not need), and whose lease is dead; no lease outlives its window. After the window's
end usage says what was really spent (`reconcile`); nothing can be granted from it any more.

An answer that is lost does no harm: a lease has the name that its holder chose, and taking it again returns it; renewing and
settling say absolute quantities. Time is the books' own: PostgreSQL's clock, and for SQLite that of the one machine.
Quantities are integers here, in billionths of the meter's unit (`entitlements.decisions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from entitlements.books import leases, quotas
from entitlements.decisions import BILLIONTHS, from_billionths, to_billionths
from entitlements.errors import EntitlementError, LeaseLost
from entitlements.lease_statements import (
    ADD_LEASE,
    CHANGE_QUOTA,
    COUNT_HOLDERS,
    FIND_LEASE,
    FIND_QUOTA,
    NOW,
    PROLONG_LEASE,
    SETTLE_LEASE,
    is_of,
    is_quota,
    is_same_quota,
)
from metering.books import insertion
from metering.clock import SystemClock, from_us

if TYPE_CHECKING:
    from decimal import Decimal

    from sqlalchemy import Connection, Engine, Row

    from metering.clock import Clock

# The windows of a rate limit are quotas of their own, whose feature is called so.
RATE = " (rate)"
# A lease ahead of need takes at most this part of what is left per holder, so that the last units reach whoever asks.
SHARE = 2


@dataclass(frozen=True, slots=True)
class QuotaKey:
    """A quota of one tenant and feature over one window [start, end); without an end it never starts anew."""

    tenant: str
    feature: str
    start: datetime
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """What one holder may spend, in billionths of a unit, and what the books said when it was granted.

    `valid_s` is how long, from before the question was asked, by any clock that runs as fast as the books'.
    `others` is what the rest of the world was granted of the quota, `holders` how many other open leases there were.
    """

    lease_id: str
    quantity: int
    valid_s: float
    quota: int
    others: int
    holders: int

    @property
    def remaining(self) -> int:
        """Return what nobody was granted."""
        return max(0, self.quota - self.others - self.quantity)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of a window: granted, what usage says, and the difference either way, in units of the meter.

    `unused` was granted and not used: leases of dead holders, mostly. `ungranted` was used without a lease: let through
    while the books were away, or metered beside the quota; zero or a finding.
    """

    quota: Decimal
    granted: Decimal
    metered: Decimal
    unused: Decimal
    ungranted: Decimal


@dataclass(frozen=True, slots=True)
class OpenLease:
    """A lease that nobody ended: what it counts for, and what its holder said last that it spent; in billionths."""

    key: QuotaKey
    lease_id: str
    holder: str
    quantity: int
    spent: int


def lease_size(remaining: int, *, needed: int, demand: int, holders: int) -> int:
    """Return how much to grant: what is needed now, and of the rest what is expected, at most a fair part of it.

    All in billionths. `demand` is what the holder expects to spend until it asks again; `holders` counts the others. The
    part shrinks as the quota runs out, so that nobody sits on the last units. What is needed is granted whole or not at all.
    """
    if needed > remaining:
        return 0
    ahead = min(max(0, demand), (remaining - needed) // (SHARE * (holders + 1)))
    # Whole units stay whole: a third of a unit at each of three holders is of use to none of them.
    if needed % BILLIONTHS == 0:
        ahead -= ahead % BILLIONTHS
    return needed + ahead


class LeaseBook:
    """The quotas in the books, and the leases drawn on them. Safe for all threads and processes; holds no state.

    `engine` is of the books; on SQLite its transactions must begin with BEGIN IMMEDIATE (`tallybook.books.open_books`).
    Every method is one transaction, and raises what the engine raises when the books are away; then nothing was half done,
    and the same call may be made again.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None, *, valid_s: float = 30.0) -> None:
        self._engine = engine
        self._clock = clock or SystemClock()
        self._valid = timedelta(seconds=valid_s)
        self._inherited: list[object] = []

    @property
    def valid_s(self) -> float:
        """Return how long a lease is valid when its window does not end before, in seconds."""
        return self._valid.total_seconds()

    def renew_after_fork(self) -> None:
        """Leave the connections of the parent to the parent: not used here, and not closed either."""
        # Kept, because SQLite would tidy up the parent's files when the last connection of a process is closed.
        self._inherited.append(self._engine.pool)
        self._engine.dispose(close=False)

    def set_quota(self, key: QuotaKey, quota: Decimal | int) -> None:
        """Say how much there is: a changed plan, an override, a top-up. Idempotent; the last one said holds.

        A quota that falls below what was granted takes nothing back: nothing more is granted until it rises.
        """
        with self._engine.begin() as connection:
            row = self._locked(connection, key, to_billionths(quota))
            self._change(connection, key, row, quota=from_billionths(to_billionths(quota)))

    def take(
        self,
        key: QuotaKey,
        quota: Decimal | int,
        *,
        lease_id: str,
        holder: str,
        needed: int = 0,
        demand: int = 0,
        said_at: datetime | None = None,
    ) -> Lease:
        """Grant a lease of at least `needed` and at most `needed + demand` billionths, or of 0, which is none: no room.

        `quota` is entered if the books do not know this quota yet; what they know holds, unless `said_at` is later than
        what they heard. `lease_id` is the holder's own name for it: asking again after an answer was lost returns the
        lease that was granted. Raises LeaseLost when that one was settled.
        """
        with self._engine.begin() as connection:
            row = self._locked(connection, key, to_billionths(quota), said_at)
            row = self._hear(connection, key, row, to_billionths(quota), said_at)
            now = self._now(connection)
            found = connection.execute(FIND_LEASE, {"of_lease": lease_id}).one_or_none()
            if found is not None:
                if found.state != "open":
                    raise LeaseLost(f"lease {lease_id} was settled; take another", lease_id=lease_id)
                return self._seen(connection, key, row, found.lease_id, to_billionths(found.quantity), found.expires_at)
            holders = self._holders(connection, key, now, lease_id)
            remaining = to_billionths(row.quota) - to_billionths(row.granted)
            is_over = key.end is not None and now >= key.end
            size = 0 if is_over else lease_size(remaining, needed=needed, demand=demand, holders=holders)
            expires_at = self._expiry(key, now)
            if size <= 0:
                granted = to_billionths(row.granted)
                return self._lease(lease_id, 0, now, expires_at, to_billionths(row.quota), granted, holders)
            granted = self._change(connection, key, row, more=size)
            connection.execute(
                ADD_LEASE,
                {
                    "lease_id": lease_id, "tenant_id": key.tenant, "feature": key.feature, "window_start": key.start,
                    "holder": holder, "quantity": from_billionths(size), "spent": from_billionths(0), "state": "open",
                    "taken_at": now, "expires_at": expires_at,
                },
            )  # fmt: skip
            return self._lease(lease_id, size, now, expires_at, to_billionths(row.quota), granted, holders)

    def renew(
        self,
        key: QuotaKey,
        lease_id: str,
        *,
        held: int,
        spent: int,
        needed: int = 0,
        demand: int = 0,
        quota: Decimal | int | None = None,
        said_at: datetime | None = None,
    ) -> Lease:
        """Prolong an open lease, and bring it to what its holder says it holds plus what it needs, as far as that fits.

        `held` is what the holder still counts as its own, spent or not: less than the books have returns the difference.
        `quota` as of `said_at` is heard as in `take`. The lease is prolonged also when nothing more fits. Raises LeaseLost
        when it is not open.
        """
        with self._engine.begin() as connection:
            row = self._locked(connection, key, None)
            if quota is not None:
                row = self._hear(connection, key, row, to_billionths(quota), said_at)
            now = self._now(connection)
            had = self._open_quantity(connection, lease_id)
            if not 0 <= spent <= held <= had:
                raise EntitlementError(
                    f"lease {lease_id} is of {from_billionths(had)}: spent {from_billionths(spent)} of "
                    f"{from_billionths(held)} held cannot be; only what was granted may be spent",
                    lease_id=lease_id,
                )
            holders = self._holders(connection, key, now, lease_id)
            remaining = to_billionths(row.quota) - to_billionths(row.granted) + had - held
            is_over = key.end is not None and now >= key.end
            more = 0 if is_over else lease_size(remaining, needed=needed, demand=demand, holders=holders)
            expires_at = self._expiry(key, now)
            granted = self._change(connection, key, row, more=held + more - had)
            connection.execute(
                PROLONG_LEASE,
                {
                    "of_lease": lease_id, "new_quantity": from_billionths(held + more),
                    "new_spent": from_billionths(spent), "new_expires_at": expires_at,
                },
            )  # fmt: skip
            return self._lease(lease_id, held + more, now, expires_at, to_billionths(row.quota), granted, holders)

    def give_back(self, key: QuotaKey, lease_id: str, *, keep: int, spent: int) -> Lease:
        """Return what the holder does not need and keep the rest, spent part included. The expiry moves as in `renew`."""
        return self.renew(key, lease_id, held=keep, spent=spent)

    def settle(self, key: QuotaKey, lease_id: str, spent: int) -> None:
        """End a lease: so much of it was spent, the rest is free again. Idempotent; also right after its expiry.

        A live holder knows what it spent, so what a lease counted for past its expiry returns here, too.
        """
        with self._engine.begin() as connection:
            row = self._found(connection, key)
            lease = connection.execute(FIND_LEASE, {"of_lease": lease_id}).one_or_none()
            if row is None or lease is None or lease.state != "open":
                return
            had = to_billionths(lease.quantity)
            if not 0 <= spent <= had:
                raise EntitlementError(
                    f"lease {lease_id} is of {lease.quantity}: {from_billionths(spent)} of it cannot have been spent",
                    lease_id=lease_id,
                )
            self._change(connection, key, row, more=spent - had)
            connection.execute(
                SETTLE_LEASE,
                {"of_lease": lease_id, "new_spent": from_billionths(spent), "new_ended_at": self._now(connection)},
            )

    def granted(self, key: QuotaKey) -> tuple[Decimal, Decimal] | None:
        """Return the quota and what was granted of it, in units of the meter. None: nobody asked for any yet."""
        with self._engine.begin() as connection:
            row = connection.execute(select(quotas).where(is_quota(key))).one_or_none()
            return None if row is None else (row.quota, row.granted)

    def reconcile(self, key: QuotaKey, metered: Decimal) -> Reconciled:
        """Enter what usage says was used in a window that is over, once all of it has arrived. Idempotent.

        What leases of dead holders really spent is known only here: an event that was recorded survives its process. The
        window is over, so what turns out unused is told, not granted again. Raises EntitlementError before the end.
        """
        with self._engine.begin() as connection:
            row = self._found(connection, key)
            if row is None:
                raise EntitlementError(f"no lease was ever taken of {key.feature!r} of {key.tenant!r} in this window")
            if key.end is None or self._now(connection) < key.end:
                raise EntitlementError(
                    f"the window of {key.feature!r} of {key.tenant!r} is not over; reconcile it after its end"
                )
            self._change(connection, key, row, metered=metered)
            granted, used = to_billionths(row.granted), to_billionths(metered)
            return Reconciled(
                quota=row.quota,
                granted=row.granted,
                metered=metered,
                unused=from_billionths(max(0, granted - used)),
                ungranted=from_billionths(max(0, used - granted)),
            )

    def prune(self, kept: timedelta, *, tenant: str | None = None, feature: str | None = None) -> int:
        """Forget quotas whose window ended longer ago than `kept`, with their leases; return how many.

        For rate limits and old history. By the clock of the books: a window that a wrong clock forgot while others are in
        it would be granted a second time.
        """
        with self._engine.begin() as connection:
            return self._prune(connection, self._now(connection) - kept, tenant, feature)

    def _prune(self, connection: Connection, ended_before: datetime, tenant: str | None, feature: str | None) -> int:
        old = [quotas.c.window_end.is_not(None), quotas.c.window_end < ended_before]
        old += [] if tenant is None else [quotas.c.tenant_id == tenant]
        old += [] if feature is None else [quotas.c.feature == feature]
        doomed = select(quotas.c.tenant_id, quotas.c.feature, quotas.c.window_start).where(*old)
        found = connection.execute(doomed.with_for_update()).all()
        for tenant_id, name, start in found:
            one = QuotaKey(tenant_id, name, start)
            connection.execute(delete(leases).where(is_of(one)))
            connection.execute(delete(quotas).where(is_quota(one)))
        return len(found)

    def expired(self, holders: str, *, limit: int = 10_000) -> list[OpenLease]:
        """Return the open leases past their expiry whose holder's name begins with `holders`, the oldest first.

        A holder that lives comes back before. Whether one is dead is for whoever calls to find out; see `settle`.
        """
        with self._engine.begin() as connection:
            rows = connection.execute(
                select(leases, quotas.c.window_end)
                .join(quotas, is_same_quota())
                .where(
                    leases.c.state == "open",
                    leases.c.expires_at < self._now(connection),
                    leases.c.holder.startswith(holders, autoescape=True),
                )
                .order_by(leases.c.taken_at, leases.c.lease_id)
                .limit(limit)
            ).all()
        return [
            OpenLease(_key(row), row.lease_id, row.holder, to_billionths(row.quantity), to_billionths(row.spent))
            for row in rows
        ]

    def settled(self, holder: str, tenant: str, feature: str) -> int:
        """Return what a holder said that it spent of leases that it ended, over all windows of a quota; in billionths."""
        mine = [leases.c.holder == holder, leases.c.tenant_id == tenant, leases.c.feature == feature]
        with self._engine.begin() as connection:
            rows = connection.execute(select(leases.c.quantity).where(*mine, leases.c.state == "settled"))
            return sum(to_billionths(row.quantity) for row in rows)

    def over(self, since: datetime, until: datetime) -> list[tuple[QuotaKey, Decimal, Decimal | None]]:
        """Return the quotas whose window ended in [since, until), what was granted of each, and what usage said, if asked.

        Those of rate limits are not among them.
        """
        ended = [quotas.c.window_end >= since, quotas.c.window_end < until, quotas.c.feature.not_like(f"%{RATE}")]
        with self._engine.begin() as connection:
            rows = connection.execute(
                select(quotas).where(*ended).order_by(quotas.c.window_end, quotas.c.tenant_id, quotas.c.feature)
            ).all()
        return [(_key(row), row.granted, row.metered) for row in rows]

    def _locked(
        self, connection: Connection, key: QuotaKey, quota: int | None, said_at: datetime | None = None
    ) -> Row[Any]:
        """Return the row of a quota, which no other transaction can change now; enter it if it is not there."""
        row = self._found(connection, key)
        if row is None and quota is not None:
            connection.execute(
                insertion(connection, quotas)
                .values(
                    tenant_id=key.tenant, feature=key.feature, window_start=key.start, window_end=key.end,
                    quota=from_billionths(quota), granted=from_billionths(0), revision=0, said_at=said_at,
                )
                .on_conflict_do_nothing()
            )  # fmt: skip
            row = self._found(connection, key)
        if row is None:
            raise LeaseLost(f"the books hold no quota of {key.feature!r} of {key.tenant!r} in this window")
        return row

    def _hear(
        self, connection: Connection, key: QuotaKey, row: Row[Any], quota: int, said_at: datetime | None
    ) -> Row[Any]:
        """Let what is said as of a later instant hold; return the row as it is then."""
        # Also where it says the same: who comes with something older must not be heard after it.
        if said_at is None or (row.said_at is not None and said_at <= row.said_at):
            return row
        self._change(connection, key, row, quota=from_billionths(quota), said_at=said_at)
        return self._locked(connection, key, None)

    @staticmethod
    def _found(connection: Connection, key: QuotaKey) -> Row[Any] | None:
        # SQLite leaves FOR UPDATE out; there BEGIN IMMEDIATE locked already.
        return connection.execute(FIND_QUOTA, _of(key)).one_or_none()

    @staticmethod
    def _change(connection: Connection, key: QuotaKey, row: Row[Any], *, more: int = 0, **values: object) -> int:
        """Change a quota that was read in this transaction; return what is granted now.

        Names the revision that was read: were there no lock, a change in between would be refused, not overwritten.
        """
        granted = to_billionths(row.granted) + more
        if more > 0 and granted > to_billionths(row.quota):
            raise EntitlementError(f"{from_billionths(granted)} granted of {row.quota} cannot be; nothing was granted")
        change = CHANGE_QUOTA.values(**values) if values else CHANGE_QUOTA
        done = connection.execute(
            change, _of(key) | {"of_revision": row.revision, "new_granted": from_billionths(granted)}
        )
        if done.rowcount != 1:
            raise EntitlementError(
                f"the quota of {key.feature!r} of {key.tenant!r} changed while it was locked; nothing was granted; "
                "open the books with tallybook.books.open_books, whose transactions exclude each other"
            )
        return granted

    @staticmethod
    def _open_quantity(connection: Connection, lease_id: str) -> int:
        lease = connection.execute(FIND_LEASE, {"of_lease": lease_id}).one_or_none()
        if lease is None or lease.state != "open":
            raise LeaseLost(f"lease {lease_id} is not open; take another", lease_id=lease_id)
        return to_billionths(lease.quantity)

    @staticmethod
    def _holders(connection: Connection, key: QuotaKey, now: datetime, lease_id: str) -> int:
        """Count the other leases whose holders are alive, as far as the books know."""
        return int(connection.execute(COUNT_HOLDERS, _of(key) | {"of_lease": lease_id, "alive_at": now}).scalar_one())

    def _now(self, connection: Connection) -> datetime:
        if connection.dialect.name == "postgresql":
            now: datetime = connection.execute(NOW).scalar_one()
            return now.astimezone(UTC)
        return from_us(self._clock.now_us())

    def _expiry(self, key: QuotaKey, now: datetime) -> datetime:
        return now + self._valid if key.end is None else min(now + self._valid, key.end)

    def _seen(
        self, connection: Connection, key: QuotaKey, row: Row[Any], lease_id: str, quantity: int, expires_at: datetime
    ) -> Lease:
        """Return a lease that was granted before and whose answer was lost."""
        now = self._now(connection)
        holders = self._holders(connection, key, now, lease_id)
        return self._lease(
            lease_id, quantity, now, expires_at, to_billionths(row.quota), to_billionths(row.granted), holders
        )

    @staticmethod
    def _lease(
        lease_id: str, quantity: int, now: datetime, expires_at: datetime, quota: int, granted: int, holders: int
    ) -> Lease:
        valid_s = max(0.0, (expires_at - now).total_seconds())
        return Lease(lease_id, quantity, valid_s, quota, granted - quantity, holders)


def _key(row: Row[Any]) -> QuotaKey:
    return QuotaKey(row.tenant_id, row.feature, row.window_start, row.window_end)


def _of(key: QuotaKey) -> dict[str, Any]:
    return {"of_tenant": key.tenant, "of_feature": key.feature, "of_start": key.start}
