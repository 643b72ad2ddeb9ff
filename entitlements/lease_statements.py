"""The statements of the leases, built once: to build one anew took longer than to run it.

Enters: the tables of the books; at each call values under the names `of_...` (which row) and `new_...` (what it becomes).
Leaves: statements for SQLite and PostgreSQL alike. Refuses: nothing; what may be done to a quota is decided in `leases`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, bindparam, func, insert, select, update

from entitlements.books import leases, quotas

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from entitlements.leases import QuotaKey


def is_quota(key: QuotaKey) -> ColumnElement[bool]:
    """Return what is true of the row of this quota."""
    return and_(
        quotas.c.tenant_id == key.tenant, quotas.c.feature == key.feature, quotas.c.window_start == key.start
    )  # fmt: skip


def is_of(key: QuotaKey) -> ColumnElement[bool]:
    """Return what is true of the leases of this quota."""
    return and_(
        leases.c.tenant_id == key.tenant, leases.c.feature == key.feature, leases.c.window_start == key.start
    )  # fmt: skip


def is_same_quota() -> ColumnElement[bool]:
    """Return what is true of a lease and its own quota."""
    return and_(
        quotas.c.tenant_id == leases.c.tenant_id,
        quotas.c.feature == leases.c.feature,
        quotas.c.window_start == leases.c.window_start,
    )


_IS_QUOTA = and_(
    quotas.c.tenant_id == bindparam("of_tenant"),
    quotas.c.feature == bindparam("of_feature"),
    quotas.c.window_start == bindparam("of_start"),
)
_IS_LEASE = leases.c.lease_id == bindparam("of_lease")

NOW = select(func.clock_timestamp())
# Locked until the transaction ends. SQLite leaves FOR UPDATE out; there BEGIN IMMEDIATE locked already.
FIND_QUOTA = select(quotas).where(_IS_QUOTA).with_for_update()
# Names the revision that was read; the next one is one more.
CHANGE_QUOTA = (
    update(quotas)
    .where(_IS_QUOTA, quotas.c.revision == bindparam("of_revision"))
    .values(granted=bindparam("new_granted"), revision=quotas.c.revision + 1)
)
FIND_LEASE = select(leases).where(_IS_LEASE)
# The open leases of a quota whose holders are alive at an instant, as far as the books know, but for one lease.
COUNT_HOLDERS = (
    select(func.count())
    .select_from(leases)
    .where(
        leases.c.tenant_id == bindparam("of_tenant"),
        leases.c.feature == bindparam("of_feature"),
        leases.c.window_start == bindparam("of_start"),
        leases.c.state == "open",
        leases.c.expires_at > bindparam("alive_at"),
        leases.c.lease_id != bindparam("of_lease"),
    )
)
ADD_LEASE = insert(leases)
PROLONG_LEASE = (
    update(leases)
    .where(_IS_LEASE)
    .values(
        quantity=bindparam("new_quantity"), spent=bindparam("new_spent"), expires_at=bindparam("new_expires_at")
    )
)  # fmt: skip
# What a settled lease counts for is what was spent of it.
SETTLE_LEASE = (
    update(leases)
    .where(_IS_LEASE)
    .values(
        quantity=bindparam("new_spent"),
        spent=bindparam("new_spent"),
        state="settled",
        ended_at=bindparam("new_ended_at"),
    )
)
