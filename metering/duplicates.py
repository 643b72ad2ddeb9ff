"""Duplicates by idempotency key, looked for while the lake grows, so that no invoice waits for it.

Enters: the lake. Leaves: how many stored usage events say again what another one said first, and how many of those say
something else (conflicts). Refuses: to delete either. The first recorded counts, over the whole retention; the others stay
where they are, as evidence: a retry explains itself, and a conflict is a finding of reconciliation.

What is learnt of a data file is kept beside the lake (metering.identities), so the cost follows what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.engine import fetch, open_engine
from metering.usage import Snapshot, load_duplicates

if TYPE_CHECKING:
    from metering.lake import Lake


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many stored usage events repeat a key of their tenant and meter; `conflicts` of them with another payload."""

    rows: int
    conflicts: int


def find_duplicates(lake: Lake) -> Duplicates:
    """Return the duplicates of all that is in the lake now. Idempotent; raises LakeDamaged.

    Files that were found whole before, and did not change since, are not read again.
    """
    # The cut first: what lands in between is in the files, and counts the next time.
    snapshot = Snapshot.of(lake.cut())
    files = lake.data_files()
    lake.verify(files, trusting_earlier=True)
    paths = [file.path for file in files]
    engine = open_engine(paths)
    try:
        load_duplicates(engine, paths, snapshot)
        found = fetch(
            engine, "SELECT count(*) AS rows, count(*) FILTER (WHERE is_conflict) AS conflicts FROM duplicate"
        )
        return Duplicates(**found.to_pylist()[0])
    finally:
        engine.close()
