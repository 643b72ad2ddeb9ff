"""What the scheduler keeps in the books: how far every step is, who is at it, and every run that there was.

Enters: a step and the marker that was seen of it. Leaves: claims; and after the work, a marker that moved. Refuses: to move a
marker for somebody whose claim is over.

A claim is a conditional update that raises the row's `fence`, and whatever is written afterwards names it: of two schedulers that
saw the same marker one gets the claim, and one that comes back from the dead moves nothing. Every change of a marker is made by
a claim, so what was decided from a marker still holds when its claim succeeds. Works in SQLite and PostgreSQL alike; no
transaction is open while a step works. `begun` and `done` count claims and successes of all steps together: an order of
events that rests on no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import CheckConstraint, Column, Index, Integer, Table, Text, and_, insert, or_, select, update

from metering.books import insertion, metadata
from metering.columns import Instant
from rating.close import next_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from sqlalchemy import Connection, Engine

SERIES = "steps"
TEXT_CHARACTERS = 1000
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

# One row per (step, place): `done_until` is the end of the last period that is done (of months: wall time written as if it
# were UTC, as in `closes`). `place` is '' for steps on the books, and the journal's name for those of one host.
# `begun`, `done` and `began_at` are of the last run that succeeded. `failures`, `retry_at` and `error` of those since.
step_markers = Table(
    "step_markers",
    metadata,
    Column("step", Text, primary_key=True),
    Column("place", Text, primary_key=True),
    Column("done_until", Instant, nullable=False),
    Column("begun", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("began_at", Instant),
    Column("failures", Integer, nullable=False),
    Column("retry_at", Instant),
    Column("error", Text, nullable=False),
    Column("holder", Text),
    Column("held_until", Instant),
    Column("fence", Integer, nullable=False),
)

# One row per run of a step. `outcome` null: it is under way, or was interrupted and nobody came since.
runs = Table(
    "runs",
    metadata,
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("step", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("period", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("holder", Text, nullable=False),
    Column("began_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("outcome", Text),
    Column("detail", Text, nullable=False),
    Index(None, "step", "place", "fence"),
    CheckConstraint(
        "outcome IN ('done', 'finding', 'failed', 'interrupted', 'overtaken')",
        name="outcome",
    ),
)


@dataclass(frozen=True, slots=True)
class Marker:
    """How far a step is at a place; see `step_markers`."""

    step: str
    place: str
    done_until: datetime
    begun: int
    done: int
    began_at: datetime | None
    failures: int
    retry_at: datetime | None
    error: str
    holder: str | None
    held_until: datetime | None
    fence: int

    def is_free(self, now: datetime) -> bool:
        """Return whether nobody is at it, as far as its lease says."""
        return self.held_until is None or self.held_until <= now


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a step. `outcome` None: under way, or interrupted."""

    run: int
    step: str
    place: str
    period: str
    fence: int
    holder: str
    began_at: datetime
    ended_at: datetime | None
    outcome: str | None
    detail: str


def read_markers(connection: Connection) -> dict[tuple[str, str], Marker]:
    """Return all markers by step and place."""
    rows = connection.execute(select(step_markers).order_by(step_markers.c.step, step_markers.c.place)).mappings()
    return {(row["step"], row["place"]): Marker(**row) for row in rows}


def begin_marker(engine: Engine, step: str, place: str, done_until: datetime) -> None:
    """Insert the marker of a step that never ran, unless it is there."""
    row = {"step": step, "place": place, "done_until": done_until, "begun": 0, "done": 0, "failures": 0, "error": "",
           "fence": 0}  # fmt: skip
    with engine.begin() as connection:
        connection.execute(insertion(connection, step_markers).values(row).on_conflict_do_nothing())


