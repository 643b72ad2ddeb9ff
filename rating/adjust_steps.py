"""Steps 5 to 7 of worth(): discounts, commitments and maximums on the charges, minimums on the rounded lines.

Enters: the tables `charge` and `worth`, and those of rating.adjust_tables. Leaves: more rows of `charge`, each on the line
it lowers or raises, and true-up lines of their own in `worth`.
Refuses: to know what was booked. All of it is worked out on the cumulative net, so that worth minus booked needs no case.
Source: price models, sections 3, 4 and 7.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from metering.engine import fetch, read_sql
from rating.allocation import allocate
from rating.iso4217 import minor_units
from rating.rounding import exact_sum
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb

TRUE_UP_STEPS = ("true_up", "true_up_charge", "true_up_line")
_SHARE_COLUMNS = {"span_id": "int", "price_id": "text", "group_key": "text", "part": "text", "exact_amount": "exact"}


def adjust_charges(engine: duckdb.DuckDBPyConnection) -> None:
    """Add to `charge` what discounts, commitments and maximums change, turn by turn."""
    for number in _turns(engine, "discount"):
        _run(engine, "adjust_percent", turn=number)
        bases = fetch(engine, read_sql("rating", "adjust_fixed_base"), {"turn": number}).to_pylist()
        load_table(engine, "fixed_share", _SHARE_COLUMNS, list(_shares(bases)))
        _run(engine, "adjust_fixed")
    for number in _turns(engine, "ceiling"):
        _run(engine, "adjust_excess", turn=number)


def add_true_ups(engine: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Add to `charge` and `worth` what is missing of the minimums of periods that are over, the narrower ones first."""
    for number in _turns(engine, "minimum"):
        for step in TRUE_UP_STEPS:
            _run(engine, step, **({"turn": number, "as_of": as_of} if step == "true_up" else {}))


def _turns(engine: duckdb.DuckDBPyConnection, table: str) -> Iterable[int]:
    [(last,)] = engine.execute(f"SELECT coalesce(max(turn), 0) FROM {table}").fetchall()
    return range(1, last + 1)


def _run(engine: duckdb.DuckDBPyConnection, step: str, **parameters: object) -> None:
    engine.execute(read_sql("rating", step), parameters or None)


def _shares(bases: Sequence[dict[str, Any]]) -> Iterable[tuple[object, ...]]:
    """Yield what each line bears of a fixed discount; together never more than the lines are worth."""
    for _, members in groupby(bases, key=lambda row: row["pool_id"]):
        rows = list(members)
        shares = share_out(rows[0]["amount"], [row["exact_amount"] for row in rows], minor_units(rows[0]["currency"]))
        for row, share in zip(rows, shares, strict=True):
            yield row["span_id"], row["price_id"], row["group_key"], row["part"], share


def share_out(amount: Decimal, nets: Sequence[Decimal], minor_digits: int) -> list[Decimal]:
    """Return what a fixed discount takes off each line, by largest remainder in minor units; no line falls below zero."""
    if amount >= exact_sum(list(nets)):
        return list(nets)
    return [min(share, net) for share, net in zip(allocate(amount, nets, minor_digits), nets, strict=True)]
