"""A waterfall as inline SVG: one row per bar, its name, what it is, and its figure as text. No script, no font, no address.

Enters: a Waterfall, what its bars are called and how their figures are written. Leaves: SVG that is legible without colour:
levels are solid, what is explained is light, findings are hatched, the unexplained is black; each kind has a mark of its own.
Refuses: to let a bar that holds something vanish; it is at least as wide as a hair.

Widths are hundredths of a unit of the drawing, by whole-number arithmetic, so that the same figures give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from markupsafe import Markup

from metering.numbers import trimmed

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing_adapters.reconciliation.report import Bar, Waterfall


@dataclass(frozen=True, slots=True)
class Drawn:
    """How a waterfall is drawn. `key` is unique on the page; `link` says where on it a bucket is explained, if anywhere."""

    key: str
    title: str
    name: Callable[[str], str]
    figure: Callable[[Decimal], str]
    link: Callable[[str], str | None]


WIDTH, ROW = 960, 26
_LABEL, _FIGURE = 300, 190
_PLOT = WIDTH - _LABEL - _FIGURE
_HAIR = 200
_MARKS = {
    "level": "",
    "explained": "\N{MINUS SIGN} ",
    "finding": "\N{WARNING SIGN} ",
    "unexplained": "\N{BLACK SQUARE} ",
}


def waterfall_svg(waterfall: Waterfall, drawn: Drawn) -> Markup:
    """Return the drawing."""
    height = ROW * len(waterfall.bars) + 8
    rows = [_row(bar, at, _span(waterfall, at), drawn) for at, bar in enumerate(waterfall.bars)]
    hatch = (
        Markup('<defs><pattern id="hatch-{0}" width="6" height="6" patternTransform="rotate(45)" ')
        + Markup('patternUnits="userSpaceOnUse"><rect width="6" height="6" class="hatch-ground"/>')
        + Markup('<rect width="2.4" height="6" class="hatch-line"/></pattern></defs>')
    ).format(drawn.key)
    return Markup(
        '<svg class="waterfall" viewBox="0 0 {0} {1}" role="img" aria-label="{2}" '
        'xmlns="http://www.w3.org/2000/svg">{3}{4}</svg>'
    ).format(WIDTH, height, drawn.title, hatch, Markup("").join(rows))


def _span(waterfall: Waterfall, at: int) -> tuple[int, int]:
    """Return where a bar begins and ends, in hundredths of the plot's width."""
    lows, highs, running = [], [], Decimal(0)
    for bar in waterfall.bars:
        after = bar.figure if bar.kind == "level" else running - bar.figure
        before = Decimal(0) if bar.kind == "level" else running
        lows.append(min(before, after))
        highs.append(max(before, after))
        running = after
    least, most = min(*lows, Decimal(0)), max(*highs, Decimal(0))
    whole = most - least or Decimal(1)
    first = int((lows[at] - least) * _PLOT * 100 // whole)
    last = int((highs[at] - least) * _PLOT * 100 // whole)
    if last - first < _HAIR and waterfall.bars[at].figure:
        first = max(0, min(first, _PLOT * 100 - _HAIR))
        last = first + _HAIR
    return first, last


def _row(bar: Bar, at: int, span: tuple[int, int], drawn: Drawn) -> Markup:
    top = at * ROW + 4
    is_level = bar.kind == "level"
    fill = Markup(' fill="url(#hatch-{0})"').format(drawn.key) if bar.kind == "finding" else Markup("")
    shown = bar.figure if is_level else -bar.figure
    row = Markup(
        '<g class="bar {kind}"><text x="{label}" y="{base}" text-anchor="end">{mark}{name}</text>'
        '<rect x="{x}" y="{y}" width="{width}" height="{height}"{fill}/>'
        '<text x="{end}" y="{base}" text-anchor="end" class="figure" data-value="{value}">{text}</text></g>'
    ).format(
        kind=bar.kind,
        label=_LABEL - 14,
        base=top + 16,
        mark=_MARKS[bar.kind] if bar.kind != "explained" or bar.figure >= 0 else "+ ",
        name=drawn.name(bar.bucket),
        x=_hundredths(_LABEL * 100 + span[0]),
        y=top + (2 if is_level else 5),
        width=_hundredths(span[1] - span[0]),
        height=ROW - 8 if is_level else ROW - 14,
        fill=fill,
        end=WIDTH - 4,
        value=trimmed(bar.figure),
        text=drawn.figure(shown),
    )
    target = drawn.link(bar.bucket)
    return row if target is None else Markup('<a href="#{0}">{1}</a>').format(target, row)


def _hundredths(number: int) -> str:
    return f"{number // 100}.{number % 100:02}"
