"""The conservation statement of a workspace: what is in the journal, the lake, the books and the catalog, compared.

Enters: an open workspace and a period. Leaves: a Statement with what every control found, those of the workspace's own
`controls/` folder among them. Refuses: to write anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from billing_adapters.reconciliation import Bookings, Capture, conservation, in_flight_of
from billing_adapters.reconciliation.controls import all_controls, parameters_of
from billing_adapters.reconciliation.rolled_up import rolled_up
from metering.engine import fetch, read_sql
from metering.in_flight import in_flight
from metering.meters import load_rules
from metering.periods import parse_period
from metering.usage import open_evidence
from rating.close import Close, read_closes
from rating.ledger import booked_before
from rating.terms import billing_spans
from rating.whatif import without_overrides
from tallybook.books import reading
from tallybook.control_inputs import (
    accepted_windows,
    acts_of,
    authority_of,
    burns_of,
    closes_of,
    discounts_given,
    documents_since,
    payments_read,
    prices_listed,
    windows_of,
)
from tallybook.overuse import entitled_use
from tallybook.provider_side import both_sides
from tallybook.whole_lake import whole_cut

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb
    import pyarrow as pa
    from sqlalchemy import Connection

    from billing_adapters.reconciliation import Statement
    from billing_adapters.reconciliation.controls import Control
    from metering.periods import WallPeriod
    from metering.usage import Snapshot
    from rating.terms import Terms
    from tallybook.workspace import Workspace

CONTROLS_FOLDER = "controls"
EARLIER = timedelta(days=35)


def reconcile(workspace: Workspace, period: str, given: Mapping[str, pa.Table] | None = None) -> Statement:
    """Return the conservation statement of a period. `given` adds inputs of controls, such as a witness."""
    return compare(workspace, period, given).statement


@dataclass(frozen=True, slots=True)
class Compared:
    """A statement, the snapshot that it was read at, amounts per (currency, bucket) from list price to rated value, units per
    (currency, meter) that prices ask nothing for; part and whole of key figures; and whether each provider's list was read."""

    statement: Statement
    snapshot: Snapshot
    list_values: Mapping[tuple[str, str], Decimal]
    included: Mapping[tuple[str, str], Decimal]
    shares: Mapping[tuple[str, str | None], tuple[Decimal, Decimal]]
    statements: Mapping[str, bool]


def compare(workspace: Workspace, period: str, given: Mapping[str, pa.Table] | None = None) -> Compared:
    """Return the conservation statement of a period, and what a report says beside it.

    Reads the journal first and the lake afterwards, so that what moves in between is counted once.
    """
    wall = parse_period(period)
    layout = workspace.layout
    journal = in_flight_of(in_flight(layout, load_rules(layout.meters_file), workspace.clock.now_us()))
    files, snapshot = workspace.evidence(whole_cut(workspace))
    capture = Capture(snapshot, workspace.lake.segments(), workspace.lake.dead_letters(), journal)
    terms = workspace.terms_or_empty()
    with reading(workspace.books) as connection:
        closes = [close for close in read_closes(connection) if not close.is_draft]
        spans = billing_spans(terms, wall)
        since = min((one.period.start for one in spans.stretches), default=wall.in_zone("UTC").start)
        bookings = Bookings(
            *booked_before(connection, None, since),
            is_complete=any(close.is_complete for close in closes if close.wall == wall),
        )
        # One billing period more: what a unit really cost before is the second best guess of what one is worth.
        documents = _of_books(connection, terms, closes, wall, since - EARLIER)
    catalog = workspace.catalog_or_empty()
    windows = windows_of(catalog.contracts, workspace.settings.delivery, terms)
    inputs = {
        **documents,
        **closes_of(closes, *Close.bounds(wall), catalog.revision or 0),
        **prices_listed(workspace.settings.list_prices),
        **_concessions(workspace, terms, wall, files, snapshot),
        **accepted_windows(windows),
        **_stored_at_close(files, closes, documents, wall),
        **rolled_up(files, wall.start.replace(tzinfo=UTC), wall.end.replace(tzinfo=UTC)),
        **(given or {}),
    }
    controls, refused = all_controls(layout.root / CONTROLS_FOLDER, workspace.settings.controls)
    sides = both_sides(workspace, wall)
    entitled = entitled_use(workspace, wall, (files, snapshot))
    ends = max((one.period.end for one in spans.stretches), default=workspace.now)
    engine = open_evidence(files, snapshot)
    try:
        statement = conservation(
            engine, wall, capture, terms, bookings,
            as_of=max(workspace.now, ends), entitled=entitled,
            given={**sides.given, **inputs}, controls=controls, refused=refused,
            looked_at=workspace.now, windows=windows, compared=sides.compared,
        )  # fmt: skip
        values, included = (
            fetch(engine, read_sql("billing_adapters.reconciliation", name)).to_pylist()
            for name in ("list_value", "included_use")
        )
        shares = _shares(engine, controls, wall, workspace.now)
    finally:
        engine.close()
    return Compared(
        statement,
        snapshot,
        {(row["currency"], row["bucket"]): row["amount"] for row in values},
        {(row["currency"], row["meter"]): row["quantity"] for row in included},
        shares,
        {one.adapter: bool(one.tables) for one in sides.compared},
    )


