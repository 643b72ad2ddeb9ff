"""How far a delivery is: plain lines by time, bars by adapter, and silence where nothing is due."""

from __future__ import annotations

import io

from rich.console import Console

from tallybook.delivery_progress import RESUMED, Lines, delivery_progress


def test_a_line_every_ten_seconds_and_at_the_end_of_each_adapter() -> None:
    said, now = io.StringIO(), [0.0]
    lines = Lines(Console(file=said, width=200), lambda: now[0])
    lines.due("files", 0)
    lines.due("stripe", 2000)
    for at in range(0, 25, 4):
        now[0] = float(at)
        lines.done(100)
    lines.due("stripe_meters", 1)
    lines.done(2)
    lines.close()
    lines.close()
    assert said.getvalue().splitlines() == [
        RESUMED,
        "stripe: 2,000 due",
        "stripe: 400 of 2,000 tried",
        "stripe: 700 of 2,000 tried",
        "stripe_meters: 1 due",
        "stripe_meters: 2 of 2 tried",
    ]


def test_a_bar_on_a_terminal() -> None:
    said = io.StringIO()
    console = Console(file=said, width=120, force_terminal=True)
    with delivery_progress(console, is_silent=False) as shown:
        shown.due("files", 0)
        shown.due("stripe", 1234)
        shown.done(1000)
    assert RESUMED in said.getvalue()
    assert "1,000 of 1,234" in said.getvalue()
    assert "files" not in said.getvalue()


def test_nothing_where_silence_is_asked_for() -> None:
    said = io.StringIO()
    with delivery_progress(Console(file=said, force_terminal=True), is_silent=True) as shown:
        shown.due("stripe", 3)
        shown.done(3)
    assert said.getvalue() == ""
