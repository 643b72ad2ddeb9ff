"""The recorder of the process: `metering.configure(...)` once at the start, `metering.record(...)` anywhere.

Enters: a workspace folder and a Recorder's settings. Leaves: one Recorder that the whole process shares. Refuses: to guess
where usage goes when nobody said so, and to change it while it is in use without closing the one before.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from metering.recorder import Recorder

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from metering.events import AttributeValue
    from metering.series import Quantity

_changing = threading.RLock()
_recorder: Recorder | None = None


def configure(root: str | Path, **settings: Any) -> Recorder:
    """Make the recorder that `metering.record` uses, and return it. `settings` are those of Recorder.

    Called again, the one before is closed, so that all it recorded is sealed; a bound meter of it then raises ValueError.
    Nothing is created on the disk before the first row. A child of a fork goes on with it, as a producer of its own.
    """
    global _recorder
    with _changing:
        fresh = Recorder(root, **settings)
        before, _recorder = _recorder, fresh
        if before is not None:
            before.close()
    return fresh


def configured() -> Recorder:
    """Return the recorder of the process. Raises RuntimeError when `configure` was not called."""
    if _recorder is None:
        raise RuntimeError(
            'no recorder is configured, so usage would go nowhere; call metering.configure("tallybook-data") at the start'
        )
    return _recorder


def record(
    meter: str,
    /,
    *,
    tenant: str | None = None,
    quantity: Quantity = 1,
    event_time: datetime | None = None,
    key: str | None = None,
    ack: str | None = None,
    **attributes: AttributeValue | None,
) -> None:
    """Record one usage event with the recorder of the process, as `Recorder.record` does, with the same errors.

    Raises RuntimeError when `configure` was not called. For hot loops: `configured().bind(...)`.
    """
    configured().record(meter, tenant=tenant, quantity=quantity, event_time=event_time, key=key, ack=ack, **attributes)
