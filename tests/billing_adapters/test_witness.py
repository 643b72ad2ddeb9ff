"""A witness from files, tables and access logs; a real log against a count of its own, line by line."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from billing_adapters.reconciliation.witness import (
    AccessLogRule,
    Witness,
    read_access_log,
    read_witness,
    write_witness,
)
from metering.errors import BadEventFile

LOG = Path(__file__).parents[3] / "shared" / "data" / "apache-access-2015" / "access.log.gz"
ROWS = [
    ("acme", "calls", "2026-10-01T10:15:00Z", "3"),
    ("acme", "calls", "2026-10-01T12:45:00+02:00", "4"),
    ("acme", "calls", "2026-10-01T11:00:00Z", "0.5"),
    ("globex", "calls", "2026-10-01T10:00:00Z", "12345678901234567890"),
]
HOUR = datetime(2026, 10, 1, 10, tzinfo=UTC)
EXPECTED = [
    ("acme", "calls", HOUR, Decimal(7)),
    ("acme", "calls", HOUR.replace(hour=11), Decimal("0.5")),
    ("globex", "calls", HOUR, Decimal(12345678901234567890)),
]


def rows_of(witness: Witness) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in witness.table.to_pylist()]


def as_csv(folder: Path) -> Path:
    path = folder / "witness.csv"
    lines = ["region,tenant_id,meter,bucket_start,count", *(",".join(("eu", *row)) for row in ROWS)]
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_json_lines(folder: Path) -> Path:
    path = folder / "witness.jsonl.gz"
    names = ("tenant_id", "meter", "bucket_start", "count")
    lines = [json.dumps(dict(zip(names, row, strict=True))).replace('"count": "3"', '"count": 3') for row in ROWS]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def as_table(_: Path | None = None) -> pa.Table:
    columns = list(zip(*ROWS, strict=True))
    moments = [datetime.fromisoformat(text).astimezone(UTC) for text in columns[2]]
    return pa.table(
        {
            "tenant_id": columns[0],
            "meter": columns[1],
            "bucket_start": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "count": pa.array([Decimal(text) for text in columns[3]], pa.decimal128(38, 9)),
        }
    )


def as_parquet(folder: Path) -> Path:
    pq.write_table(as_table(), folder / "witness.parquet")
    return folder / "witness.parquet"


@pytest.mark.parametrize("made", [as_csv, as_json_lines, as_parquet, as_table], ids=lambda made: made.__name__)
def test_any_form_of_a_witness_is_the_same_table(tmp_path: Path, made: object) -> None:
    witness = read_witness(made(tmp_path))  # type: ignore[operator]
    assert rows_of(witness) == EXPECTED
    assert (witness.rows, witness.counted, witness.not_understood) == (4, 4, {})
    write_witness(witness, tmp_path / "again.csv")
    assert read_witness(tmp_path / "again.csv").table.equals(witness.table)


def test_rows_that_cannot_be_read_are_counted_with_an_example(tmp_path: Path) -> None:
    path = tmp_path / "witness.csv"
    bad = ["../x,calls,2026-10-01T10:00:00Z,1", "acme,calls,yesterday,1", "acme,calls,2026-10-01T10:00:00Z,1e3"]
    bad += ["acme,calls,2026-10-01T10:00:00Z,-1", "acme,,2026-10-01T10:00:00Z,1", "acme,calls,2026-10-01T10:00:00Z,2"]
    path.write_text("tenant_id,meter,bucket_start,count\n" + "\n".join(bad) + "\n", encoding="utf-8")
    witness = read_witness(path)
    assert rows_of(witness) == [("acme", "calls", HOUR, Decimal(2))]
    assert witness.not_understood == dict.fromkeys(
        ["bad_tenant", "bad_event_time", "bad_quantity", "negative_count", "bad_meter"], 1
    )
    assert witness.examples["bad_event_time"].startswith("line 3: ")


BROKEN = {
    "no count": ("witness.csv", b"tenant_id,meter,bucket_start\n", "no column count"),
    "half a row": ("witness.csv", b"tenant_id,meter,bucket_start,count\nacme,calls\n", "line 2"),
    "an open quote": ("witness.csv", b'tenant_id,meter,bucket_start,count\n"acme,calls\n', "line 2"),
    "nothing": ("witness.csv", b"", "no column tenant_id"),
    "not JSON": ("witness.jsonl", b"{\n", "line 1"),
    "not an object": ("witness.jsonl", b"[1]\n", "line 1"),
    "not Parquet": ("witness.parquet", b"PAR1", "Parquet"),
    "a cut archive": ("witness.csv.gz", gzip.compress(b"tenant_id,meter" * 99)[:-9], "cut short"),
    "an unknown kind": ("witness.log", b"", "tallybook witness"),
    "no file": ("witness.csv", None, "no such file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_witness_is_refused_with_what_to_do(tmp_path: Path, case: str) -> None:
    name, content, said = BROKEN[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadEventFile, match=said):
        read_witness(tmp_path / name)


# --- access logs ------------------------------------------------------------------------------------------------------

LINES = r"""10.0.0.1 - ann [01/Oct/2026:10:59:59 +0000] "GET /t/acme/v1?key=k1 HTTP/1.1" 200 100 "-" "agent"
10.0.0.1 - ann [01/Oct/2026:16:29:59 +0530] "GET /t/acme/v1?key=k1 HTTP/1.1" 201 - "-" "a \"quoted\" agent"
10.0.0.2 - - [01/Oct/2026:11:00:00 +0000] "POST /t/glo%20bex/v1 HTTP/1.1" 204 7
10.0.0.2 - - [01/Oct/2026:11:00:00 +0000] "GET /health HTTP/1.1" 200 7
10.0.0.2 - - [01/Oct/2026:11:00:00 +0000] "GET /t/acme/v1 HTTP/1.1" 404 7
10.0.0.2 - - [31/Feb/2026:11:00:00 +0000] "GET /t/acme/v1 HTTP/1.1" 200 7
segmentation fault
"""
RULES: dict[str, tuple[AccessLogRule, dict[tuple[str, int], int], int, dict[str, int]]] = {
    "by client": (
        AccessLogRule("calls"),
        {("10.0.0.1", 10): 2, ("10.0.0.2", 11): 2}, 1, {"no_request": 2}),
    "by user": (
        AccessLogRule("calls", tenant="user", statuses=("200", "201")),
        {("ann", 10): 2}, 2, {"no_request": 2, "no_tenant": 1}),
    "by path": (
        AccessLogRule("calls", tenant="path:2", paths=("/t/",), statuses=("2xx", "404")),
        {("acme", 10): 2, ("acme", 11): 1, ("glo bex", 11): 1}, 1, {"no_request": 2}),
    "by key, renamed": (
        AccessLogRule("calls", tenant="query:key", tenants={"k1": "acme"}, paths=("/t/acme",)),
        {("acme", 10): 2}, 3, {"no_request": 2}),
    "bytes": (
        AccessLogRule("bytes", measure="bytes"),
        {("10.0.0.1", 10): 100, ("10.0.0.2", 11): 14}, 1, {"no_request": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_a_log_is_read_as_its_rule_says(tmp_path: Path, case: str) -> None:
    rule, counts, left_out, not_understood = RULES[case]
    path = tmp_path / "access.log"
    path.write_bytes(LINES.encode() + b'\xff\xfe - - [01/Oct/2026:11:00:00 +0000] "GET / HTTP/1.1" 500 1\n')
    witness = read_access_log(path, rule)
    rows = witness.table.to_pylist()
    assert {(row["tenant_id"], row["bucket_start"].hour): int(row["count"]) for row in rows} == counts
    assert {row["meter"] for row in rows} == {rule.meter}
    # The line with a broken name of a client is a request that failed: left out by its status.
    assert (witness.rows, witness.left_out, witness.not_understood) == (8, left_out + 1, not_understood)
    assert witness.rows == witness.counted + witness.left_out + sum(witness.not_understood.values())


@pytest.mark.parametrize(
    "words", [{"tenant": "header"}, {"statuses": ("ok",)}, {"statuses": ()}, {"measure": "seconds"}]
)
def test_a_rule_that_means_nothing_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not"):
        AccessLogRule("calls", **words)  # type: ignore[arg-type]


@pytest.mark.skipif(not LOG.exists(), reason="the log is not beside the checkout")
def test_a_real_log_is_counted_as_a_plain_reading_of_its_lines() -> None:
    witness = read_access_log(LOG, AccessLogRule("requests"))
    counted: Counter[tuple[str, str]] = Counter()
    other = 0
    with gzip.open(LOG, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # Cut at the quotes that stand around the request; the log is in UTC throughout.
            head, _, rest = line.partition('" 2')
            if rest[:2].isdigit() and rest[2:3] == " ":
                client, _, at = head.partition(" ")
                counted[client, at.partition("[")[2][:14]] += 1
            else:
                other += 1
    found = {
        (row["tenant_id"], f"{row['bucket_start']:%d/%b/%Y:%H}"): int(row["count"]) for row in witness.table.to_pylist()
    }
    assert found == counted
    assert (witness.rows, witness.counted, witness.left_out) == (10_000, 9_171, other)
    assert witness.not_understood == {}
