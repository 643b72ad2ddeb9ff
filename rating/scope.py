"""What a close books of all that is worth something: everything due, late findings only, or accounts over a threshold.

Enters: an engine with `worth` and `line_to_book`. Leaves: `line_to_book` without the lines that are not for this close.
Refuses: to lose them: what is not booked now is worth minus booked again at the next close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.engine import read_sql
from rating.tables import load_table
from rating.thresholds import thresholds_passed

if TYPE_CHECKING:
    import duckdb

    from rating.close import CloseKind
    from rating.terms import Terms


def narrow(engine: duckdb.DuckDBPyConnection, kind: CloseKind, terms: Terms) -> None:
    """Take out of `line_to_book` what a close of this kind does not book."""
    if kind == "corrections":
        engine.execute(read_sql("rating", "scope_corrections"))
    elif kind == "thresholds":
        rows = engine.execute(read_sql("rating", "open_amount")).fetchall()
        reached = []
        for account_id, currency, worth, invoiced in rows:
            thresholds = terms.accounts[account_id].invoice_thresholds
            if thresholds and thresholds_passed(thresholds.amounts, thresholds.every, invoiced, worth):
                reached.append((account_id, currency))
        load_table(engine, "account_reached", {"account_id": "text", "currency": "text"}, reached)
        engine.execute(read_sql("rating", "scope_thresholds"))
