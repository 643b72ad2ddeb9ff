"""The decision that a period is worth what it is worth now: its snapshot, its catalog, its instant.

Enters: the period asked for and the state of the books. Leaves: a Close, inserted if absent and then read back, so that
of two schedulers both use the same one.
Refuses: locks. What follows from a close is a pure function of it and of the closes before it (`position`).

A period may be closed more than once only while it is still open: each such cut (sequence 1, 2, ...) is a progressive
invoice. The cut that saw the period's end is complete; after it the period is never cut again, and what is found later
is booked as corrections by the closes of later periods.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection, select

from metering.books import insertion, snapshots
from metering.periods import WallPeriod
from metering.usage import Snapshot
from rating.books import closes, number_series

if TYPE_CHECKING:
    from sqlalchemy import Table

DRAFT_SEQUENCE = 0
# What a close books: all that is due, only corrections of periods closed before, or accounts over their threshold.
CloseKind = Literal["period", "corrections", "thresholds"]


@dataclass(frozen=True, slots=True)
class Close:
    """One row of the books' `closes`, with its snapshot."""

    close_id: str
    period_start: datetime
    period_end: datetime
    sequence: int
    position: int
    as_of: datetime
    is_complete: bool
    kind: CloseKind
    snapshot: Snapshot
    catalog_revision: int
    invoices_made: bool

    @property
    def wall(self) -> WallPeriod:
        """The period as local time, to be read in each plan's own zone."""
        return WallPeriod(self.period_start.replace(tzinfo=None), self.period_end.replace(tzinfo=None))

    @staticmethod
    def bounds(wall: WallPeriod) -> tuple[datetime, datetime]:
        """Return how a wall period stands in the books: its local times, written as if they were UTC."""
        return wall.start.replace(tzinfo=UTC), wall.end.replace(tzinfo=UTC)

    @property
    def is_draft(self) -> bool:
        return self.sequence == DRAFT_SEQUENCE


def close_id_of(wall: WallPeriod, sequence: int) -> str:
    """Return the id of a close: the same for whoever closes the same period the same number of times."""
    text = f"{wall.start.isoformat()}/{wall.end.isoformat()}/{sequence}"
    return "close-" + hashlib.sha256(text.encode()).hexdigest()[:24]


def draft_close(
    connection: Connection, wall: WallPeriod, *, as_of: datetime, snapshot: Snapshot, catalog_revision: int
) -> Close:
    """Return the close that a draft of a period stands for: after all that is booked, and itself not in the books."""
    # Closes and voids share one series of positions.
    last = connection.scalar(select(number_series.c.last_number).where(number_series.c.series == "close"))
    start, end = Close.bounds(wall)
    return Close(
        close_id=close_id_of(wall, DRAFT_SEQUENCE),
        period_start=start,
        period_end=end,
        sequence=DRAFT_SEQUENCE,
        position=(last or 0) + 1,
        as_of=as_of,
        is_complete=False,
        kind="period",
        snapshot=snapshot,
        catalog_revision=catalog_revision,
        invoices_made=False,
    )


def insert_close(
    connection: Connection,
    wall: WallPeriod,
    sequence: int,
    *,
    as_of: datetime,
    is_complete: bool,
    snapshot: Snapshot,
    catalog_revision: int,
    kind: CloseKind = "period",
) -> Close:
    """Insert a close if absent and return the one that is there, ours or another's.

    A clock that stepped back does not take back what was due: a close is as of the latest instant that any close was.
    """
    close_id = close_id_of(wall, sequence)
    if (there := read_close(connection, close_id)) is not None:
        return there
    start, end = Close.bounds(wall)
    as_of = max([as_of, *(close.as_of for close in read_closes(connection) if not close.is_draft)])
    close = Close(
        close_id=close_id,
        period_start=start,
        period_end=end,
        sequence=sequence,
        position=next_number(connection, "close"),
        as_of=as_of,
        is_complete=is_complete,
        kind=kind,
        snapshot=snapshot,
        catalog_revision=catalog_revision,
        invoices_made=False,
    )
    write_close(connection, close)
    return read_close(connection, close_id) or close


def write_close(connection: Connection, close: Close) -> None:
    """Write a close and the snapshot it pins, unless they are there already."""
    snapshot = {
        "snapshot_id": close.snapshot.snapshot_id,
        "cut": close.snapshot.to_json(),
        "taken_at": close.as_of,
    }
    insert_if_absent(connection, snapshots, snapshot)
    row = {name: getattr(close, name) for name in Close.__slots__ if name != "snapshot"}
    insert_if_absent(connection, closes, {**row, "snapshot_id": close.snapshot.snapshot_id})


def read_close(connection: Connection, close_id: str) -> Close | None:
    """Return a close by id, or None."""
    found = read_closes(connection, close_id=close_id)
    return found[0] if found else None


def read_closes(connection: Connection, *, close_id: str | None = None, wall: WallPeriod | None = None) -> list[Close]:
    """Return closes in the order of their positions, drafts included; all, one, or those of a period."""
    query = select(closes, snapshots.c.cut).join(snapshots, snapshots.c.snapshot_id == closes.c.snapshot_id)
    if close_id is not None:
        query = query.where(closes.c.close_id == close_id)
    if wall is not None:
        start, end = Close.bounds(wall)
        query = query.where(closes.c.period_start == start, closes.c.period_end == end)
    rows = connection.execute(query.order_by(closes.c.position, closes.c.sequence)).mappings()
    return [
        Close(
            close_id=row["close_id"],
            period_start=row["period_start"],
            period_end=row["period_end"],
            sequence=row["sequence"],
            position=row["position"],
            as_of=row["as_of"],
            is_complete=row["is_complete"],
            kind=row["kind"],
            snapshot=Snapshot.from_json(row["cut"]),
            catalog_revision=row["catalog_revision"],
            invoices_made=row["invoices_made"],
        )
        for row in rows
    ]


def last_cut(connection: Connection) -> tuple[tuple[str, int], ...]:
    """Return what the last close, drafts left out, had of every producer; nothing before the first."""
    query = (
        select(snapshots.c.cut)
        .join(closes, snapshots.c.snapshot_id == closes.c.snapshot_id)
        .where(closes.c.sequence != DRAFT_SEQUENCE)
        .order_by(closes.c.position.desc())
        .limit(1)
    )
    cut: str | None = connection.scalar(query)
    return () if cut is None else Snapshot.from_json(cut).cut


def next_number(connection: Connection, series: str, count: int = 1) -> int:
    """Take `count` numbers of a gapless series and return the first. The row stays locked until the transaction ends."""
    insert_if_absent(connection, number_series, {"series": series, "last_number": 0})
    query = select(number_series.c.last_number).where(number_series.c.series == series).with_for_update()
    last: int = connection.execute(query).scalar_one()
    connection.execute(number_series.update().where(number_series.c.series == series).values(last_number=last + count))
    return last + 1


def insert_if_absent(connection: Connection, table: Table, row: dict[str, object]) -> None:
    """Insert a row unless its key is there already. Says nothing of which happened: read back and use what is there."""
    connection.execute(insertion(connection, table).values(row).on_conflict_do_nothing())
