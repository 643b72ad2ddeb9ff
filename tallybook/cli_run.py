"""The command line of what runs by itself: the scheduler, how its steps stand, what they did, and the close of a period.

Enters: words of an operator. Leaves: tables or JSON; exit code 1 when a step failed or found something. Refuses: to run at an
instant that has not come yet.

A signal lets every step in hand finish and no further one begin. A second one ends the process at once, which is safe, too.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metering.clock import FixedClock, iso_utc
from metering.errors import BadPeriod
from tallybook.cli_shell import DONE, FINDING, JsonOption, PeriodOption, State, err, open_workspace, out, print_json
from tallybook.show import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tallybook.run_books import Run
    from tallybook.runner import Standing

running = typer.Typer()
RUNS_SHOWN = 50
StepOption = Annotated[
    list[str] | None, typer.Option("--step", help="Only this step; may be repeated. `tallybook steps` lists them.")
]


@running.command()
def run(
    once: Annotated[
        bool, typer.Option("--once", help="Do all that is due now, and end; for cron and the like.")
    ] = False,
    step: StepOption = None,
    at: Annotated[
        str | None, typer.Option("--at", help="With --once: as if it were this instant, which must be over.")
    ] = None,
    health_port: Annotated[
        int | None, typer.Option("--health-port", min=0, max=65535, help="Serve /health on this port; 0: any.")
    ] = None,
    health_host: Annotated[str, typer.Option("--health-host", help="The address to serve it on.")] = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Run all steps when they are due: ship, maintain, close, invoice, deliver, reconcile and the rest.

    Runs until SIGTERM or SIGINT, or with --once until nothing is due; a signal lets the step in hand finish. Any number may run
    at once, on any number of hosts.
    """
    only = _checked(step or ())
    if at is not None and not once:
        raise typer.BadParameter("--at goes with --once")
    if health_port is not None and once:
        raise typer.BadParameter("--health-port is for a scheduler that stays; leave it out with --once")
    if not once:
        _run_forever(only, health_port, health_host)
        return
    from tallybook.runner import Runner
    from tallybook.workspace import Workspace

    stopping = threading.Event()
    clock = None if at is None else FixedClock(_past(at))
    with Workspace(State.root, clock=clock) as workspace, stopping_on_signals(stopping):
        runner = Runner(workspace, only=only, stopping=stopping, on_run=lambda _run: None if as_json else _say(_run))
        made = runner.run_due()
        standings = runner.standings()
    if as_json:
        print_json({"runs": [_run_json(one) for one in made], "steps": [_standing_json(one) for one in standings]})
    elif not made and not stopping.is_set():
        err.print("Nothing was due.", highlight=False)
    if stopping.is_set():
        err.print("Stopped; the next call goes on.", highlight=False)
    raise typer.Exit(FINDING if any(one.outcome != "done" for one in made) else DONE)


def _run_forever(only: Sequence[str], health_port: int | None, health_host: str) -> None:
    from tallybook.cli_shell import report
    from tallybook.run_health import serve_health
    from tallybook.scheduling import Scheduler

    scheduler = Scheduler(State.root, only=only, on_run=_say, on_error=lambda _step, error: report(error))
    with (
        stopping_on_signals(scheduler.stopping),
        serve_health(State.root, scheduler, health_host, health_port) as address,
    ):
        err.print(f"Running as {scheduler.holder}; SIGTERM or Ctrl-C stops after the step in hand.", highlight=False)
        if address is not None:
            err.print(f"Health: {address}/health", highlight=False)
        scheduler.run()
    err.print("Stopped.", highlight=False)


