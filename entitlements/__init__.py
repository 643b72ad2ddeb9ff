"""What a tenant may use: features, grants, quotas, and the answer to a check.

Names are imported when they are first used, so that this package loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entitlements.checker import Checker
    from entitlements.decisions import Decision
    from entitlements.errors import EntitlementError, NotEntitled
    from entitlements.features import Entitlement, Feature
    from entitlements.view import FixedSource, Source, View

__all__ = [
    "Checker",
    "Decision",
    "Entitlement",
    "EntitlementError",
    "Feature",
    "FixedSource",
    "NotEntitled",
    "Source",
    "View",
]

_HOMES = {
    "Checker": "entitlements.checker",
    "Decision": "entitlements.decisions",
    "Entitlement": "entitlements.features",
    "EntitlementError": "entitlements.errors",
    "Feature": "entitlements.features",
    "FixedSource": "entitlements.view",
    "NotEntitled": "entitlements.errors",
    "Source": "entitlements.view",
    "View": "entitlements.view",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'entitlements' has no attribute {name!r}")
