"""All hard quotas of a process: one `HardQuota` per tenant and feature, made when it is first asked for.

Enters: tenant, feature, quantity; and `terms`, which says what a tenant's hard quota is now. Leaves: decisions. It is what a
`Checker` asks for hard limits (`entitlements.checker.HardQuotas`). Refuses: what `terms` knows nothing of.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from entitlements.decisions import Decision
from entitlements.hard_quota import HardQuota
from metering.forks import of_one_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from entitlements.hard_quota import Window
    from entitlements.leases import LeaseBook
    from metering.clock import Clock
    from metering.series import Quantity


@dataclass(frozen=True, slots=True)
class HardTerms:
    """How much there is, in the window that an instant is in, and what holds while the books are away."""

    quota: Decimal | int
    window: Callable[[datetime], Window]
    when_away: Literal["closed", "open"] = "closed"


class LeasedQuotas:
    """The hard quotas of this process. Safe for all threads. Close it: what is not returned counts as spent.

    `terms` is asked at every call, from memory: a quota that changed (a top-up, another plan) is said to the books then, by
    the first process that hears of it. None: the tenant has no hard quota of this feature.
    """

    def __init__(
        self,
        book: LeaseBook,
        terms: Callable[[str, str], HardTerms | None],
        *,
        holder: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._book, self._terms, self._holder, self._clock = book, terms, holder, clock
        self._quotas: dict[tuple[str, str], HardQuota] = {}
        self._renew()
        of_one_process.add(self)

    def _renew(self) -> None:
        # The quotas renew themselves; the lock may have been held by a thread that is not here.
        self._lock = threading.Lock()

    def check(self, tenant: str, feature: str, quantity: Quantity = 1) -> Decision:
        """Return whether so much could be had now, taking nothing."""
        quota = self._quota(tenant, feature)
        return _none(tenant, feature) if quota is None else quota.check(quantity)

    def consume(self, tenant: str, feature: str, quantity: Quantity, record: Callable[[Quantity], object]) -> Decision:
        """Take so much, and record it, as one act; or nothing of both. Raises what `record` raises, and takes nothing then."""
        quota = self._quota(tenant, feature)
        return _none(tenant, feature) if quota is None else quota.consume(quantity, record=record)

    def close(self) -> None:
        """Return every lease. Idempotent. Errors as of the books; what was not returned counts as spent."""
        with self._lock:
            while self._quotas:
                _, quota = self._quotas.popitem()
                quota.close()

    def _quota(self, tenant: str, feature: str) -> HardQuota | None:
        terms = self._terms(tenant, feature)
        if terms is None:
            return None
        quota = self._quotas.get((tenant, feature))
        if quota is None:
            with self._lock:
                quota = self._quotas.get((tenant, feature))
                if quota is None:
                    quota = self._quotas[tenant, feature] = HardQuota(
                        self._book, tenant=tenant, feature=feature, quota=terms.quota, window=terms.window,
                        when_away=terms.when_away, holder=self._holder, clock=self._clock,
                    )  # fmt: skip
        if quota.quota != terms.quota:
            quota.set_quota(terms.quota)
        return quota


def _none(tenant: str, feature: str) -> Decision:
    return Decision.of(False, "no_entitlement", tenant=tenant, feature=feature)
