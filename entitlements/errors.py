"""The errors of entitlements, drawn as a tree.

    EntitlementError       the root; no leaf yet, because nothing is checked at run time in this release

Mistakes in a catalog file are values (`metering.catalog.Mistake`), collected and raised by who loads the files.
Every leaf to come has a stable `code`, typed attributes, and the marker `Retryable` or `Terminal` of `metering.errors`.
"""

from __future__ import annotations

from metering.errors import CodedError


class EntitlementError(CodedError):
    """The root of what entitlements raises."""

    code = "entitlement_error"
