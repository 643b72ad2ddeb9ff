"""A recorder's health as OpenTelemetry metrics, for who has OpenTelemetry.

Enters: a recorder. Leaves: observable instruments, which are asked when metrics are collected and cost nothing between.
Refuses: to meter through them. Metrics cannot bill: they are running totals without events, and past 2,000 sets of
attributes a counter folds its tenants into one. These say whether metering is well, not what was used.

| instrument | kind, unit | of `Health` |
|---|---|---|
| tallybook.recorder.recorded | counter, {event} | recorded |
| tallybook.recorder.dropped | counter, {event} | dropped |
| tallybook.journal.unshipped.segments | up-down counter, {segment} | unshipped_segments |
| tallybook.journal.unshipped.size | up-down counter, By | unshipped_bytes |
| tallybook.journal.unshipped.age | gauge, s | oldest_unshipped_s |
| tallybook.shipper.alive | gauge, 1 | is_shipper_alive |
| tallybook.journal.failing | gauge, 1 | last_error, 1 while there is one |
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metering.health import Health
    from metering.recorder import Recorder

# Instruments of one collection are asked one after the other: they share one look.
SHARED_S = 0.2

_INSTRUMENTS: tuple[tuple[str, str, str, str, Callable[[Health], int | float]], ...] = (
    ("counter", "tallybook.recorder.recorded", "{event}", "Usage events recorded", lambda health: health.recorded),
    ("counter", "tallybook.recorder.dropped", "{event}", "Usage events dropped for want of room", lambda h: h.dropped),
    (
        "up_down_counter",
        "tallybook.journal.unshipped.segments",
        "{segment}",
        "Segments that are not in the lake yet",
        lambda health: health.unshipped_segments,
    ),
    (
        "up_down_counter",
        "tallybook.journal.unshipped.size",
        "By",
        "Size of the segments that are not in the lake yet",
        lambda health: health.unshipped_bytes,
    ),
    (
        "gauge",
        "tallybook.journal.unshipped.age",
        "s",
        "Time since the oldest usage event that is not in the lake yet was recorded",
        lambda health: health.oldest_unshipped_s,
    ),
    (
        "gauge",
        "tallybook.shipper.alive",
        "1",
        "1 while a shipper leads this workspace",
        lambda h: int(h.is_shipper_alive),
    ),
    (
        "gauge",
        "tallybook.journal.failing",
        "1",
        "1 while the disk refuses what the recorder asks of it",
        lambda health: int(health.last_error is not None),
    ),
)


def instrument(recorder: Recorder, *, meter_provider: Any = None) -> bool:
    """Show the health of this recorder as OpenTelemetry metrics; return False where opentelemetry-api is not installed.

    `meter_provider` defaults to the global one. The recorder is not kept alive by it. Call it once per recorder.
    """
    try:
        from opentelemetry import metrics
    except ImportError:
        return False
    meter = metrics.get_meter("tallybook.metering", meter_provider=meter_provider)
    look = _shared_look(weakref.ref(recorder))
    for kind, name, unit, description, value_of in _INSTRUMENTS:
        create = getattr(meter, f"create_observable_{kind}")
        create(name, callbacks=[_callback(look, value_of)], unit=unit, description=description)
    return True


def _callback(
    look: Callable[[], Health | None], value_of: Callable[[Health], int | float]
) -> Callable[[object], Iterator[Any]]:
    from opentelemetry.metrics import Observation

    def observe(_options: object) -> Iterator[Any]:
        health = look()
        if health is not None:
            yield Observation(value_of(health))

    return observe


def _shared_look(recorder: weakref.ref[Recorder]) -> Callable[[], Health | None]:
    seen: tuple[float, Health | None] = (float("-inf"), None)

    def look() -> Health | None:
        nonlocal seen
        if time.monotonic() > seen[0] + SHARED_S:
            alive = recorder()
            seen = time.monotonic(), None if alive is None else alive.health()
        return seen[1]

    return look
