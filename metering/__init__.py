"""Captures usage. Knows events, meters, quantities and time; no money, no plans, no providers. See metering/README.md.

Importing this package costs a few milliseconds: pyarrow, DuckDB and deltalake are loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metering.clock import Clock, FixedClock, SystemClock
from metering.errors import (
    BadEvent,
    BadEventFile,
    BadPeriod,
    JournalDamaged,
    JournalFull,
    LakeDamaged,
    LakeUnavailable,
    MeteringError,
    NotYetDurable,
    Retryable,
    Terminal,
    UnknownMeter,
)
from metering.meters import MeterRule

if TYPE_CHECKING:
    from metering.lake import Lake
    from metering.periods import Period
    from metering.bound import Bound
    from metering.recorder import Recorder
    from metering.usage import Snapshot

__all__ = [
    "BadEvent",
    "BadEventFile",
    "BadPeriod",
    "Bound",
    "Clock",
    "FixedClock",
    "JournalDamaged",
    "JournalFull",
    "Lake",
    "LakeDamaged",
    "LakeUnavailable",
    "MeterRule",
    "MeteringError",
    "NotYetDurable",
    "Period",
    "Recorder",
    "Retryable",
    "Snapshot",
    "SystemClock",
    "Terminal",
    "UnknownMeter",
]

_HOMES = {
    "Bound": "metering.bound",
    "Lake": "metering.lake",
    "Period": "metering.periods",
    "Recorder": "metering.recorder",
    "Snapshot": "metering.usage",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metering' has no attribute {name!r}")
