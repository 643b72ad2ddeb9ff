"""The file of every usage event: each event with what became of it, tied to the files beside it, however it is cut in parts."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from billing_adapters.file_adapter import publish, read_manifest, verify_published
from billing_adapters.file_adapter import usage_detail as module
from metering.clock import FixedClock
from tallybook import Workspace
from tallybook.cli import app
from tallybook.publishing import run_to_publish
from tests.tallybook.shop import CATALOG, DECEMBER, LATE, NOVEMBER, USAGE, import_text
from tests.tallybook.test_delivery import void_first_usage
from tests.tallybook.test_publishing import rows, set_catalog

Row = dict[str, Any]
# Two events of one second, a tenant that looks like a formula, a row that no meter takes, and another payload under a known key.
MORE = """tenant_id,meter,quantity,event_time,idempotency_key,direction
acme,calls,1,2026-10-05T10:00:00Z,,
acme,tokens,9,2026-10-03T10:00:00Z,a1,output
acme,tokens,0.000000001,2026-10-31T23:59:59.999999Z,last,output
=1+1,calls,1,2026-10-06T10:00:00Z,,
acme,tokens,many,2026-10-07T10:00:00Z,bad,output
"""
# A second price on the same meter: an event may stand on two lines.
TWICE = CATALOG.replace(
    "      - {id: calls,", '      - {id: support, meter: calls, type: unit, unit_price: "0.10"}\n      - {id: calls,'
)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    Workspace.init(tmp_path / "shop", clock=FixedClock(NOVEMBER)).close()
    (tmp_path / "shop" / "tallybook.toml").write_text("[files]\nusage_detail = true\n")
    with Workspace(tmp_path / "shop", clock=FixedClock(NOVEMBER)) as workspace:
        set_catalog(workspace, TWICE)
        import_text(workspace, "usage.csv", USAGE)
        workspace.clock = FixedClock(NOVEMBER + timedelta(minutes=1))
        import_text(workspace, "more.csv", MORE)
        workspace.invoice("2026-10", final=True)
        yield workspace


def detail(folder: Path) -> list[Row]:
    found: list[Row] = pq.read_table(folder / "usage_detail.parquet").to_pylist()
    return found


def told(row: Row) -> tuple[Any, ...]:
    return row["tenant_id"], row["meter"], row["disposition"], row["reason"], row["price_id"]


def publish_jsonl(workspace: Workspace, period: str) -> Path:
    return workspace.publish(period, formats=["jsonl"])


def check(workspace: Workspace, folder: Path) -> list[Row]:
    """Hold the file against the lake, the file of usage and the lines, by plain counting."""
    found = detail(folder)
    events = [row for row in found if row["disposition"] != "dead_lettered"]
    order = [(row["tenant_id"], row["event_time"], row["producer_id"], row["segment"], row["row"]) for row in events]
    assert order == sorted(order)
    own = {(row["producer_id"], row["segment"], row["row"]) for row in events}
    placed = [(*name_of(row), row["price_id"], row["subscription_id"]) for row in events]
    assert len(set(placed)) == len(placed)
    counted: Counter[tuple[Any, ...]] = Counter()
    quantities: defaultdict[tuple[Any, ...], Decimal] = defaultdict(Decimal)
    for row in events:
        if row["disposition"] in {"billed", "included"}:
            key = (
                row["tenant_id"],
                row["meter"],
                row["subscription_id"],
                row["billing_period_start"].isoformat(),
                row["price_id"],
            )
            counted[key] += 1
            quantities[key] += row["quantity"]
    for row in rows(folder, "usage"):
        at = datetime.fromisoformat(row["billing_period_start"]).isoformat()
        key = (row["tenant_id"], row["meter"], row["subscription_id"], at, row["price_id"])
        assert counted[key] == row["event_count"], row
        if row["meter"] == "tokens":
            assert quantities[key] == Decimal(row["quantity"]), row
    lines = {row["line_id"]: row for row in rows(folder, "invoice_lines")}
    for row in (row for row in events if row["line_id"] is not None):
        line = lines[row["line_id"]]
        assert (line["price_id"], line["tenant_id"], line["account_id"]) == (
            row["price_id"],
            row["tenant_id"],
            row["account_id"],
        )
    stored = [
        row for file in workspace.lake.data_files() for row in pq.read_table(file.path, partitioning=None).to_pylist()
    ]
    assert own <= {name_of(row) for row in stored}
    (said,) = [file for file in read_manifest(folder)["files"] if file["name"] == "usage_detail.parquet"]
    assert said["rows"] == len(found)
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in found:
        if row["meter"] is not None and row["quantity"] is not None:
            sums[row["meter"]] += row["quantity"]
    assert {meter: Decimal(text) for meter, text in said["control_totals"][0]["sums"].items()} == sums
    verify_published(folder)
    return found


def name_of(row: Row) -> tuple[str, int, int]:
    return row["producer_id"], row["segment"], row["row"]


def test_each_event_has_one_fate_and_ties_to_usage_and_lines(shop: Workspace) -> None:
    found = check(shop, publish_jsonl(shop, "2026-10"))
    assert Counter(map(told, found)) == {
        ("=1+1", "calls", "unpriced", "unknown_tenant", None): 1,
        ("acme", "calls", "billed", None, "calls"): 2,
        ("acme", "calls", "billed", None, "support"): 2,
        ("acme", "tokens", "billed", None, "tokens_out"): 2,
        ("acme", "tokens", "duplicate", "other_payload", None): 1,
        ("acme", "tokens", "duplicate", "same_payload", None): 1,
        ("acme", "tokens", "unpriced", "unpriced_meter", None): 1,
        ("acme", "tokens", "dead_lettered", "bad_quantity", None): 1,
        ("ghost", "calls", "unpriced", "unknown_tenant", None): 1,
        ("globex", "calls", "unpriced", "no_subscription", None): 1,
        ("globex", "tokens", "included", None, "tokens_out"): 1,
    }
    assert all((row["line_id"] is not None) == (row["disposition"] in {"billed", "included"}) for row in found)


def test_what_comes_late_or_is_taken_back_is_in_the_run_that_saw_it(shop: Workspace) -> None:
    shop.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
    import_text(shop, "late.csv", LATE)
    shop.clock = FixedClock(DECEMBER)
    shop.invoice("2026-11", final=True)
    (late,) = [row for row in check(shop, publish_jsonl(shop, "2026-11")) if row["idempotency_key"] == "late1"]
    line = next(
        row for row in rows(publish_jsonl(shop, "2026-11"), "invoice_lines") if row["line_id"] == late["line_id"]
    )
    assert (late["disposition"], line["kind"], line["amount"]) == ("billed", "correction", "1.00")
    assert len(detail(publish_jsonl(shop, "2026-11"))) == 1, "what the run before had seen is not in it"
    void_first_usage(shop)
    shop.clock = FixedClock(datetime(2027, 1, 1, 3, tzinfo=UTC))
    shop.invoice("2026-12", final=True)
    december = detail(publish_jsonl(shop, "2026-12"))
    assert {(row["disposition"], row["reason"]) for row in december} == {("voided", "correction")}
    # October stays as it was: its snapshot had not seen the void.
    assert Counter(row["disposition"] for row in detail(publish_jsonl(shop, "2026-10")))["voided"] == 0


def test_parts_of_any_size_are_the_same_rows_in_the_same_order(
    shop: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_to_publish(shop, "2026-10")
    assert run.usage_detail is not None
    whole = publish(tmp_path / "whole", run, formats=["jsonl"]).folder
    tables = module.detail_tables
    for size in (1, 2, 3, 7):
        most: list[int] = []

        def small(
            *given: Any, size: int = size, most: list[int] = most, tables: Callable[..., Any] = tables, **named: Any
        ) -> Any:
            for table in tables(*given, **named, rows_at_once=size):
                most.append(table.num_rows)
                yield table

        monkeypatch.setattr("tallybook.publishing.detail_tables", small)
        cut = publish(tmp_path / str(size), run_to_publish(shop, "2026-10"), formats=["jsonl"]).folder
        assert detail(cut) == detail(whole)
        assert len(most) > 2
        # A day of a tenant stays together: at the most acme's of 3 October, and two rows per event of calls.
        assert max(most) <= size + 3
    monkeypatch.undo()
    again = publish(tmp_path / "again", run_to_publish(shop, "2026-10"), formats=["jsonl"]).folder
    assert (again / module.FILE).read_bytes() == (whole / module.FILE).read_bytes()


def test_it_is_only_there_when_it_is_asked_for(shop: Workspace, tmp_path: Path) -> None:
    run = run_to_publish(shop, "2026-10")
    assert (publish(tmp_path, run).folder / module.FILE).exists()
    without = publish(tmp_path, replace(run, usage_detail=None))
    assert not (without.folder / module.FILE).exists()
    assert without.folder != publish(tmp_path, run).folder


def test_a_broken_reading_publishes_nothing(shop: Workspace, tmp_path: Path) -> None:
    run = run_to_publish(shop, "2026-10")

    @contextmanager
    def breaks() -> Iterator[Any]:
        def some() -> Iterator[Any]:
            raise OSError(5, "the lake does not answer")
            yield

        yield some()

    with pytest.raises(Exception, match="does not answer"):
        publish(tmp_path, replace(run, usage_detail=breaks))
    assert list(tmp_path.glob("2026*")) == []
    assert list(tmp_path.glob(".*")) == []


def test_a_slice_is_csv_that_no_spreadsheet_runs(shop: Workspace, tmp_path: Path) -> None:
    folder = publish_jsonl(shop, "2026-10")

    def cut(*words: str) -> list[Row]:
        result = CliRunner().invoke(
            app, ["-w", str(shop.layout.root), "usage-detail", str(folder), "--out", str(tmp_path / "cut.csv"), *words],
            catch_exceptions=False,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        with (tmp_path / "cut.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    assert [row["tenant_id"] for row in cut("--tenant", "=1+1")] == ["'=1+1"]
    acme = cut("--tenant", "acme")
    assert len(acme) == sum(row["tenant_id"] == "acme" for row in detail(folder))
    assert Decimal("0.000000001") in {Decimal(row["quantity"]) for row in acme if row["quantity"]}
    assert {row["meter"] for row in cut("--tenant", "acme", "--meter", "calls")} == {"calls"}
    assert cut("--tenant", "nobody") == []
