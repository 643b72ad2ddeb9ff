"""What one more hour costs: the re-run of a month after a 720th of new usage events, and the preview of one tenant.

Enters: nothing. Leaves: processor and wall time of the full run, of the re-run, and of a preview, in new processes over the
same lake. The re-run is compared with a full run over the same data files before any time is reported.
The full run starts from nothing derived; the re-run finds the states that the full run kept and reads the new hour.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import workload
from benchmarks.figures import Figure
from benchmarks.rating import _figure, _used, measure
from metering.lake import Lake

BUDGET = 0.03


def run(quick: bool) -> list[Figure]:
    """Return the figures; see the head of the module. `quick`: a tenth of the events."""
    size = workload.Size(10_000_000 if quick else 100_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lake"
        lake = Lake(root)
        workload.fill(lake, size)
        full = {step: measure(step, root, size.tenants) for step in ("lines", "states")}
        lake.append([workload.one_hour(size)])
        again = {step: measure(step, root, size.tenants, is_cold=False) for step in ("states", "lines")}
        preview = measure("preview", root, size.tenants, is_cold=False)
        for step in ("states", "lines"):
            if measure(step, root, size.tenants)["answer"] != again[step]["answer"]:
                raise AssertionError(f"{step}: the re-run says something else, so no time is worth reporting")
        names = {"states": "states of usage of all tenants", "lines": "invoice lines of all tenants"}
        figures = []
        for step, name in names.items():
            figures.append(_figure(f"full run: {name}", full[step]["seconds"], "s", None, None, _used(full[step])))
            note = f"budget {BUDGET}; {size.events // workload.HOURS:,} new events; {_used(again[step])}"
            figures.append(
                _figure(f"re-run: {name}", again[step]["seconds"], "s", full[step]["seconds"], "full run", note)
            )
        return [
            *figures,
            _figure("preview of one tenant's invoice lines", preview["seconds"], "s", 1.0, "a second", _used(preview)),
        ]