@contextmanager
def stopping_on_signals(stopping: threading.Event) -> Iterator[None]:
    """Set an event at the first SIGTERM or SIGINT while the block lasts; a second one does what it would do without us."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, _frame: Any) -> None:
        signal.signal(number, before[signal.Signals(number)])
        stopping.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@running.command()
def steps(as_json: JsonOption = False) -> None:
    """The steps that run by themselves: how far each is, when it is next, what it waits for."""
    from tallybook.runner import Runner

    with open_workspace() as workspace:
        standings = Runner(workspace).standings()
    if as_json:
        print_json({"steps": [_standing_json(one) for one in standings]})
        return
    columns = [
        ("step", "left"),
        ("of", "left"),
        ("what", "left"),
        ("next", "left"),
        ("", "left"),
        ("last error", "left"),
    ]
    rows = [
        (
            one.step.name,
            one.marker.place,
            one.step.does,
            "" if one.coming is None else one.coming.period,
            one.obstacle or "due",
            one.marker.error,
        )
        for one in standings
    ]
    out.print(table("", columns, rows))


@running.command()
def runs(
    step: Annotated[str | None, typer.Option("--step", help="Only of this step.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that did not end well.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, newest first.")] = RUNS_SHOWN,
    as_json: JsonOption = False,
) -> None:
    """What ran by itself: when, who did it, and what became of it."""
    from tallybook.books import reading
    from tallybook.run_books import list_runs

    outcomes = ["failed", "interrupted", "overtaken", "finding"] if failed else None
    with open_workspace() as workspace, reading(workspace.books) as connection:
        found = list_runs(connection, step=step, outcomes=outcomes, limit=limit)
    if as_json:
        print_json({"runs": [_run_json(one) for one in found]})
        return
    columns = [("run", "right"), ("step", "left"), ("of", "left"), ("period", "left"), ("began", "left"), ("", "left"),
               ("what", "left"), ("by", "left")]  # fmt: skip
    rows = [
        (one.run, one.step, one.place, one.period, iso_utc(one.began_at), one.outcome or "under way", one.detail,
         one.holder)
        for one in found
    ]  # fmt: skip
    out.print(table("", columns, rows))


@running.command()
def close(period: PeriodOption, as_json: JsonOption = False) -> None:
    """Close a period that is over: pin what its invoices are made from. `tallybook invoice --final` books them."""
    with open_workspace() as workspace:
        done = workspace.close_period(period)
    if as_json:
        print_json(
            {
                "close_id": done.close_id,
                "as_of": iso_utc(done.as_of),
                "snapshot_id": done.snapshot.snapshot_id,
                "catalog_revision": done.catalog_revision,
                "is_invoiced": done.invoices_made,
            }
        )
    else:
        out.print(f"{period} is closed as of {iso_utc(done.as_of)}: {done.close_id}", highlight=False)


def _checked(names: Sequence[str]) -> list[str]:
    from tallybook.steps import BY_NAME

    for name in names:
        if name not in BY_NAME:
            raise typer.BadParameter(f"there is no step {name!r}; the steps are {', '.join(BY_NAME)}")
    return list(names)


def _past(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as refused:
        raise BadPeriod(f"{text!r} is no instant; write 2026-11-01T03:00:00Z") from refused
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    if at > datetime.now(UTC):
        raise BadPeriod(f"{text} has not come yet; what will have been used by then is not known")
    return at


def _say(one: Run) -> None:
    place = f" {one.place}" if one.place else ""
    said = f"{iso_utc(one.began_at)} {one.step}{place} {one.period}: {one.outcome}, {one.detail}"
    err.print(said, markup=False, highlight=False, soft_wrap=True)


def _run_json(one: Run) -> dict[str, Any]:
    return {name: _plain(getattr(one, name)) for name in one.__slots__}


def _standing_json(one: Standing) -> dict[str, Any]:
    coming = one.coming
    return {
        "step": one.step.name,
        "place": one.marker.place,
        "does": one.step.does,
        "command": f"tallybook {one.step.command}",
        "grain": one.step.grain,
        "done_until": _plain(one.marker.done_until),
        "next_period": None if coming is None else coming.period,
        "due_at": None if coming is None else iso_utc(coming.due_at),
        "waits_for": one.obstacle,
        "failures": one.marker.failures,
        "error": one.marker.error,
    }


def _plain(value: Any) -> Any:
    return iso_utc(value) if isinstance(value, datetime) else value
