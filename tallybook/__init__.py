"""Puts metering, entitlements, rating and billing adapters together: workspace, command line, scheduler, demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tallybook.workspace import Workspace

__all__ = ["Workspace", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Workspace":
        from tallybook.workspace import Workspace

        return Workspace
    raise AttributeError(f"module 'tallybook' has no attribute {name!r}")
