"""This process's own use that no view knows yet: counted when it is recorded, dropped when a view's cut includes it.

Enters: what `consume` recorded, and the positions of the recorder. Leaves: per (tenant, meter) what to add to the view.
Refuses: to count too little. A row that was shipped and is in the view may count twice until the next view; never not at all.

A *mark* remembers the totals of a moment, and then where the recorder was: whatever the totals hold was recorded before, so
a cut that includes the position includes all of it. Positions are read after the totals, never before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from entitlements.decisions import BILLIONTHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from entitlements.view import Fold

Key = tuple[str, str]

# So many marks wait for the lake at most; while it does not move, a later one tells nothing that matters.
MARKS_MAX = 64


class Own:
    """What this process used of one meter for one tenant. In billionths: a sum, or the level that an event set.

    `changed` is the number of the mark after which it changed last, 0: never. `turn` counts the changes.
    """

    __slots__ = ("changed", "total", "turn")

    def __init__(self, total: int = 0, changed: int = 0) -> None:
        self.total = total
        self.changed = changed
        self.turn = 0

    def take(self, quantity: int, fold: Fold, mark: int) -> None:
        """Count one more event."""
        if fold == "adds":
            self.total += quantity
        elif fold == "counts":
            self.total += BILLIONTHS
        elif fold == "raises":
            self.total = max(self.total, quantity)
        elif fold == "sets":
            self.total = quantity
        self.changed = mark
        self.turn += 1


def since_of(own: Own, fold: Fold, used: int) -> int:
    """Return by how much the usage that a view knows changes, in billionths."""
    if fold in {"adds", "counts"}:
        return own.total
    if fold == "raises":
        return max(0, own.total - used)
    # A level that this process did not set is not zero: 0 is set by nothing but the beginning.
    return own.total - used if fold == "sets" and own.changed else 0


@dataclass(frozen=True, slots=True)
class _Mark:
    number: int
    producer: str
    segment: int
    totals: Mapping[Key, int]


class Unshipped:
    """The own use of one process, and the marks that say how much of it a cut includes. Not safe for threads by itself."""

    def __init__(self) -> None:
        self.cells: dict[Key, Own] = {}
        self.folds: dict[Key, Fold] = {}
        # The first mark has number 1, so that what changed is never 0.
        self.mark = 1
        self._marks: list[_Mark] = []

    def cell(self, tenant: str, meter: str, fold: Fold) -> Own:
        key = tenant, meter
        self.folds[key] = fold
        return self.cells.setdefault(key, Own())

    def totals(self) -> dict[Key, int]:
        """Return the totals of now; give them to `note` with a position that was read afterwards."""
        return {key: own.total for key, own in self.cells.items() if own.changed}

    def note(self, totals: Mapping[Key, int], position: tuple[str, int] | None) -> None:
        """Remember that these totals are in the segments up to a position."""
        if position is not None and totals and len(self._marks) < MARKS_MAX:
            self._marks.append(_Mark(self.mark, *position, totals))
            self.mark += 1

    def drop_shipped(self, cut: Mapping[str, int]) -> None:
        """Forget what a cut includes. New cells take the place of the old, which stay as they are for who reads them."""
        shipped = [mark for mark in self._marks if cut.get(mark.producer, 0) >= mark.segment]
        gone = shipped[-1] if shipped else None
        if gone is not None:
            self._marks = [
                _Mark(one.number, one.producer, one.segment, self._without(one.totals, gone.totals))
                for one in self._marks
                if one.number > gone.number
            ]
        kept: dict[Key, Own] = {}
        for key, own in self.cells.items():
            total, changed = own.total, own.changed
            if gone is not None and key in gone.totals:
                if changed <= gone.number:
                    continue
                if self.folds[key] in {"adds", "counts"}:
                    total -= gone.totals[key]
            if changed:
                kept[key] = Own(total, changed)
        self.cells = kept
        self.folds = {key: fold for key, fold in self.folds.items() if key in kept}

    def _without(self, totals: Mapping[Key, int], gone: Mapping[Key, int]) -> dict[Key, int]:
        return {
            key: total - gone.get(key, 0) if self.folds.get(key) in {"adds", "counts"} else total
            for key, total in totals.items()
        }
