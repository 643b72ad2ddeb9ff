"""Where money goes and whether it arrived. See billing_adapters/README.md for what it owns and does not own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from billing_adapters.adapter import Adapter, Capabilities
    from billing_adapters.deliver import Deliverer
    from billing_adapters.file_adapter import FileAdapter, publish, verify_published
    from billing_adapters.outcomes import Outcome
    from billing_adapters.ports import Published, PublishedRun
    from billing_adapters.reconciliation import Statement, conservation

__all__ = [
    "Adapter",
    "Capabilities",
    "Deliverer",
    "FileAdapter",
    "Outcome",
    "Published",
    "PublishedRun",
    "Statement",
    "conservation",
    "publish",
    "verify_published",
]

_HOMES = {
    "Adapter": "billing_adapters.adapter",
    "Capabilities": "billing_adapters.adapter",
    "Deliverer": "billing_adapters.deliver",
    "FileAdapter": "billing_adapters.file_adapter",
    "Outcome": "billing_adapters.outcomes",
    "Published": "billing_adapters.ports",
    "PublishedRun": "billing_adapters.ports",
    "Statement": "billing_adapters.reconciliation",
    "conservation": "billing_adapters.reconciliation",
    "publish": "billing_adapters.file_adapter",
    "verify_published": "billing_adapters.file_adapter",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that an error can be caught without loading the engine.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'billing_adapters' has no attribute {name!r}")
