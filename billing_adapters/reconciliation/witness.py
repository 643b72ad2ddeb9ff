"""A witness: how often somebody else saw tenants use a meter, hour by hour. Any file or table of it, and access logs.

Enters: CSV, JSON lines or Parquet with the columns tenant_id, meter, bucket_start and count, or any table with
`__arrow_c_stream__`; or an access log in the common or combined format, with a rule that says whose request is whose.
Leaves: WITNESS, one row per (tenant, meter, UTC hour), and how many rows were not understood, each kind with an example.
Refuses: a file that is not whole or has not these columns (BadEventFile). A row that cannot be read is counted, never guessed.

A witness knows nothing of what was metered: that is what makes it worth comparing. Buckets that are finer than an hour are
added up into it. A count is never negative; it may be a number of bytes or of tokens.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metering.clock import from_us, iso_utc
from metering.errors import BadEvent
from metering.event_file_bytes import open_bytes, refuse, text_lines
from metering.event_rows import parse_event_time
from metering.events import check_name, check_quantity
from metering.numbers import trimmed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa

COLUMNS = ("tenant_id", "meter", "bucket_start", "count")
# Client, identity, user, [time], "request", status, bytes; the combined format adds "referrer" and "agent".
_LOG_LINE = re.compile(
    r'^(?P<client>\S+) \S+ (?P<user>\S+(?: \S+)*?) \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" '
    r"(?P<status>\d{3}) (?P<bytes>\d+|-)(?: |$)"
)
_LOG_TIME = re.compile(r"(\d{2})/([A-Z][a-z]{2})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})")
_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LOG_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_STATUSES = re.compile(r"[1-5](?:xx|\d{2})")
_TENANTS = re.compile(r"client|user|path:[1-9]|query:[^\s=&]+")


@dataclass(frozen=True, slots=True)
class Witness:
    """WITNESS, and what became of the rows or lines that were read: counted, left out by the rule, not understood.

    `not_understood` counts by reason; `examples` has the first of each, with its line or row.
    """

    table: pa.Table
    rows: int
    counted: int
    left_out: int
    not_understood: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccessLogRule:
    """How a request of a log becomes a use of a meter.

    `tenant`: `client` (the address), `user` (who logged in), `path:N` (the N-th segment of the path, from 1) or `query:NAME`.
    `tenants` renames what stands there; what it does not name is not understood. `statuses` such as `2xx` or `304`, and
    `paths`, beginnings of paths, say what is billable; other requests are left out. `measure`: requests, or bytes answered.
    """

    meter: str
    tenant: str = "client"
    tenants: Mapping[str, str] | None = None
    statuses: tuple[str, ...] = ("2xx",)
    paths: tuple[str, ...] = ()
    measure: Literal["requests", "bytes"] = "requests"

    def __post_init__(self) -> None:
        check_name(self.meter, "meter")
        if not _TENANTS.fullmatch(self.tenant):
            raise ValueError(f"a tenant is found by client, user, path:N or query:NAME, not by {self.tenant!r}")
        wrong = [one for one in self.statuses if not _STATUSES.fullmatch(one)]
        if wrong or not self.statuses:
            raise ValueError(f"statuses are such as 2xx or 304, not {', '.join(wrong) or 'none at all'}")
        if self.measure not in {"requests", "bytes"}:
            raise ValueError(f"requests or bytes can be counted, not {self.measure!r}")


class _Counts:
    """The sums so far, and the rows that gave none."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str, datetime], Decimal] = {}
        self.rows = self.counted = self.left_out = 0
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, tenant_id: str, meter: str, bucket: datetime, count: Decimal) -> None:
        key = tenant_id, meter, bucket
        self.sums[key] = self.sums.get(key, Decimal(0)) + count
        self.counted += 1

    def refuse(self, reason: str, example: str) -> None:
        self.reasons[reason] += 1
        self.examples.setdefault(reason, example)

    def witness(self) -> Witness:
        rows = [(*key, count) for key, count in sorted(self.sums.items())]
        table = _table(rows)
        return Witness(table, self.rows, self.counted, self.left_out, dict(self.reasons), self.examples)