def claim(engine: Engine, seen: Marker, period: str, holder: str, now: datetime, lease: timedelta) -> Run | None:
    """Take a step for one run, if its marker is still the one that was seen and nobody holds it. None: somebody was faster.

    The run is a row without an outcome, durable when this returns. Earlier runs without one are told to be interrupted.
    """
    free = or_(step_markers.c.held_until.is_(None), step_markers.c.held_until <= now)
    fence = seen.fence + 1
    with engine.begin() as connection:
        taken = connection.execute(
            update(step_markers)
            .where(_row_of(seen.step, seen.place, seen.fence), free)
            .values(fence=fence, holder=holder, held_until=now + lease)
        )
        if taken.rowcount != 1:
            return None
        lost = and_(runs.c.step == seen.step, runs.c.place == seen.place, runs.c.outcome.is_(None))
        connection.execute(update(runs).where(lost).values(outcome="interrupted", ended_at=now))
        run = Run(next_number(connection, SERIES), seen.step, seen.place, period, fence, holder, now, None, None, "")
        connection.execute(insert(runs).values({name: getattr(run, name) for name in Run.__slots__}))
    return run


def renew(engine: Engine, run: Run, until: datetime) -> bool:
    """Hold a claim for longer. False: it is somebody else's now."""
    with engine.begin() as connection:
        kept = update(step_markers).where(_row_of(run.step, run.place, run.fence)).values(held_until=until)
        return connection.execute(kept).rowcount == 1


def finish(engine: Engine, run: Run, now: datetime, done_until: datetime, outcome: str, detail: str) -> str:
    """Move the marker behind what was done and give the step back. Returns the outcome: `overtaken` when the claim was over."""
    with engine.begin() as connection:
        values: dict[str, Any] = {"done_until": done_until, "begun": run.run, "began_at": run.began_at, "failures": 0,
                                  "retry_at": None, "error": ""}  # fmt: skip
        return _end(connection, run, now, outcome, detail, values, counts=True)


def fail(engine: Engine, run: Run, now: datetime, failures: int, retry_at: datetime, error: str) -> str:
    """Write down that a run failed and when it may be tried again, and give the step back."""
    values = {"failures": failures, "retry_at": retry_at, "error": error[:TEXT_CHARACTERS]}
    with engine.begin() as connection:
        return _end(connection, run, now, "failed", error, values)


def _end(
    connection: Connection,
    run: Run,
    now: datetime,
    outcome: str,
    detail: str,
    values: dict[str, Any],
    *,
    counts: bool = False,
) -> str:
    # The row is locked before a number is taken, as in `claim`: two who wait for each other would be a deadlock.
    released = {**values, "holder": None, "held_until": None}
    moved = connection.execute(
        update(step_markers).where(_row_of(run.step, run.place, run.fence)).values(**released)
    ).rowcount
    if moved and counts:
        number = next_number(connection, SERIES)
        connection.execute(update(step_markers).where(_row_of(run.step, run.place, run.fence)).values(done=number))
    said = outcome if moved else "overtaken"
    own = update(runs).where(runs.c.run == run.run)
    connection.execute(own.values(ended_at=now, outcome=said, detail=detail[:TEXT_CHARACTERS]))
    return said


def list_runs(
    connection: Connection, *, step: str | None = None, outcomes: Sequence[str] | None = None, limit: int | None = None
) -> list[Run]:
    """Return runs, newest first."""
    query = select(runs).order_by(runs.c.run.desc()).limit(limit)
    if step is not None:
        query = query.where(runs.c.step == step)
    if outcomes is not None:
        query = query.where(runs.c.outcome.in_(outcomes))
    return [Run(**row) for row in connection.execute(query).mappings()]


def forget_runs(engine: Engine, steps: Sequence[str], before: datetime) -> int:
    """Delete the runs of steps that have no periods, begun before an instant. Returns how many."""
    with engine.begin() as connection:
        old = and_(runs.c.step.in_(steps), runs.c.began_at < before, runs.c.outcome.is_not(None))
        return connection.execute(runs.delete().where(old)).rowcount


def _row_of(step: str, place: str, fence: int) -> Any:
    return and_(step_markers.c.step == step, step_markers.c.place == place, step_markers.c.fence == fence)
