"""CSV, JSON lines and Parquet, read strictly: a file is whole or it is refused with its line.

Enters: a path. Leaves: after `check()` has read all of it once, chunks of RawRows in the order of the file.
Refuses: a file that is missing, empty, cut short, ragged, not UTF-8, not JSON, not Parquet, or without the needed columns;
float columns, because a quantity that passed through a float may no longer be what was meant.

CSV without quotes is read by pyarrow; with quotes by Python's csv module in its strict mode, which refuses an
unterminated quote and names its line. Every cell is text: "00123" stays a tenant, "1_000" is not a number.
JSON is parsed with numbers kept as their digits; they never become floats.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from metering.errors import BadEvent
from metering.event_file_bytes import byte_lines, open_bytes, refuse, text_lines
from metering.event_rows import RawRows, attribute_texts
from metering.events import encode_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pyarrow as pa

NEEDED_COLUMNS = ("tenant_id", "meter", "event_time")
KNOWN_COLUMNS = (*NEEDED_COLUMNS, "quantity", "idempotency_key")
READ_BYTES = 8 * 1024 * 1024
ENCODED_MAX = 100_000
# Few Python objects at a time stay in the processor's cache and out of the garbage collector's way.
OBJECTS_AT_ONCE = 4_000

_JSON_NUMBER = re.compile(r"-?[0-9]{1,38}(\.[0-9]{1,38})?")


class EventFile(Protocol):
    """One format. `check` reads the whole file and raises BadEventFile; `chunks` may then be trusted to run to the end."""

    def check(self) -> None: ...

    def chunks(self, rows: int) -> Iterator[RawRows]: ...


def open_event_file(path: Path) -> EventFile:
    """Return the reader for the file's name. Raise BadEventFile if no format has such a name."""
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if plain.endswith(".csv"):
        return CsvFile(path)
    if plain.endswith((".jsonl", ".ndjson", ".json")):
        return JsonLinesFile(path)
    if name.endswith((".parquet", ".pq")):
        return ParquetFile(path)
    return refuse(
        path, None, "its name ends in none of .csv, .csv.gz, .jsonl, .jsonl.gz, .parquet", "rename or convert it"
    )