def _shares(
    engine: duckdb.DuckDBPyConnection, controls: Sequence[Control], wall: WallPeriod, now: datetime
) -> dict[tuple[str, str | None], tuple[Decimal, Decimal]]:
    """Return part and whole of each key figure that is counted in the tables of the controls, by name and currency."""
    dates = wall.in_zone("UTC")
    settings = {one.control_id: parameters_of(one) for one in controls}
    values: dict[str, dict[str, object]] = {
        "capture_rate": {
            "start_instant": dates.start, "end_instant": dates.end,
            "ratio": settings.get("WITNESS_RATIO", {}).get("ratio", 1),
        },
        "unbilled_rate": {"as_of": now},
        "late_usage_share": {},
    }  # fmt: skip
    return {
        (name.replace("_", " "), row["currency"]): (row["part"], row["whole"])
        for name, parameters in values.items()
        for row in fetch(engine, read_sql("billing_adapters.reconciliation", name), parameters).to_pylist()
    }


def _stored_at_close(
    files: list[str], closes: Sequence[Close], documents: Mapping[str, pa.Table], wall: WallPeriod
) -> dict[str, pa.Table]:
    """Return what the lake holds now of the cut of the close that attributed the usage of the period; nothing without one."""
    if "attributed_close" not in documents:
        return {}
    [close_id] = documents["attributed_close"]["close_id"].to_pylist()
    [snapshot] = [close.snapshot for close in closes if close.close_id == close_id]
    dates = wall.in_zone("UTC")
    engine = open_evidence(files, snapshot)
    try:
        values: dict[str, object] = {"start_instant": dates.start, "end_instant": dates.end}
        return {
            "stored_at_close": fetch(engine, read_sql("billing_adapters.reconciliation", "stored_at_close"), values)
        }
    finally:
        engine.close()


def _concessions(
    workspace: Workspace, terms: Terms, wall: WallPeriod, files: list[str], snapshot: Snapshot
) -> dict[str, pa.Table]:
    """Return who may give away how much and, where somebody said so, what overrides gave away: all is rated without them."""
    authority = authority_of(workspace.settings.discount_authority)
    if not authority or not any(one.overrides for one in terms.subscriptions):
        return authority
    engine = open_evidence(files, snapshot)
    try:
        return {**authority, "override_given": without_overrides(engine, terms, wall)}
    finally:
        engine.close()


def _of_books(
    connection: Connection, terms: Terms, closes: Sequence[Close], wall: WallPeriod, since: datetime
) -> dict[str, pa.Table]:
    """Return what controls read of the books: documents of billing periods since an instant, and what only all of them tell."""
    return {
        **documents_since(connection, since),
        **burns_of(connection),
        **discounts_given(connection, terms),
        **payments_read(connection),
        **acts_of(connection, closes, *Close.bounds(wall)),
    }
