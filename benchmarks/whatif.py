"""A year of what-if: twelve months of every tenant under its own plan and under another one, from nothing derived.

Enters: nothing; the workload (benchmarks.workload) is written by the lake's own API. Leaves: time and peak memory of one process.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import workload
from benchmarks.figures import Figure, figure
from benchmarks.rating import measure, used
from metering.lake import Lake


def run(quick: bool) -> list[Figure]:
    """Return what a year of what-if takes, both sides rated. `quick`: a fiftieth of the events."""
    size = workload.Size(2_000_000, 10_000) if quick else workload.Size(100_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "year"
        workload.fill_year(Lake(root), size)
        found = measure("whatif_year", root, size.tenants)
    name = f"a year of what-if, {size.events:,} events, {size.tenants:,} tenants"
    peak = f"peak {found['peak_bytes'] / 2**30:.2f} GiB"
    return [figure(name, found["seconds"], "s", None, None, f"both sides rated; {used(found)}; {peak}")]
