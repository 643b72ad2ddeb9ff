"""Matching of two lists of the same things, ours and a provider's: every key once, with what differs and by how much.

Enters: two tables of MATCH_SIDE and the tolerances, which are data. Leaves: the table `matched` in the engine, one row per
(key, currency), and its counts per status. Refuses: floats, and to add currencies. One statement does it: `sql/match.sql`, a full
outer join over decimals, whose head says what each status means.

The key is declared: `keyed` makes it of the columns that tell the things apart, such as (adapter, kind, delivery_id). The
tolerance is 0 unless somebody says otherwise (leakage-controls.md, section 9). Times are instants in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from billing_adapters.reconciliation.tables import refuse_floats
from metering.engine import fetch, read_sql
from metering.questions import register
from rating.iso4217 import MINOR_UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import pyarrow as pa

Status = Literal[
    "match",
    "within_tolerance",
    "amount_differs",
    "quantity_differs",
    "only_ours",
    "only_theirs",
    "currency_differs",
    "timing",
]
STATUSES: tuple[Status, ...] = get_args(Status)
# What stands between the parts of a key; no id may hold it.
KEY_SEPARATOR = "\x1f"
_PACKAGE = "billing_adapters.reconciliation"
_FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far theirs may be from ours and still agree: above and below apart, absolute or as a share of ours, the larger one.

    Amounts are in the currency, quantities in units of the meter, shares at most 1 with 9 places (0.000000001 for a provider that
    answers with floats). `is_rounding` allows the tolerance of FOCUS 1.4 as well, for detail rows against a document.
    """

    amount_above: Decimal = _ZERO
    amount_below: Decimal = _ZERO
    amount_share: Decimal = _ZERO
    quantity_above: Decimal = _ZERO
    quantity_below: Decimal = _ZERO
    quantity_share: Decimal = _ZERO
    is_rounding: bool = False

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "is_rounding"):
            value = getattr(self, name)
            if not isinstance(value, Decimal) or not value.is_finite() or value < 0:
                raise ValueError(f"{name} is a Decimal of 0 or more, not {value!r}")
        if max(self.amount_share, self.quantity_share) > 1:
            raise ValueError("a share is at most 1, which is all of it")


EXACT = Tolerance()


@dataclass(frozen=True, slots=True)
class StatusCount:
    """What came of matching in one status and currency. Sums of each side are exact; differences are theirs minus ours."""

    status: Status
    currency: str
    keys: int
    our_rows: int
    their_rows: int
    our_quantity: Decimal
    their_quantity: Decimal
    our_amount: Decimal
    their_amount: Decimal
    amount_above: Decimal
    amount_below: Decimal


@cache
def match_side_schema() -> pa.Schema:
    """Return MATCH_SIDE: one row per thing of one side; several of a key are added up.

    `currency` is empty for what is no money. `detail_rows`: of how many rounded rows the amount is the sum. `quantity` and
    `amount` are null where a side does not tell them. `occurred_at`: when it came to be there, UTC.
    """
    import pyarrow as pa

    exact = pa.decimal128(38, 12)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("currency", pa.string(), nullable=False),
            pa.field("detail_rows", pa.int64(), nullable=False),
            pa.field("quantity", exact),
            pa.field("amount", exact),
            pa.field("occurred_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def keyed(table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    """Return the key of every row: the values of these columns, joined; an empty text where there is none."""
    import pyarrow.compute as pc

    parts = [pc.fill_null(table[name].cast("string"), "") for name in names]
    return pc.binary_join_element_wise(*parts, KEY_SEPARATOR)


def match(
    engine: duckdb.DuckDBPyConnection,
    ours: pa.Table,
    theirs: pa.Table,
    *,
    settled_before: datetime | None = None,
    tolerances: Mapping[str, Tolerance] | None = None,
    otherwise: Tolerance = EXACT,
) -> list[StatusCount]:
    """Match two tables of MATCH_SIDE and return the counts per status and currency; `matched` stays in the engine.

    `settled_before`: what is as young or younger on either side is `timing` where it differs; None: all is settled.
    `tolerances` by currency, `otherwise` for all others. Raises ValueError where a column is a float.
    """
    import pyarrow.compute as pc

    schema = match_side_schema()
    refuse_floats(ours)
    refuse_floats(theirs)
    register(engine, "match_ours", ours.cast(schema))
    register(engine, "match_theirs", theirs.cast(schema))
    named = {value for side in (ours, theirs) for value in pc.unique(side["currency"]).to_pylist()}
    register(engine, "match_tolerance", _tolerances(sorted(named), tolerances or {}, otherwise))
    engine.execute(read_sql(_PACKAGE, "match"), {"settled_before": settled_before or _FOR_EVER})
    counts = fetch(engine, read_sql(_PACKAGE, "match_counts")).to_pylist()
    return [StatusCount(**count) for count in counts]


def sample(engine: duckdb.DuckDBPyConnection, rows: int = 20) -> pa.Table:
    """Return the largest differences that `match` left in `matched`, at most so many rows per status."""
    return fetch(engine, read_sql(_PACKAGE, "match_sample"), {"rows": rows})


def _tolerances(currencies: Sequence[str], given: Mapping[str, Tolerance], otherwise: Tolerance) -> pa.Table:
    import pyarrow as pa

    rows = []
    for currency in currencies:
        tolerance = given.get(currency, otherwise)
        # A currency that ISO does not know has no subunit, so nothing of it comes from rounding.
        digits = MINOR_UNITS.get(currency)
        values = {field.name: getattr(tolerance, field.name) for field in fields(tolerance)}
        rows.append(
            {"currency": currency, "subunit": _ZERO if digits is None else Decimal(1).scaleb(-digits), **values}
        )
    exact, share = pa.decimal128(38, 12), pa.decimal128(10, 9)
    types = {"currency": pa.string(), "subunit": pa.decimal128(13, 12), "is_rounding": pa.bool_()}
    types |= dict.fromkeys(("amount_share", "quantity_share"), share)
    names = ["currency", "subunit", *(field.name for field in fields(Tolerance))]
    return pa.Table.from_pylist(rows, schema=pa.schema([pa.field(name, types.get(name, exact)) for name in names]))
