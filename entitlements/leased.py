"""All hard quotas of a process: one `HardQuota` per tenant and feature, made when it is first asked for.

Enters: tenant, feature, quantity; and `terms`, which says what a tenant's hard quota is now (`ViewTerms` reads it from the
view of a checker). Leaves: decisions. It is what a `Checker` asks for hard limits (`entitlements.checker.HardQuotas`).
Refuses: what `terms` knows nothing of.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from entitlements.decisions import Decision, from_billionths
from entitlements.hard_quota import HardQuota
from entitlements.view import HardFigures
from metering.clock import SystemClock, from_us
from metering.forks import of_one_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from entitlements.hard_quota import Window
    from entitlements.leases import LeaseBook
    from entitlements.view import View
    from metering.clock import Clock
    from metering.series import Quantity


@dataclass(frozen=True, slots=True)
class HardTerms:
    """How much there is, in the window that an instant is in, and what holds while the books are away.

    `said_at` is the instant as of which this was worked out: of two processes the one that knows more is believed.
    """

    quota: Decimal | int
    window: Callable[[datetime], Window]
    when_away: Literal["closed", "open"] = "closed"
    said_at: datetime | None = None


class ViewTerms:
    """The hard quotas as the newest view says them. Safe for all threads.

    A view knows its windows, and of the next one what the plan gives anew at least; so a quota that starts anew may be
    spent before the next view is read, only what is carried over comes with that.
    """

    def __init__(self, newest: Callable[[], View | None], clock: Clock | None = None) -> None:
        self._newest = newest
        self._clock = clock or SystemClock()
        self._known: dict[tuple[str, str], tuple[HardFigures, bool, HardTerms]] = {}

    def __call__(self, tenant: str, feature: str) -> HardTerms | None:
        """Return the terms as of now. None: no hard quota is known."""
        view = self._newest()
        held = None if view is None else view.held(tenant)
        rule = None if held is None else held.rules.get(feature)
        if view is None or held is None or rule is None or not rule.is_hard or rule.place is None:
            return None
        figures = held.figures[rule.place]
        if not isinstance(figures, HardFigures) or figures.limit is None:
            return None
        is_over = figures.end is not None and from_us(self._clock.now_us()) >= figures.end
        known = self._known.get((tenant, feature))
        # The same figures say the same; a view that was read again without news has the very same object.
        if known is not None and known[0] is figures and known[1] == is_over:
            return known[2]
        window = (figures.end, figures.next_end) if is_over and figures.end else (figures.start, figures.end)
        quota = from_billionths(figures.next_limit if is_over else figures.limit)
        away: Literal["open", "closed"] = "open" if rule.opens_on_outage else "closed"
        terms = HardTerms(quota, lambda _now: window, away, view.as_of)
        self._known[tenant, feature] = figures, is_over, terms
        return terms


class LeasedQuotas:
    """The hard quotas of this process. Safe for all threads. Close it: what is not returned counts as spent.

    `terms` is asked at every call, from memory: a quota that changed (a top-up, another plan) is said to the books then,
    or, where it is known as of when that was (`said_at`), with the next lease. None: no hard quota of this feature.
    """

    def __init__(
        self,
        book: LeaseBook,
        terms: Callable[[str, str], HardTerms | None],
        *,
        holder: str | Callable[[], str] = "",
        clock: Clock | None = None,
    ) -> None:
        self._book, self._terms = book, terms
        self.holder, self.clock = holder, clock
        self._quotas: dict[tuple[str, str], _Kept] = {}
        self._renew()
        of_one_process.add(self)

    def _renew(self) -> None:
        # The quotas renew themselves; the lock may have been held by a thread that is not here.
        self._lock = threading.Lock()

    def check(self, tenant: str, feature: str, quantity: Quantity = 1) -> Decision:
        """Return whether so much could be had now, taking nothing."""
        quota = self._quota(tenant, feature)
        return _none(tenant, feature) if quota is None else quota.check(quantity)

    def consume(self, tenant: str, feature: str, quantity: Quantity, record: Callable[[Any], object]) -> Decision:
        """Take so much, and record it, as one act; or nothing of both. Raises what `record` raises, and takes nothing then."""
        quota = self._quota(tenant, feature)
        return _none(tenant, feature) if quota is None else quota.consume(quantity, record=record)

    def close(self) -> None:
        """Return every lease. Idempotent. Errors as of the books; what was not returned counts as spent."""
        with self._lock:
            while self._quotas:
                _, kept = self._quotas.popitem()
                kept.quota.close()

    def _quota(self, tenant: str, feature: str) -> HardQuota | None:
        terms = self._terms(tenant, feature)
        if terms is None:
            return None
        kept = self._quotas.get((tenant, feature))
        if kept is None:
            with self._lock:
                kept = self._quotas.get((tenant, feature))
                if kept is None:
                    kept = self._quotas[tenant, feature] = _Kept(self._book, tenant, feature, terms, self)
        if kept.terms is not terms:
            kept.terms = terms
            if terms.said_at is not None:
                kept.quota.hear(terms.quota, terms.said_at)
            elif kept.quota.quota != terms.quota:
                kept.quota.set_quota(terms.quota)
        return kept.quota


class _Kept:
    """A hard quota, and the terms that it follows."""

    def __init__(self, book: LeaseBook, tenant: str, feature: str, terms: HardTerms, of: LeasedQuotas) -> None:
        self.terms = terms
        self.quota = HardQuota(
            book, tenant=tenant, feature=feature, quota=terms.quota, window=self._window,
            when_away=terms.when_away, holder=of.holder, said_at=terms.said_at, clock=of.clock,
        )  # fmt: skip

    def _window(self, now: datetime) -> Window:
        """Return the window as the newest terms say it."""
        return self.terms.window(now)


def _none(tenant: str, feature: str) -> Decision:
    return Decision.of(False, "no_entitlement", tenant=tenant, feature=feature)
