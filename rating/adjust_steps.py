"""Steps 5 to 7 of worth(): discounts and commitments on exact nets, maximums and minimums on what the lines are rounded to.

Enters: the tables `charge` and `worth`, and those of rating.adjust_tables. Leaves: more rows of `charge`, each on the line
it lowers or raises, and true-up lines of their own in `worth`.
Refuses: to know what was booked. All of it is worked out on the cumulative net, so that worth minus booked needs no case.
Source: price models, sections 3, 4 and 7.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any

from metering.engine import fetch, read_sql
from rating.allocation import allocate, allocate_exactly
from rating.iso4217 import minor_units
from rating.rounding import exact_sum, round_amount, round_fraction
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    import duckdb

TRUE_UP_STEPS = ("true_up_ceiling", "true_up", "true_up_charge", "true_up_line")
_ASKED = {"true_up_ceiling": ("turn",), "true_up": ("turn", "as_of")}
_FIVE = 5
_ZERO = Decimal(0)
_SHARE_COLUMNS = {"span_id": "int", "price_id": "text", "group_key": "text", "part": "text", "exact_amount": "exact"}


def adjust_charges(engine: duckdb.DuckDBPyConnection) -> None:
    """Add to `charge` what discounts, commitments and maximums change, turn by turn."""
    for number in _turns(engine, "discount"):
        _run(engine, "adjust_percent", turn=number)
        _round_components(engine)
        bases = fetch(engine, read_sql("rating", "adjust_fixed_base"), {"turn": number}).to_pylist()
        load_table(engine, "fixed_share", _SHARE_COLUMNS, list(_shares(bases)))
        _run(engine, "adjust_fixed")
        _round_components(engine)
    commitments = _turns(engine, "commitment")
    if commitments:
        _run(engine, "commitment_net")
    for number in commitments:
        bases = fetch(engine, read_sql("rating", "adjust_excess_base"), {"turn": number}).to_pylist()
        _run(engine, "adjust_excess", turn=number)
        if bases:
            load_table(engine, "excess_share", _SHARE_COLUMNS, list(_excess_shares(bases)))
            _run(engine, "adjust_excess_shared")
        _round_components(engine)
    for number in _turns(engine, "maximum"):
        _run(engine, "adjust_maximum", turn=number)
        _round_components(engine)


def add_true_ups(engine: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Add to `charge` and `worth` what is missing of the minimums of periods that are over, the narrower ones first."""
    for number in _turns(engine, "minimum"):
        for step in TRUE_UP_STEPS:
            asked = {"turn": number, "as_of": as_of}
            _run(engine, step, **{name: asked[name] for name in _ASKED.get(step, ())})


def _round_components(engine: duckdb.DuckDBPyConnection) -> None:
    """Round what a step added, where a plan rounds every component: the next step sees rounded ones."""
    if engine.execute("SELECT 1 FROM price WHERE rounds_components LIMIT 1").fetchall():
        _run(engine, "round_component")


def _turns(engine: duckdb.DuckDBPyConnection, table: str) -> range:
    [(last,)] = engine.execute(f"SELECT coalesce(max(turn), 0) FROM {table}").fetchall()
    return range(1, last + 1)


def _run(engine: duckdb.DuckDBPyConnection, step: str, **parameters: object) -> None:
    engine.execute(read_sql("rating", step), parameters or None)


def _shares(bases: Sequence[dict[str, Any]]) -> Iterable[tuple[object, ...]]:
    """Yield what each line bears of a fixed discount; together never more than the lines are worth."""
    for _, members in groupby(bases, key=lambda row: row["pool_id"]):
        rows = list(members)
        nets = [row["exact_amount"] for row in rows]
        shares = share_out(rows[0]["amount"], nets, minor_units(rows[0]["currency"]), rows[0]["residue"])
        for row, share in zip(rows, shares, strict=True):
            yield row["span_id"], row["price_id"], row["group_key"], row["part"], share


def _excess_shares(bases: Sequence[dict[str, Any]]) -> Iterable[tuple[object, ...]]:
    """Yield what each line bears of what a commitment adds; together exactly that."""
    for _, members in groupby(bases, key=lambda row: row["span_id"]):
        rows = list(members)
        sizes = [row["exact_amount"].copy_abs() for row in rows]
        shares = allocate_exactly(rows[0]["added_amount"], sizes, minor_units(rows[0]["currency"]))
        for row, share in zip(rows, shares, strict=True):
            yield row["span_id"], row["price_id"], row["group_key"], row["part"], share


def share_out(
    amount: Decimal, nets: Sequence[Decimal], minor_digits: int, residue: str = "largest_remainder"
) -> list[Decimal]:
    """Return what a fixed discount takes off each line; no line falls below zero.

    By largest remainder in minor units. By the switch `residue` each share may be rounded by itself instead: to the minor
    unit, and what that leaves or lacks goes to the largest line; or to five decimals of one, and what is left is given to nobody.
    """
    if amount >= exact_sum(list(nets)):
        return list(nets)
    if residue == "largest_remainder":
        return [min(share, net) for share, net in zip(allocate(amount, nets, minor_digits), nets, strict=True)]
    places = minor_digits + (_FIVE if residue == "five_decimals" else 0)
    whole = sum((Fraction(net) for net in nets), Fraction(0))
    shares = [round_fraction(Fraction(amount) * Fraction(net) / whole, places) for net in nets]
    if residue == "largest_line":
        largest = max(range(len(nets)), key=lambda at: (nets[at], -at))
        shares[largest] += round_amount(amount, minor_digits) - exact_sum(shares)
    return [max(min(share, net), _ZERO) for share, net in zip(shares, nets, strict=True)]
