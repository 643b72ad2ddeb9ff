"""Every run of a step as an OpenTelemetry span and two metrics, for who has OpenTelemetry.

Enters: the name of a step, and what became of it. Leaves: a span, a count and a duration. Refuses: tenants, periods and places as
attributes of metrics: there are few steps and few outcomes, and so few series. What a step did for whom is in the books.

| instrument | kind, unit | attributes |
|---|---|---|
| tallybook.step.runs | counter, {run} | tallybook.step, tallybook.outcome |
| tallybook.step.duration | histogram, s | tallybook.step, tallybook.outcome |

Spans are named `tallybook.step NAME` and have the period and the place, too. Without opentelemetry-api nothing is imported.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tallybook.run_books import Run

STEP, OUTCOME, PERIOD, PLACE = "tallybook.step", "tallybook.outcome", "tallybook.period", "tallybook.place"


class Seen:
    """What becomes of one run, told while its span is open."""

    outcome = "interrupted"
    detail = ""


class Telemetry:
    """Makes spans and counts through the global providers, or those that are given. Nothing without opentelemetry-api."""

    def __init__(self, *, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        self._tracer: Any = None
        try:
            from opentelemetry import metrics, trace
        except ImportError:
            return
        self._tracer = trace.get_tracer("tallybook.run", tracer_provider=tracer_provider)
        meter = metrics.get_meter("tallybook.run", meter_provider=meter_provider)
        self._runs = meter.create_counter("tallybook.step.runs", unit="{run}", description="Runs of scheduled steps")
        self._durations = meter.create_histogram(
            "tallybook.step.duration", unit="s", description="Duration of scheduled steps"
        )

    @contextmanager
    def run(self, run: Run) -> Iterator[Seen]:
        """Open a span around a run; it ends with the outcome that `Seen` was told."""
        seen, began_s = Seen(), time.monotonic()
        with self._span(run) as span:
            try:
                yield seen
            finally:
                if self._tracer is not None:
                    self._end(run, seen, span, time.monotonic() - began_s)

    def _span(self, run: Run) -> Any:
        if self._tracer is None:
            return nullcontext()
        attributes = {STEP: run.step, PERIOD: run.period, PLACE: run.place}
        return self._tracer.start_as_current_span(f"tallybook.step {run.step}", attributes=attributes)

    def _end(self, run: Run, seen: Seen, span: Any, duration_s: float) -> None:
        from opentelemetry.trace import StatusCode

        span.set_attribute(OUTCOME, seen.outcome)
        if seen.outcome in {"failed", "interrupted"}:
            span.set_status(StatusCode.ERROR, seen.detail)
        attributes = {STEP: run.step, OUTCOME: seen.outcome}
        self._runs.add(1, attributes)
        self._durations.record(duration_s, attributes)
