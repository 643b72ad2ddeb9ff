"""What one more hour costs: the re-run of a month after a 720th of new usage events, and the preview of one tenant.

Enters: nothing. Leaves: processor and wall time of the full run, of the re-run, and of a preview, in new processes over the
same lake. The re-run is compared with a full run over the same data files before any time is reported.
The full run starts from nothing derived; the re-run finds what the full run kept and reads the new hour. Each runs three times,
and the median is told. Two hours are told
apart: in one the new events are of all tenants, as they come (one event is enough for a tenant to be rated again), in the
other they are as many, and of a 720th of the tenants.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from benchmarks import workload
from benchmarks.figures import Figure, figure
from benchmarks.rating import Found, in_turns, measure, used
from metering.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metering.batch import SegmentBatch

BUDGET = 0.03


NAMES = {
    "changed": "states of usage of the tenants that changed",
    "states": "states of usage of all tenants",
    "worth": "what every tenant is worth",
    "lines": "invoice lines of all tenants, in the order of paper",
}
FULL = ("states", "worth", "lines")
OF_FEW = ("worth", "lines")


def run(quick: bool) -> list[Figure]:
    """Return the figures; see the head of the module. `quick`: a tenth of the events."""
    size = workload.Size(10_000_000 if quick else 100_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lake"
        lake = Lake(root)
        workload.fill(lake, size)
        # The last one keeps both what is derived of usage and what it is worth; each begins from nothing.
        full = in_turns({step: partial(measure, step, root, size.tenants) for step in FULL})
        hours = [workload.one_hour(size, of_few=of_few) for of_few in (False, True)]
        lake.append(hours[:1])
        again = _again(("preview", *NAMES), root, size)
        lake.append(hours[1:])
        few = _again(OF_FEW, root, size)
        return [
            *(_whole(step, full[step]) for step in FULL),
            *(_rerun(step, again[step], full.get(step, full["states"]), hours[0]) for step in NAMES),
            *(_rerun(step, few[step], full[step], hours[1], "; of a 720th of the tenants") for step in OF_FEW),
            figure(
                "preview of one tenant's invoice lines",
                again["preview"]["seconds"],
                "s",
                1.0,
                "a second",
                used(again["preview"]),
            ),
        ]


def _again(steps: Sequence[str], root: Path, size: workload.Size) -> dict[str, Found]:
    """Return the re-runs, each of which finds what is derived now, and nothing of another one. Raises AssertionError.

    What is derived afterwards is of the new hour too.
    """
    before = root.parent / "derived"
    shutil.copytree(root / "derived", before)

    def again(step: str) -> Found:
        shutil.rmtree(root / "derived")
        shutil.copytree(before, root / "derived")
        return measure(step, root, size.tenants, is_cold=False)

    found = in_turns({step: partial(again, step) for step in steps})
    shutil.rmtree(before)
    for step in steps:
        # The lines are compared last, and leave what the next hour finds.
        if step in NAMES and measure(step, root, size.tenants)["answer"] != found[step]["answer"]:
            raise AssertionError(f"{step}: the re-run says something else, so no time is worth reporting")
    return found


def _whole(step: str, found: Found) -> Figure:
    return figure(f"full run: {NAMES[step]}", found["cpu_s"], "s", None, None, _waited(found))


def _rerun(step: str, found: Found, full: Found, hour: SegmentBatch, of: str = "") -> Figure:
    """Return the processor time of a re-run beside that of the full run; the wall clock of a shared machine is a note."""
    tenants = pc.count_distinct(hour.events["tenant_id"]).as_py()
    note = (
        f"budget {BUDGET}; {_waited(found)}; {hour.rows:,} new events, of {tenants:,} tenants, "
        f"in {workload.lines_touched(hour):,} lines"
    )
    return figure(f"re-run: {NAMES[step]}{of}", found["cpu_s"], "s", full["cpu_s"], "full run", note)


def _waited(found: Found) -> str:
    return f"{found['seconds']:.1f} s by the wall clock"
