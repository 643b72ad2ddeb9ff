"""The slow, obvious matching of two lists: plain Python, Decimal and loops. Shares no code with the packages."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any

Row = dict[str, Any]
ZERO = Decimal(0)


@dataclass(frozen=True)
class Match:
    status: str
    our_rows: int
    their_rows: int
    our_quantity: Decimal | None
    their_quantity: Decimal | None
    our_amount: Decimal | None
    their_amount: Decimal | None


def match(
    ours: list[Row],
    theirs: list[Row],
    tolerances: dict[str, Row],
    digits: dict[str, int],
    settled_before: datetime | None,
) -> dict[tuple[str, str], Match]:
    """Return what becomes of every (key, currency)."""
    with localcontext() as context:
        context.prec = 100
        mine, other = _grouped(ours), _grouped(theirs)
        found = {}
        for key, currency in sorted({*mine, *other}):
            a, b = mine.get((key, currency), []), other.get((key, currency), [])
            lacks = (not a and any(k == key and (k, c) not in other for k, c in mine)) or (
                not b and any(k == key and (k, c) not in mine for k, c in other)
            )
            young = settled_before is not None and any(
                row["occurred_at"] is not None and row["occurred_at"] >= settled_before for row in [*a, *b]
            )
            status = _status(a, b, tolerances[currency], digits.get(currency), is_other=lacks, is_young=young)
            sums = [_sum(side, name) for side in (a, b) for name in ("quantity", "amount")]
            found[key, currency] = Match(status, len(a), len(b), sums[0], sums[2], sums[1], sums[3])
        return found


def _status(a: list[Row], b: list[Row], tolerance: Row, digits: int | None, *, is_other: bool, is_young: bool) -> str:
    quantities, amounts = (_sum(a, "quantity"), _sum(b, "quantity")), (_sum(a, "amount"), _sum(b, "amount"))
    near_quantity = _near(*quantities, tolerance, "quantity")
    near_amount = _near(*amounts, tolerance, "amount")
    if tolerance["is_rounding"] and not near_amount and None not in amounts and digits is not None:
        subunit = Decimal(10) ** -digits
        rows = Decimal(sum(row["detail_rows"] for row in a))
        near_amount = abs(amounts[1] - amounts[0]) <= max(100 * subunit, rows.sqrt() * subunit / 2)
    if a and b:
        if all(None in pair or pair[0] == pair[1] for pair in (quantities, amounts)):
            return "match"
        if near_quantity and near_amount:
            return "within_tolerance"
    if is_other:
        return "currency_differs"
    if is_young:
        return "timing"
    if not b:
        return "only_ours"
    if not a:
        return "only_theirs"
    return "amount_differs" if near_quantity else "quantity_differs"


def _near(ours: Decimal | None, theirs: Decimal | None, tolerance: Row, what: str) -> bool:
    if ours is None or theirs is None:
        return True
    side = "above" if theirs > ours else "below"
    return abs(theirs - ours) <= max(tolerance[f"{what}_{side}"], tolerance[f"{what}_share"] * abs(ours))


def _sum(rows: list[Row], name: str) -> Decimal | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values, ZERO) if values else None


def _grouped(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["key"], row["currency"]].append(row)
    return dict(grouped)
