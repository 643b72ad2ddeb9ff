"""What a close books of all that is worth something: everything due, late findings only, or accounts over a threshold.

A plan may freeze what was invoiced (rating.frozen); that is left out of every close.

Enters: an engine with `worth` and `line_to_book`. Leaves: `line_to_book` without the lines that are not for this close.
Refuses: to lose them: what is not booked now is worth minus booked again at the next close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.engine import read_sql
from rating.frozen import freeze
from rating.tables import load_table
from rating.thresholds import thresholds_passed

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb

    from rating.close import CloseKind
    from rating.terms import Terms


def narrow(engine: duckdb.DuckDBPyConnection, kind: CloseKind, terms: Terms, frozen: Iterable[int] = ()) -> None:
    """Take out of `line_to_book` what a close of this kind does not book, and what the spans `frozen` would."""
    freeze(engine, frozen)
    if kind == "corrections":
        engine.execute(read_sql("rating", "scope_corrections"))
    elif kind == "thresholds":
        rows = engine.execute(read_sql("rating", "open_amount")).fetchall()
        counts = _threshold_counts(engine, terms)
        reached = []
        for account_id, currency, worth, invoiced in rows:
            thresholds = terms.accounts[account_id].invoice_thresholds
            is_from_zero = counts.get((account_id, currency)) == {"from_zero"}
            if thresholds and thresholds_passed(
                thresholds.amounts, thresholds.every, invoiced, worth, from_zero=is_from_zero
            ):
                reached.append((account_id, currency))
        load_table(engine, "account_reached", {"account_id": "text", "currency": "text"}, reached)
        engine.execute(read_sql("rating", "scope_thresholds"))


def _threshold_counts(engine: duckdb.DuckDBPyConnection, terms: Terms) -> dict[tuple[str, str], set[str]]:
    """Return from where the plans of each account and currency count its recurring thresholds; where they differ, ours holds."""
    found: dict[tuple[str, str], set[str]] = {}
    rows = engine.execute(
        "SELECT DISTINCT account_id, currency, plan_key FROM billing_span WHERE is_current"
    ).fetchall()
    for account_id, currency, key in rows:
        found.setdefault((account_id, currency), set()).add(terms.plans[key].reading["threshold_count"])
    return found
