"""Questions to a workspace that change nothing: what if the prices were others, what is being used now, what looks wrong.

Enters: an open workspace and the words of an operator. Leaves: answers, computed from the lake and the applied catalog.
Refuses: to book or to keep anything. Two people may ask at once, as often as they like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.errors import BadPeriod
from metering.periods import WallPeriod, parse_period
from rating.whatif import WhatIf, change_of, whatif_over
from tallybook.catalog import load_plans

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tallybook.workspace import Workspace


def wall_of(first: str, last: str) -> WallPeriod:
    """Return the span from the start of one period to the end of another: 2026-01 and 2026-12 are the year. BadPeriod."""
    start, end = parse_period(first).start, parse_period(last).end
    if end <= start:
        raise BadPeriod(f"--to {last} is before --from {first}; both count, so write the earlier one first")
    return WallPeriod(start, end)


def ask_what_if(
    workspace: Workspace, plan_file: Path | None, wall: WallPeriod, replaced: Mapping[str, str] | None = None
) -> WhatIf:
    """Return what the billing periods that end in a span are worth under the applied terms and under new plans.

    Raises CatalogInvalid for a file with mistakes, NotFound for plans that nobody is on.
    """
    catalog = workspace.catalog()
    plans = load_plans(plan_file, catalog) if plan_file else ()
    change = change_of(workspace.terms(catalog.revision), plans, replaced)
    files, snapshot = workspace.evidence()
    return whatif_over(files, snapshot, change, wall)
