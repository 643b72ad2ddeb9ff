"""What a provider says it has: four tables, the same from every adapter, from a CSV export and in tests.

Enters: rows of a provider's answers, or CSV and Parquet files of the same columns. Leaves: a `ProviderList`. Refuses: floats,
amounts with an exponent, and tables with other columns, by file, row and column.

PROVIDER_DOCUMENTS  one row per invoice or credit note at a provider          amounts of `currency`; credit notes above zero
PROVIDER_LINES      one row per line of a document
PROVIDER_QUANTITIES one row per (account, name at the provider, window)       units of the provider's meter; `[start, end)`
PROVIDER_PAYMENTS   one row per document: what became of its money            total = the sum of the parts, fee inside paid

Instants are UTC. `delivery_id`, `invoice_id` and `line_id` are ours, null for what somebody made by hand at the provider. An
adapter that can be asked is a `Lister`, and says so in `Capabilities.listing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from billing_adapters.errors import ProviderListRefused
from rating.iso4217 import MINOR_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    import pyarrow as pa

DOCUMENTS, LINES, QUANTITIES, PAYMENTS = "documents", "lines", "quantities", "payments"
TABLES = (DOCUMENTS, LINES, QUANTITIES, PAYMENTS)
# Of PROVIDER_PAYMENTS: what a document's total is the sum of.
PARTS = ("paid", "open", "credited", "refunded", "disputed", "written_off", "to_balance")
_DECIMAL = r"^-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?$"
_INSTANT = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})$"
_PLACES = Decimal("1E-12")
_CONTEXT = Context(prec=38, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation])
_WHOLE = r"^-?[0-9]{1,18}$"


@cache
def provider_schema(name: str) -> pa.Schema:
    """Return the schema of one of `TABLES`. Every text that may be empty is null where it is not known."""
    import pyarrow as pa

    text, instant, exact = pa.string(), pa.timestamp("us", tz="UTC"), pa.decimal128(38, 12)
    optional: dict[str, set[str]] = {
        DOCUMENTS: {"delivery_id", "invoice_id", "number", "lowers", "account_ref", "net", "tax", "reason"},
        LINES: {"line_id", "quantity", "description"},
        QUANTITIES: {"unit_price", "provider_id"},
        PAYMENTS: {"invoice_id", "due_at"},
    }
    columns: dict[str, dict[str, Any]] = {
        # `lowers`: of a credit note, the provider's id of the invoice. `total` is with tax.
        DOCUMENTS: {
            **dict.fromkeys(("adapter", "kind", "provider_id", "delivery_id", "invoice_id", "number"), text),
            **dict.fromkeys(("lowers", "account_ref", "currency"), text),
            **dict.fromkeys(("net", "tax", "total"), exact),
            "lines": pa.int64(),
            **dict.fromkeys(("status", "reason"), text),
            "created_at": instant,
        },
        LINES: {
            **dict.fromkeys(("adapter", "provider_id", "provider_line_id", "line_id", "currency"), text),
            **dict.fromkeys(("quantity", "amount"), exact),
            "description": text,
        },
        # `status` is the provider's word for it: accepted, billed ...
        QUANTITIES: {
            **dict.fromkeys(("adapter", "account_id", "name"), text),
            **dict.fromkeys(("start", "end"), instant),
            "quantity": exact,
            "unit_price": exact,
            **dict.fromkeys(("status", "provider_id"), text),
        },
        # Of a credit note all is below zero: `credited` is what it took off an open invoice, `refunded` what was given back of
        # a paid one. Of a void document all is zero.
        PAYMENTS: {
            **dict.fromkeys(("adapter", "kind", "provider_id", "invoice_id", "status", "currency"), text),
            **dict.fromkeys(("total", *PARTS, "fee"), exact),
            "due_at": instant,
        },
    }
    return pa.schema(
        [pa.field(column, kind, nullable=column in optional[name]) for column, kind in columns[name].items()]
    )


def provider_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as one of `TABLES`."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=provider_schema(name))


@dataclass(frozen=True, slots=True)
class ProviderList:
    """What a provider had that was made in `[start, end)` of its clock, as it was at `read_at` of ours.

    `tables` has the tables that the provider can tell: no key means that it was not asked, an empty table that it has nothing.
    """

    adapter: str
    start: datetime
    end: datetime
    read_at: datetime
    tables: Mapping[str, pa.Table] = field(default_factory=dict)

    def table(self, name: str) -> pa.Table:
        """Return one of `TABLES`, empty where the provider was not asked for it."""
        return self.tables[name] if name in self.tables else provider_schema(name).empty_table()


@dataclass(frozen=True, slots=True)
class Asked:
    """A series of usage to ask a provider about that lists nothing by itself: whose, under which name, in which span.

    `account_ref` is the provider's id of the account (its customer), None where we know of none. `window`: of which length.
    """

    account_id: str
    name: str
    start: datetime
    end: datetime
    window: timedelta
    account_ref: str | None = None


class Lister(Protocol):
    """What an adapter may be besides: one that can tell what its provider has. It writes nothing."""

    def list_held(
        self, start: datetime, end: datetime, *, asked: Sequence[Asked], spend: Callable[[], object], read_at: datetime
    ) -> ProviderList:
        """Return what was made at the provider in `[start, end)` of its clock, whoever made it, page by page.

        `spend` is called before each call, to keep a pace; `asked` is for providers that answer only what they are asked.
        Raises AdapterMisconfigured, ProviderAway (a retry may help); there is no half a list.
        """


def read_table(name: str, path: Path) -> pa.Table:
    """Return one of `TABLES` from a CSV or Parquet file. Raises ProviderListRefused with file, line and column.

    CSV: UTF-8, a head line with the columns of the schema in any order, numbers as plain text, instants as ISO 8601 with a
    zone, nothing between two commas for null. Columns that may be null may be left out.
    """
    import pyarrow as pa

    schema = provider_schema(name)
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    unknown = [column for column in table.column_names if column not in schema.names]
    missing = [one.name for one in schema if not one.nullable and one.name not in table.column_names]
    if unknown or missing:
        said = f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}"
        raise ProviderListRefused(f"{path} has not the columns of provider {name} ({said}); see docs/reconciliation.md")
    columns = [
        _typed(path, table[one.name], one) if one.name in table.column_names else pa.nulls(table.num_rows, one.type)
        for one in schema
    ]
    return pa.table(columns, schema=schema)


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ProviderListRefused(f"{path} cannot be read as Parquet: {error}") from error


def _read_csv(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv

    try:
        with path.open("rb") as file:
            head = pyarrow.csv.open_csv(file).schema.names
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(head, pa.string()), null_values=[""], strings_can_be_null=True
        )
        return pyarrow.csv.read_csv(
            path, convert_options=options, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise ProviderListRefused(f"{path} cannot be read as CSV: {error}") from error


def _typed(path: Path, column: Any, wanted: pa.Field) -> Any:
    """Return a column in its type; text is looked at before it is cast, because casts take more than we do."""
    import pyarrow as pa
    import pyarrow.compute as pc

    patterns = {"decimal": (_DECIMAL, "a plain decimal"), "timestamp": (_INSTANT, "an instant with a zone")}
    kind = str(wanted.type).partition("[")[0].partition("1")[0].partition("(")[0]
    pattern, words = patterns.get(kind, (_WHOLE, "a whole number") if wanted.type == pa.int64() else ("", ""))
    if pa.types.is_floating(column.type):
        raise ProviderListRefused(f"{path}: {wanted.name} holds floats; write plain decimals")
    if pa.types.is_string(column.type) and pattern:
        _look(path, wanted.name, column, pc.match_substring_regex(column, pattern), words)
    if not wanted.nullable:
        _look(path, wanted.name, column, pc.is_valid(column), "there")
    if wanted.name == "currency" and pa.types.is_string(column.type):
        # In another spelling nothing of the list would be in the currency of our documents.
        known = pa.array(list(MINOR_UNITS), pa.string())
        _look(path, wanted.name, column, pc.is_in(column, known), "a code of ISO 4217, in three capitals")
    try:
        return column.cast(wanted.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ProviderListRefused(f"{path}: {wanted.name} is not {wanted.type}: {error}") from error


def _look(path: Path, name: str, column: Any, is_right: Any, words: str) -> None:
    import pyarrow.compute as pc

    wrong = pc.indices_nonzero(pc.invert(pc.fill_null(is_right, True)))
    if len(wrong):
        at = wrong[0].as_py()
        # The head is line 1; a quoted line break before it moves the line, so the row is what is named.
        raise ProviderListRefused(f"{path}, row {at + 1}: {name} {column[at].as_py()!r} is not {words}")


def from_double(answered: object) -> Decimal:
    """Return a number that a provider answered with as a double: its shortest decimal text, to 12 places.

    What is lost is beyond the double's own digits; compare such figures with a share of 0.000000001 (tolerances).
    """
    return Decimal(str(answered)).quantize(_PLACES, context=_CONTEXT)
