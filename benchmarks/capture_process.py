"""What metering costs the process that embeds it: time to import, and memory while events go on and on.

Enters: nothing. Leaves: the time of `import metering` in fresh interpreters, above that of a bare one, beside what it
replaces; and the peak memory of a recording process and of its shipper after one, five and ten million events.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figure, figure

IMPORT_BUDGET_MS = 60
IMPORTS = {
    "import metering": "import metering",
    "metering.Recorder at hand": "import metering; metering.Recorder",
    "import prometheus_client": "import prometheus_client",
    "import opentelemetry.sdk.metrics": "import opentelemetry.sdk.metrics",
}

_SAYS = {1: "recording without pause", 2: "a process of its own; one commit takes at most 64 MiB of journal"}

# Waits for the shipper at each mark, so that what is in flight is not taken for what grows.
_RECORD = """
import json, pathlib, sys, time
from metering import Recorder

def peak_kib(process_id):
    status = pathlib.Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

usage = Recorder(sys.argv[1])
meters = [usage.bind("tokens", tenant=f"tenant-{number}", model="gpt-4o") for number in range(100)]
count, peaks = int(sys.argv[2]), []
for first, end in ((0, count // 10), (count // 10, count // 2), (count // 2, count)):
    for number in range(first, end):
        meters[number % 100].add(number)
    usage.seal()
    until_s = time.monotonic() + 300
    while usage.health().unshipped_segments > 1 and time.monotonic() < until_s:
        time.sleep(0.1)
    peaks.append((end, peak_kib("self"), peak_kib(usage._shipper._process_id)))
usage.close()
print(json.dumps(peaks))
"""


def import_times(repeats: int) -> list[Figure]:
    """Return the processor time that an import adds to a bare interpreter, medians of fresh interpreters that take turns."""
    codes = {"bare interpreter": "pass", **IMPORTS}
    times: dict[str, list[float]] = {name: [] for name in codes}
    # The first turn reads the files from the disk, and is not counted.
    for turn in range(repeats + 1):
        for name, code in codes.items():
            began_s = _processor_s()
            subprocess.run([sys.executable, "-c", code], check=True)
            if turn:
                times[name].append((_processor_s() - began_s) * 1000)
    bare = statistics.median(times.pop("bare interpreter"))
    median = {name: statistics.median(values) - bare for name, values in times.items()}
    figures = [
        figure("bare interpreter", bare, "ms", None, None, "starts and ends; not part of the next"),
        figure("import metering", median["import metering"], "ms", IMPORT_BUDGET_MS, "budget", "budget 60 ms"),
    ]
    others = [name for name in median if name != "import metering"]
    return figures + [figure(name, median[name], "ms", median["import metering"], "metering", "") for name in others]


def _processor_s() -> float:
    """Return the processor time of the children so far: what others on this machine do meanwhile does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(folder: Path, count: int) -> list[Figure]:
    """Return the peak resident memory of a process that records `count` events, and of its shipper."""
    done = subprocess.run(
        [sys.executable, "-c", _RECORD, str(folder), str(count)], check=True, capture_output=True, text=True
    )
    figures: list[Figure] = []
    for place, who in ((1, "peak memory"), (2, "peak memory of its shipper")):
        before: tuple[str, float] | None = None
        for peaks in json.loads(done.stdout):
            mark, mib = f"{peaks[0]:,} events", peaks[place] / 1024
            other, against = (None, None) if before is None else (before[1], before[0])
            figures.append(figure(f"{who}, {mark}", mib, "MiB", other, against, "" if before else _SAYS[place]))
            before = mark, mib
    return figures