def read_witness(source: Any) -> Witness:
    """Read a witness: the path of a CSV, JSON lines or Parquet file (`.gz` of the first two), or an Arrow-like table.

    Rows of one tenant, meter and hour are added up. Raises BadEventFile where the file or its columns cannot be read.
    """
    counts = _Counts()
    for where, row in _rows(source):
        counts.rows += 1
        try:
            counts.add(*_read_row(row))
        except BadEvent as error:
            counts.refuse(error.reason, f"{where}: {error.message}")
    return counts.witness()


def read_access_log(path: str | Path, rule: AccessLogRule) -> Witness:
    """Read an access log in the common or combined format (Apache, nginx; `.gz` too) as a witness of one meter.

    Hours are those of the log's own zone offsets, in UTC. Lines that are no request are counted as not understood. Raises
    BadEventFile where the file cannot be read.
    """
    file = Path(path)
    counts = _Counts()
    with _opened(file) as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if line:
                counts.rows += 1
                _count_line(counts, rule, line, number)
    return counts.witness()


def write_witness(witness: Witness, path: Path) -> None:
    """Write a witness as CSV that `read_witness` reads: the same witness, the same bytes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in witness.table.to_pylist():
            writer.writerow([row["tenant_id"], row["meter"], iso_utc(row["bucket_start"]), trimmed(row["count"])])


# --- tables and files -------------------------------------------------------------------------------------------------


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    import pyarrow as pa

    types = (pa.string(), pa.string(), pa.timestamp("us", tz="UTC"), pa.decimal128(38, 9))
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in zip(COLUMNS, types, strict=True)])
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in COLUMNS]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], schema=schema)


def _read_row(row: Mapping[str, Any]) -> tuple[str, str, datetime, Decimal]:
    moment = row["bucket_start"]
    if isinstance(moment, datetime):
        instant = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    else:
        instant = from_us(parse_event_time(moment))
    text = row["count"]
    count = check_quantity(text, negative_allowed=True)
    if count < 0:
        raise BadEvent("negative_count", f"count {text} is below zero; nobody uses less than nothing")
    return check_name(row["tenant_id"], "tenant"), check_name(row["meter"], "meter"), _hour(instant), count


def _hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _rows(source: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where it stands, row) of a file or table."""
    if not isinstance(source, str | Path):
        yield from _rows_of_table(source, "the table")
        return
    path = Path(source)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        yield from _rows_of_csv(path)
    elif name.endswith((".jsonl", ".ndjson")):
        yield from _rows_of_json_lines(path)
    elif name.endswith((".parquet", ".pq")):
        yield from _rows_of_parquet(path)
    else:
        refuse(
            path, None, "its name ends in none of .csv, .jsonl, .parquet", "rename it; `tallybook witness` reads logs"
        )


