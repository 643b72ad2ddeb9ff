"""Is the lake still the one that the books were made from? What is missing of it would be credited to everybody, in good order.

Enters: an open workspace. Leaves: the cut of the lake now. Refuses: a lake that holds less of a producer than the last close had:
a volume that is not mounted, a folder that was deleted, a backup that is older than the books. Nothing is invoiced or compared.

A later cut holds all of an earlier one, because segments are added and never taken away; so the last close answers for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.errors import LakeDamaged
from metering.usage import Snapshot
from rating.close import last_cut
from tallybook.books import reading

if TYPE_CHECKING:
    from tallybook.workspace import Workspace


def whole_cut(workspace: Workspace) -> Snapshot:
    """Return the cut of the lake now. Raises LakeDamaged (Terminal) where the last close had more of it."""
    # The books first: what is shipped in between is more, and no less.
    with reading(workspace.books) as connection:
        before = last_cut(connection)
    held = workspace.lake.cut()
    less = [(producer, segment) for producer, segment in before if held.get(producer, -1) < segment]
    if less:
        producer, segment = less[0]
        there = f"its segments up to {held[producer]}" if producer in held else "nothing"
        raise LakeDamaged(
            f"the lake is not whole: of {len(less):,} producers it holds less than the last close had, of {producer} {there} "
            f"instead of those up to {segment}; mount or restore the lake that belongs to these books, and run it again"
        )
    return Snapshot.of(held)
