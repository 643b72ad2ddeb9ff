"""The errors of entitlements, drawn as a tree.

    EntitlementError
    ├── NotEntitled     Terminal   the tenant may not use the feature now; `decision` says why, and when it may
    ├── LeaseLost       Terminal   a lease that was settled, or never granted; what it may still spend is nothing
    ├── BadContract     Terminal   a contract of a provider that cannot be netted: overlapping terms, unreadable values
    └── AlertRefused    Retryable  whoever should hear of an alert did not take it; it stays pending and is told again

Mistakes in a catalog file are values (`metering.catalog.Mistake`), collected and raised by who loads the files.
Every error has a stable `code`, typed attributes, and one of two markers of `metering.errors`: `Retryable` or `Terminal`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.errors import CodedError, Retryable, Terminal

if TYPE_CHECKING:
    from entitlements.decisions import Decision


class EntitlementError(CodedError):
    """The root of what entitlements raises."""

    code = "entitlement_error"


class NotEntitled(EntitlementError, Terminal):
    """The tenant may not use the feature now. Nothing was recorded. `decision.resets_at` says when a quota starts anew."""

    code = "not_entitled"

    def __init__(self, decision: Decision) -> None:
        super().__init__(
            f"tenant {decision.tenant!r} may not use {decision.feature!r} now: {decision.reason.replace('_', ' ')}",
            tenant=decision.tenant,
            feature=decision.feature,
            reason=decision.reason,
        )
        self.decision = decision


class LeaseLost(EntitlementError, Terminal):
    """The books hold no such open lease. Nothing may be spent from it; take another."""

    code = "lease_lost"


class BadContract(EntitlementError, Terminal):
    """What a provider said of a contract cannot be netted. Nothing was; correct the import."""

    code = "bad_contract"


class AlertRefused(EntitlementError, Retryable):
    """The receiver of an alert did not take it. The alert stays pending."""

    code = "alert_refused"
