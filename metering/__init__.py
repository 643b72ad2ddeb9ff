"""Captures usage. Knows events, meters, quantities and time; no money, no plans, no providers. See metering/README.md.

Importing this package costs a few milliseconds: pyarrow, DuckDB and deltalake are loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metering.clock import Clock, FixedClock
from metering.errors import (
    BadEvent,
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
    from metering.bound import Bound
    from metering.context import carry, tenant
    from metering.corrections import Origin
    from metering.defaults import configure, record
    from metering.health import Health
    from metering.lake import Lake
    from metering.periods import Period
    from metering.recorder import Recorder

# What an application says and catches. Rarer names live in their modules: metering.errors, metering.clock...
__all__ = [
    "BadEvent",
    "Bound",
    "Clock",
    "FixedClock",
    "Health",
    "JournalFull",
    "Lake",
    "LakeDamaged",
    "LakeUnavailable",
    "MeterRule",
    "MeteringError",
    "NotYetDurable",
    "Origin",
    "Period",
    "Recorder",
    "Retryable",
    "Terminal",
    "UnknownMeter",
    "carry",
    "configure",
    "record",
    "tenant",
]

_HOMES = {
    "BadEventFile": "metering.errors",
    "BadPeriod": "metering.errors",
    "Bound": "metering.bound",
    "Health": "metering.health",
    "JournalDamaged": "metering.errors",
    "Lake": "metering.lake",
    "Origin": "metering.corrections",
    "Period": "metering.periods",
    "Recorder": "metering.recorder",
    "Snapshot": "metering.usage",
    "SystemClock": "metering.clock",
    "carry": "metering.context",
    "configure": "metering.defaults",
    "configured": "metering.defaults",
    "record": "metering.defaults",
    "tenant": "metering.context",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metering' has no attribute {name!r}")
