"""Quantities that a meter works out from the attributes of its events, when these come to the lake.

Enters: usage events and the meters' rules of now. Leaves: the events with their quantities, and which rows have none.
Refuses: to stop, and to work out twice: what is stored is the quantity, and a later change of the meter changes no event.
"""

from __future__ import annotations

import json
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from metering.codes import is_named
from metering.errors import BadEvent
from metering.expressions import read_expression
from metering.narrow import QUANTITY, plain_quantities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metering.meters import MeterRule

# Attributes repeat: a million events are a few distinct texts.
_TEXTS = 100_000


def compute_quantities(table: pa.Table, rules: Mapping[str, MeterRule] | None) -> tuple[pa.Table, pa.Array | None]:
    """Return the table with the quantities of meters that have an expression, and a mask of the rows without an answer.

    Rows without an answer keep the quantity that they came with; None instead of a mask: there are none.
    """
    expressions = {name: rule.expression for name, rule in (rules or {}).items() if rule.expression is not None}
    if not expressions:
        return table, None
    computed = np.asarray(is_named(table["meter"], sorted(expressions)).to_numpy(zero_copy_only=False), bool)
    places = np.flatnonzero(computed)
    if not len(places):
        return table, None
    rows = table.select(["meter", "attributes", "quantity"]).take(pa.array(places)).to_pylist()
    answers = [_quantity(expressions[row["meter"]], row["attributes"]) for row in rows]
    kept = [row["quantity"] if answer is None else answer for row, answer in zip(rows, answers, strict=True)]
    order = np.arange(table.num_rows)
    order[places] = table.num_rows + np.arange(len(places))
    # What was recorded may be narrow, what was worked out need not fit there.
    both = pa.concat_arrays([*plain_quantities(table["quantity"]).chunks, pa.array(kept, QUANTITY)])
    at = table.schema.get_field_index("quantity")
    table = table.set_column(at, table.schema.field(at).with_type(QUANTITY), both.take(pa.array(order)))
    failed = np.zeros(table.num_rows, bool)
    failed[places[[answer is None for answer in answers]]] = True
    return table, pa.array(failed) if failed.any() else None


@lru_cache(_TEXTS)
def _quantity(expression: str, attributes: str | None) -> Decimal | None:
    try:
        given = json.loads(attributes or "{}", parse_float=Decimal)
        return read_expression(expression).quantity_of(given)
    except BadEvent:
        return None
