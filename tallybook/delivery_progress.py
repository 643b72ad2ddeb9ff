"""How far a delivery is, while it runs: a bar on a terminal, plain lines elsewhere, nothing for who asked for JSON.

Enters: how many items are due for an adapter, counted after enqueuing, and how many of them were tried since. Leaves: a bar
or lines on the console given. Refuses: to speak where nothing is due, so that a scheduler's log stays quiet.
"""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import TaskID

LINE_EVERY_S = 10.0
RESUMED = "It may be interrupted at any time: `tallybook deliver` goes on where it stopped, and sends nothing twice."


class DeliveryProgress(Protocol):
    """What a delivery tells."""

    def due(self, adapter: str, items: int) -> None:
        """So many items of an adapter are due now; what is done from here on is done of these."""

    def done(self, items: int) -> None:
        """So many more were tried, whatever became of them."""


class Silent:
    """Says nothing."""

    def due(self, adapter: str, items: int) -> None:
        """Say nothing."""

    def done(self, items: int) -> None:
        """Say nothing."""


class Lines:
    """A line at the beginning, one every ten seconds, and one at the end. `now` gives seconds that only grow."""

    def __init__(self, console: Console, now: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._now = now
        self._adapter, self._is_begun = "", False
        self._total, self._count, self._said_at, self._said = 0, 0, 0.0, 0

    def due(self, adapter: str, items: int) -> None:
        self.close()
        if items and not self._is_begun:
            self._is_begun = True
            self._say(RESUMED)
        self._adapter, self._total, self._count, self._said = adapter, items, 0, 0
        self._said_at = self._now()
        if items:
            self._say(f"{adapter}: {items:,} due")

    def done(self, items: int) -> None:
        self._count += items
        if self._now() - self._said_at >= LINE_EVERY_S:
            self._say_count()

    def close(self) -> None:
        """Say where the adapter ended, if that was not said."""
        if self._count > self._said:
            self._say_count()

    def _say_count(self) -> None:
        self._said, self._said_at = self._count, self._now()
        self._say(f"{self._adapter}: {self._count:,} of {max(self._total, self._count):,} tried")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)


class Bars:
    """A bar for each adapter that has something due."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._total = self._count = 0

    def due(self, adapter: str, items: int) -> None:
        if items and not self._bars.tasks:
            self._bars.console.print(RESUMED, markup=False, highlight=False)
        self._total, self._count = items, 0
        self._task = self._bars.add_task(adapter, total=items) if items else None

    def done(self, items: int) -> None:
        self._count += items
        if self._task is None:
            self._task = self._bars.add_task("more", total=items)
        # What others enqueued meanwhile is done by this run as well.
        self._bars.update(self._task, advance=items, total=max(self._total, self._count))


@contextmanager
def delivery_progress(console: Console, *, is_silent: bool) -> Iterator[DeliveryProgress]:
    """Give what shows progress on a console; an interruption is told what it means."""
    try:
        if is_silent:
            yield Silent()
        elif console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            )
            with Progress(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True
            ) as bars:
                yield Bars(bars)
        else:
            lines = Lines(console)
            yield lines
            lines.close()
    except KeyboardInterrupt:
        if not is_silent:
            console.print(f"Interrupted. {RESUMED}", markup=False, highlight=False)
        raise
