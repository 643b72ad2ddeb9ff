"""Questions to a workspace that change nothing: what if the prices were others, what is being used now, what looks wrong.

Enters: an open workspace and the words of an operator. Leaves: answers, computed from the lake and the applied catalog.
Refuses: to book or to keep anything. Two people may ask at once, as often as they like.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from metering.errors import BadPeriod
from metering.periods import WallPeriod, add_months, parse_period
from metering.rollups import Rollups
from metering.usage import open_evidence
from rating.lint import Finding, in_order
from rating.lint_history import lint
from rating.spans import plan_key
from rating.whatif import WhatIf, change_of, whatif_over
from tallybook.catalog import load_catalog, load_plans
from tallybook.ledger_lint import find_unmapped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tallybook.catalog_entries import Catalog
    from tallybook.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    """A finding of lint and the place in the catalog files where its plan or meter begins, `catalog/plans.yaml:12`."""

    finding: Finding
    place: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**self.finding.to_json(), "place": self.place}


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


def wall_before(now: datetime) -> WallPeriod:
    """Return the calendar month before the one that an instant lies in, in UTC."""
    this_month = datetime(now.year, now.month, 1)  # noqa: DTZ001 - a wall period has no zone
    return WallPeriod(add_months(this_month, -1), this_month)


def ask_lint(workspace: Workspace, wall: WallPeriod | None = None) -> list[PlacedFinding]:
    """Return what looks wrong in the catalog files as they stand, priced on the billing periods that end in a span.

    The span is the month before this one if none is given. Raises CatalogInvalid for files with mistakes.
    """
    catalog = load_catalog(workspace.layout.catalog)
    terms = catalog.terms()
    files, snapshot = workspace.evidence()
    rollups = Rollups.of(files)
    engine = open_evidence(files, snapshot, folder=str(rollups.folder) if rollups else None)
    try:
        found = lint(engine, terms, wall or wall_before(workspace.now), rollups=rollups)
    finally:
        engine.close()
    return [PlacedFinding(one, _place_of(catalog, one)) for one in in_order([*found, *find_unmapped(catalog)])]


def _place_of(catalog: Catalog, finding: Finding) -> str:
    kind, key = "meter", finding.meter or ""
    if finding.plan is not None:
        kind, key = "plan", plan_key(finding.plan, finding.version or 0)
    source = catalog.sources.get((kind, key))
    return f"{source.file}:{source.line}" if source else ""
