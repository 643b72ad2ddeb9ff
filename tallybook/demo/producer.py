"""One producer of the demo: a process that records its part of the workload, as an application would.

    python -m tallybook.demo.producer ROOT NUMBER OF_HOW_MANY EVENTS START ACKNOWLEDGED_FILE

After each `record()` that returned it notes the count in a shared page, the way an application answers its own caller;
the demo kills it at a count of its choosing and knows exactly what had been acknowledged. The last producer gives every
event an idempotency key, so that whoever takes over after it may record the last ones again.
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

from metering import Recorder
from tallybook.demo.workload import COUNT, work


def main(root: str, number: int, of_how_many: int, events: int, start: int, acknowledged: Path) -> None:
    """Record events `start`, `start` + 1, ... of this producer's part and note how many `record()` calls returned."""
    with acknowledged.open("r+b") as file, mmap.mmap(file.fileno(), COUNT.size) as page:
        # The demo ships at the end, to show the time it takes; an application would leave that to the shipper.
        recorder = Recorder(root, ship="none")
        keyed = number == of_how_many - 1
        done = start
        for event in work(number, of_how_many, events, start=start):
            recorder.record(
                event.meter,
                tenant=event.tenant,
                quantity=event.quantity,
                event_time=event.event_time,
                key=event.key or (f"event_{number}_{done}" if keyed else None),
                **event.attributes,
            )
            done += 1
            COUNT.pack_into(page, 0, done)
        recorder.close()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:6]]
    main(sys.argv[1], numbers[0], numbers[1], numbers[2], numbers[3], Path(sys.argv[6]))