class CsvFile:
    """Comma-separated text with a header. An empty cell is no attribute and no idempotency key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_quoted = False
        self._header: list[str] = []

    def check(self) -> None:
        import pyarrow as pa

        with open_bytes(self._path) as stream:
            self._is_quoted = any(b'"' in block for block in iter(lambda: stream.read(READ_BYTES), b""))
        self._header = self._read_header()
        try:
            if not self._is_quoted:
                for _ in self._batches():
                    pass
                return
        except (pa.ArrowInvalid, OSError):
            # pyarrow does not say in which line; the strict reader does, or finds that it is the file that broke off.
            pass
        for _ in self._strict_rows():
            pass
        # What only pyarrow refuses (an over-long line) is read by the strict reader, which accepted all of it.
        self._is_quoted = True

    def chunks(self, rows: int) -> Iterator[RawRows]:
        tables = self._strict_tables() if self._is_quoted else self._batches()
        return (_raw_rows(table, empty_is_none=True) for table in _rechunk(tables, rows))

    def _read_header(self) -> list[str]:
        with open_bytes(self._path) as stream:
            lines = text_lines(self._path, stream)
            try:
                header = next((cells for cells in csv.reader(lines, strict=True) if cells), None)
            except csv.Error as error:
                refuse(self._path, 1, f"the header cannot be read ({error})", "export the file again")
        if header is None:
            refuse(self._path, None, "it is empty", "export it again; at least a header line is needed")
        _check_columns(self._path, header)
        return header

    def _batches(self) -> Iterator[pa.Table]:
        import pyarrow as pa
        import pyarrow.csv

        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(self._header, pa.string()), strings_can_be_null=False
        )
        with open_bytes(self._path) as stream:
            reader = pyarrow.csv.open_csv(
                stream,
                pyarrow.csv.ReadOptions(block_size=READ_BYTES),
                pyarrow.csv.ParseOptions(quote_char=False),
                convert,
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def _strict_rows(self) -> Iterator[list[str]]:
        with open_bytes(self._path) as stream:
            reader = csv.reader(text_lines(self._path, stream), strict=True)
            width = len(self._header)
            first_line = 1
            is_header = True
            try:
                for cells in reader:
                    if cells and is_header:
                        is_header = False
                    elif cells:
                        if len(cells) != width:
                            what = f"it has {len(cells)} fields where the header has {width}"
                            refuse(self._path, first_line, what, "the file may be half written; export it again")
                        yield cells
                    first_line = reader.line_num + 1
            except csv.Error as error:
                what = f"a quoted field is not ended properly ({error})"
                refuse(self._path, first_line, what, "the file may be half written; export it again")

    def _strict_tables(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        source = self._strict_rows()
        while chunk := list(islice(source, OBJECTS_AT_ONCE)):
            columns = [pa.array(column, pa.string()) for column in zip(*chunk, strict=True)]
            yield pa.table(columns, names=self._header)


class JsonLinesFile:
    """One JSON object per line. Keys other than the known ones are attributes; an `attributes` object is merged in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_quantity = False
        self._encoded: dict[tuple[Any, ...], str | None] = {}

    def check(self) -> None:
        import orjson

        seen: set[str] = set()
        for number, line in self._lines():
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                what = f"it is not one JSON object ({error})"
                refuse(self._path, number, what, "the file may be half written; export it again")
            if not isinstance(row, dict):
                refuse(self._path, number, "it is JSON, but no object", 'write {"tenant_id": ...} on each line')
            if not row.keys() <= seen:
                seen |= row.keys()
        if not seen:
            refuse(self._path, None, "it holds no JSON object", "export it again")
        self._has_quantity = "quantity" in seen
        _check_needed(self._path, seen)

    def chunks(self, rows: int) -> Iterator[RawRows]:
        source = (line for _, line in self._lines())
        while lines := list(islice(source, rows)):
            yield self._raw_rows(lines)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with open_bytes(self._path) as stream:
            for number, line in enumerate(byte_lines(self._path, stream), start=1):
                if stripped := line.strip():
                    yield number, stripped

    def _raw_rows(self, lines: list[bytes]) -> RawRows:
        import pyarrow as pa

        bad: dict[int, str] = {}
        parts = [self._columns(lines, at, bad) for at in range(0, len(lines), OBJECTS_AT_ONCE)]
        table = pa.concat_tables(parts).combine_chunks()
        columns = {name: table[name].combine_chunks() for name in table.schema.names}
        return RawRows(
            tenant_id=columns["tenant_id"],
            meter=columns["meter"],
            quantity=columns["quantity"] if self._has_quantity else None,
            event_time=columns["event_time"],
            idempotency_key=columns["idempotency_key"],
            attributes=columns["attributes"],
            bad_attributes=bad,
            original=lambda row: lines[row],
            sha256=hashlib.sha256(b"\n".join(lines)).hexdigest(),
        )

    def _columns(self, lines: list[bytes], start: int, bad: dict[int, str]) -> pa.Table:
        import pyarrow as pa

        objects = _load_objects(lines[start : start + OBJECTS_AT_ONCE])
        values: dict[str, list[str | None]] = {}
        for name in NEEDED_COLUMNS:
            values[name] = [value if type(value := row.get(name)) is str else None for row in objects]
        # A JSON number and the same digits in quotes are the same quantity.
        values["quantity"] = [value if isinstance(value := row.get("quantity"), str) else None for row in objects]
        # Null is no key; a key that is no text is refused by its emptiness.
        keys = [row.get("idempotency_key") for row in objects]
        values["idempotency_key"] = [key if key is None or type(key) is str else "" for key in keys]
        values["attributes"] = [self._attributes(row, at, bad) for at, row in enumerate(objects, start)]
        return pa.table({name: pa.array(column, pa.string()) for name, column in values.items()})

    def _attributes(self, row: dict[str, Any], number: int, bad: dict[int, str]) -> str | None:
        if _TWICE in row:
            bad[number] = f"the key {row[_TWICE]!r} is there twice; which one counts cannot be known"
            return None
        extra = row.get("attributes")
        own = {name: value for name, value in row.items() if name not in _NOT_ATTRIBUTES}
        if extra is not None:
            if not isinstance(extra, dict) or _TWICE in extra or extra.keys() & own.keys():
                bad[number] = "attributes must be an object whose keys are nowhere else in the row"
                return None
            own.update(extra)
        if not own:
            return None
        identity = tuple(own.items())
        try:
            # The type tells the number 1 from the text "1" and from true, which are equal to Python.
            typed = (identity, tuple(map(type, own.values())))
            if typed not in self._encoded:
                if len(self._encoded) >= ENCODED_MAX:
                    self._encoded.clear()
                self._encoded[typed] = encode_attributes({name: _exact(name, value) for name, value in identity})
            return self._encoded[typed]
        except BadEvent as error:
            bad[number] = error.message
        except TypeError:
            bad[number] = "an attribute is a list or an object; give text, a number or a boolean"
        return None


