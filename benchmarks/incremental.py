"""What one more hour costs: the re-run of a month after a 720th of new usage events, and the preview of one tenant.

Enters: nothing. Leaves: processor and wall time of the full run, of the re-run, and of a preview, in new processes over the
same lake. The re-run is compared with a full run over the same data files before any time is reported.
The full run starts from nothing derived; the re-run finds the states that the full run kept and reads the new hour.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.figures import Figure
from benchmarks.rating import _figure, _used, measure
from metering.lake import Lake

BUDGET = 0.03


NAMES = {
    "changed": "states of usage of the tenants that changed",
    "states": "states of usage of all tenants",
    "lines": "invoice lines of all tenants",
}


def run(quick: bool) -> list[Figure]:
    """Return the figures; see the head of the module. `quick`: a tenth of the events."""
    size = workload.Size(10_000_000 if quick else 100_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lake"
        lake = Lake(root)
        workload.fill(lake, size)
        full = {step: measure(step, root, size.tenants) for step in ("lines", "states")}
        shutil.copytree(root / "derived", Path(folder) / "derived")
        lake.append([workload.one_hour(size)])
        again = {}
        for step in (*NAMES, "preview"):
            # Each finds what the full run kept, and nothing of another re-run.
            shutil.rmtree(root / "derived")
            shutil.copytree(Path(folder) / "derived", root / "derived")
            again[step] = measure(step, root, size.tenants, is_cold=False)
        for step in NAMES:
            if measure(step, root, size.tenants)["answer"] != again[step]["answer"]:
                raise AssertionError(f"{step}: the re-run says something else, so no time is worth reporting")
        return [
            *(_whole(step, full[step]) for step in ("states", "lines")),
            *(_rerun(step, again[step], full["lines" if step == "lines" else "states"], size) for step in NAMES),
            _figure(
                "preview of one tenant's invoice lines",
                again["preview"]["seconds"],
                "s",
                1.0,
                "a second",
                _used(again["preview"]),
            ),
        ]


def _whole(step: str, found: dict[str, Any]) -> Figure:
    return _figure(f"full run: {NAMES[step]}", found["cpu_s"], "s", None, None, _waited(found))


def _rerun(step: str, found: dict[str, Any], full: dict[str, Any], size: workload.Size) -> Figure:
    """Return the processor time of a re-run beside that of the full run; the wall clock of a shared machine is a note."""
    note = f"budget {BUDGET}; {size.events // workload.HOURS:,} new events; {_waited(found)}"
    if step == "changed":
        note += f"; {int(found['answer'][0]):,} of {size.tenants:,} tenants"
    return _figure(f"re-run: {NAMES[step]}", found["cpu_s"], "s", full["cpu_s"], "full run", note)


def _waited(found: dict[str, Any]) -> str:
    return f"{found['seconds']:.1f} s by the wall clock"