def _rows_of_table(table: Any, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa

    read = table if isinstance(table, pa.Table) else pa.table(table)
    _check_columns(Path(what), read.schema.names)
    number = 0
    for batch in read.select(COLUMNS).to_batches(max_chunksize=16_384):
        for row in batch.to_pylist():
            number += 1
            yield f"{what}, row {number}", row


def _rows_of_csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with _opened(path) as stream:
        reader = csv.reader(text_lines(path, stream), strict=True)
        header = next(reader, None)
        _check_columns(path, header or [])
        names = list(header or [])
        try:
            for cells in reader:
                if len(cells) != len(names) and cells:
                    what = f"it has {len(cells)} fields where the header has {len(names)}"
                    refuse(path, reader.line_num, what, "the file may be half written; export it again")
                if cells:
                    yield f"line {reader.line_num}", dict(zip(names, cells, strict=True))
        except csv.Error as error:
            refuse(path, reader.line_num, f"a quoted field is not ended properly ({error})", "export it again")


def _rows_of_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with _opened(path) as stream:
        for number, line in enumerate(text_lines(path, stream), start=1):
            if not line.strip():
                continue
            try:
                # Digits stay as they are: a number of a witness never passes through a float.
                row = json.loads(line, parse_float=str, parse_int=str)
            except ValueError as error:
                refuse(path, number, f"it is not JSON ({error})", "write one object a line")
            if not isinstance(row, dict):
                refuse(path, number, "it is not an object", 'write {"tenant_id": ...} a line')
            _check_columns(path, row, number)
            yield f"line {number}", row


def _rows_of_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        refuse(path, None, f"it is no Parquet file that can be read ({str(error).splitlines()[0]})", "export it again")
    yield from _rows_of_table(table, path.name)


def _check_columns(path: Path, names: Iterable[str], line: int | None = None) -> None:
    missing = [name for name in COLUMNS if name not in set(names)]
    if missing:
        refuse(path, line, f"it has no column {', '.join(missing)}", f"a witness has {', '.join(COLUMNS)}")


def _opened(path: Path) -> Any:
    try:
        if not path.is_file():
            refuse(path, None, "there is no such file", "check the path")
        return open_bytes(path)
    except OSError as error:
        refuse(path, None, f"it cannot be read ({error.strerror or error})", "check the path and the rights")


# --- access logs ------------------------------------------------------------------------------------------------------


def _count_line(counts: _Counts, rule: AccessLogRule, line: str, number: int) -> None:
    found = _LOG_LINE.match(line)
    bucket = None if found is None else _hour_of_log(found["time"][:17], found["time"][-5:])
    if found is None or bucket is None:
        counts.refuse("no_request", f"line {number}: {line[:120]}")
        return
    _, _, rest = found["request"].partition(" ")
    target = rest.partition(" ")[0]
    is_billable = any(found["status"].startswith(one.rstrip("x")) for one in rule.statuses)
    if not is_billable or (rule.paths and not target.startswith(rule.paths)):
        counts.left_out += 1
        return
    named = _named(rule, found, target)
    tenant = named if rule.tenants is None or named is None else rule.tenants.get(named)
    if tenant is None:
        counts.refuse("no_tenant", f"line {number}: {named or line[:120]}")
        return
    try:
        checked = check_name(tenant, "tenant")
    except BadEvent as error:
        counts.refuse(error.reason, f"line {number}: {error.message}")
        return
    size = Decimal(1) if rule.measure == "requests" else Decimal(found["bytes"].replace("-", "0"))
    counts.add(checked, rule.meter, bucket, size)


def _named(rule: AccessLogRule, found: re.Match[str], target: str) -> str | None:
    """Return what stands where the rule looks for the tenant, or None."""
    from urllib.parse import parse_qs, unquote

    kind, _, which = rule.tenant.partition(":")
    path, _, query = target.partition("?")
    match kind:
        case "client":
            return found["client"]
        case "user":
            return None if found["user"] == "-" else found["user"]
        case "path":
            segments = [part for part in path.split("/") if part]
            return unquote(segments[int(which) - 1]) if len(segments) >= int(which) else None
        case _:
            return next(iter(parse_qs(query).get(which, [])), None)


@lru_cache(maxsize=4096)
def _hour_of_log(minute: str, zone: str) -> datetime | None:
    """Return the UTC hour of `17/May/2015:10:05` in a zone such as `+0530`; None where that is no time.

    The minute is needed too: there are zones that are half an hour apart.
    """
    found = _LOG_TIME.fullmatch(f"{minute}:00 {zone}")
    if found is None or found[2] not in _LOG_MONTHS:
        return None
    offset = timedelta(hours=int(found[8]), minutes=int(found[9]))
    try:
        local = datetime(int(found[3]), _LOG_MONTHS[found[2]], int(found[1]), int(found[4]), int(found[5]), tzinfo=UTC)
    except ValueError:
        return None
    return _hour(local + offset if found[7] == "-" else local - offset)