class ParquetFile:
    """A Parquet file. Exact quantities only: decimal, integer or text; a float column is refused as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            parquet = pq.ParquetFile(self._path)
            _check_columns(self._path, parquet.schema_arrow.names)
            self._check_types(parquet.schema_arrow)
            rows = 0
            for table in self._tables(65_536):
                # Parquet does not promise that text is UTF-8.
                table.validate(full=True)
                rows += table.num_rows
            if not _counts_agree(parquet.metadata, rows):
                refuse(self._path, None, "its parts disagree on the number of rows", "write or copy it again")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            refuse(self._path, None, f"it cannot be read as Parquet ({first})", "write or copy it again")

    def chunks(self, rows: int) -> Iterator[RawRows]:
        return (_raw_rows(table, empty_is_none=False) for table in _rechunk(self._tables(rows), rows))

    def _tables(self, rows: int) -> Iterator[pa.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(self._path, page_checksum_verification=True).iter_batches(batch_size=rows):
            table = pa.Table.from_batches([batch])
            for index, field in enumerate(table.schema):
                if _is_any_text(field.type) and not pa.types.is_string(field.type):
                    table = table.set_column(index, field.name, table[field.name].cast(pa.string()))
            yield table

    def _check_types(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        for field in schema:
            kind = field.type
            is_exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
            if field.name == "event_time":
                is_good = pa.types.is_timestamp(kind) or _is_any_text(kind)
                hint = "cast it to a timestamp with a time zone"
            elif field.name == "quantity":
                is_good = is_exact or _is_any_text(kind)
                hint = "cast it to decimal(38, 9); a float is not exact"
            elif field.name in KNOWN_COLUMNS:
                is_good, hint = _is_any_text(kind), "cast it to text"
            else:
                is_good = is_exact or _is_any_text(kind) or pa.types.is_boolean(kind)
                hint = "cast it to text, integer, boolean or decimal, or leave it out"
            if not is_good:
                refuse(self._path, None, f"its column {field.name} is {kind}", hint)


class _Number(str):
    """The digits of a JSON number, told apart from text by its type."""

    __slots__ = ()


# Under this key, which no JSON has, an object remembers the name that it held twice.
_TWICE = "\0twice"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        row[_TWICE] = next(name for name in names if names.count(name) > 1)
    return row


_NOT_ATTRIBUTES = frozenset({*KNOWN_COLUMNS, "attributes"})


def _load_objects(lines: list[bytes]) -> list[dict[str, Any]]:
    # Each line has passed `check`, so together they are one valid array; one call is twice as fast as one per line.
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_Number, parse_float=_Number)
    try:
        objects: list[dict[str, Any]] = decoder.decode(f"[{','.join(line.decode() for line in lines)}]")
    except RecursionError:
        return [_load_deep(decoder, line) for line in lines]
    return objects


def _load_deep(decoder: json.JSONDecoder, line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = decoder.decode(line.decode())
    except RecursionError:
        row = {"attributes": "nested too deeply to be read"}
    return row


def _exact(name: str, value: Any) -> Any:
    from decimal import Decimal

    if not isinstance(value, _Number):
        return value
    if not _JSON_NUMBER.fullmatch(value):
        raise BadEvent("bad_attributes", f"attribute {name} is {value[:60]}: write plain digits, or text in quotes")
    return Decimal(value) if "." in value else int(value)


def _raw_rows(table: pa.Table, *, empty_is_none: bool) -> RawRows:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {name: table[name].combine_chunks() for name in table.schema.names}
    texts = {name: column.cast(pa.string()) for name, column in columns.items()}

    def present(column: pa.Array) -> pa.Array:
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column) if empty_is_none else column

    attributes = {name: present(column) for name, column in columns.items() if name not in KNOWN_COLUMNS}
    encoded, bad = attribute_texts(attributes, table.num_rows)
    key = columns.get("idempotency_key")
    return RawRows(
        tenant_id=columns["tenant_id"],
        meter=columns["meter"],
        quantity=columns.get("quantity"),
        event_time=columns["event_time"],
        idempotency_key=None if key is None else present(key),
        attributes=encoded,
        bad_attributes=bad,
        original=lambda row: json.dumps(
            {name: column[row].as_py() for name, column in texts.items()}, ensure_ascii=False
        ).encode(),
        sha256=_hash_columns(texts),
    )


def _hash_columns(texts: dict[str, pa.Array]) -> str:
    """Hash a chunk: per column in the file's order its name, the values' lengths (int64, -1: null), then their bytes."""
    import pyarrow.compute as pc

    digest = hashlib.sha256()
    for name, column in texts.items():
        digest.update(f"{name}\n".encode())
        lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False)
        digest.update(lengths.astype("<i8").tobytes())
        for value in _value_bytes(column):
            digest.update(value)
    return digest.hexdigest()


def _value_bytes(column: pa.Array) -> Iterable[memoryview]:
    import numpy as np

    present = column.drop_null()
    _, offsets, data = present.buffers()
    if data is None or not len(present):
        return []
    # Offsets delimit this array's part of a buffer that a slice may share.
    ends = np.frombuffer(offsets, dtype=np.int32)[present.offset : present.offset + len(present) + 1]
    return [memoryview(data)[int(ends[0]) : int(ends[-1])]]


def _rechunk(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables of exactly `rows` rows, the last one shorter: where a chunk ends depends on the file alone."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows)
            waiting, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(waiting)


def _check_columns(path: Path, names: list[str]) -> None:
    _check_needed(path, names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        refuse(path, 1, f"the column {twice[0]} is there twice", "give each column a name of its own")
    for name in names:
        if name == "attributes":
            refuse(path, 1, "it has a column `attributes`", "give each attribute a column, or use JSON lines")
        if name not in KNOWN_COLUMNS:
            try:
                encode_attributes({name: "any"})
            except BadEvent as error:
                refuse(path, 1, f"a column cannot be an attribute: {error.message}", "rename or drop it")


def _check_needed(path: Path, names: Iterable[str]) -> None:
    found = list(names)
    missing = [name for name in NEEDED_COLUMNS if name not in found]
    if missing:
        hint = "name the columns so"
        if any(mark in name for name in found for mark in ";\t|"):
            hint = "separate the columns by commas"
        refuse(path, 1, f"it has no {' and no '.join(missing)} (but {', '.join(sorted(found))[:200]})", hint)


def _counts_agree(metadata: Any, rows: int) -> bool:
    # A damaged footer may tell the reader to stop early; the same count stands in it once per column chunk.
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return rows == metadata.num_rows == sum(group.num_rows for group in groups) and all(
        group.column(index).num_values == group.num_rows for group in groups for index in range(group.num_columns)
    )


def _is_any_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_any_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
