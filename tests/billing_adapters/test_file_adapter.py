"""Published files: equal in every format, equal to the invoices, equal every time; whole or not there at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import shutil
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from billing_adapters.errors import PublicationConflict, PublicationDamaged, PublicationFailed
from billing_adapters.file_adapter import publish, read_manifest, usage_of, verify_published
from billing_adapters.file_adapter.columns import FileShape, arrow_schema
from billing_adapters.file_adapter.formats import neutralise, original_text
from billing_adapters.file_adapter.shapes import SHAPES
from billing_adapters.file_adapter.tables import tables_of
from billing_adapters.file_adapter.tie_outs import CONTROLS, TieOuts
from billing_adapters.ports import PublishedRun
from metering.clock import iso_utc
from metering.engine import open_engine
from metering.numbers import plain, trimmed
from metering.periods import parse_period
from metering.usage import load_events
from rating.iso4217 import minor_units
from rating.rate import rate
from rating.rounding import exact_sum
from rating.terms import billing_spans
from tests.billing_adapters.runs import CATALOG, EVENTS, HOSTILE, MONTH, make_run, papers_for, publish_and_die
from tests.billing_adapters.workbooks import read_workbook
from tests.rated import events_table, terms_of

Row = dict[str, Any]


@pytest.fixture(scope="module")
def run() -> PublishedRun:
    return make_run()


@pytest.fixture(scope="module")
def folder(run: PublishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the published run, for tests that only read it."""
    return publish(tmp_path_factory.mktemp("published"), run).folder


def read(folder: Path, shape: FileShape, file_format: str) -> list[Row]:
    """Return the rows of a file as a program of finance would read them, all values as text."""
    path = folder / f"{shape.name}.{file_format}"
    if file_format == "xlsx":
        return [_as_text(shape, row) for row in read_workbook(path, shape)]
    content = path.read_bytes()
    if file_format == "csv":
        rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
        texts = {column.name for column in shape.columns if column.type == "text"}
        return [{name: original_text(cell) if name in texts else cell for name, cell in row.items()} for row in rows]
    if file_format == "jsonl":
        rows_read = [json.loads(line) for line in content.splitlines()]
        return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows_read]
    return [_as_text(shape, row) for row in pq.read_table(io.BytesIO(content)).to_pylist()]


def _as_text(shape: FileShape, row: Row) -> Row:
    texts: Row = {}
    for column in shape.columns:
        value = row[column.name]
        if value is None:
            value = ""
        elif column.type == "instant":
            value = iso_utc(value)
        elif column.type == "date":
            value = value.isoformat()
        elif column.type == "amount":
            value = plain(value.quantize(Decimal(1).scaleb(-minor_units(row["currency"]))))
        elif isinstance(value, Decimal):
            value = trimmed(value)
        texts[column.name] = str(value)
    return texts


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_hostile_text_comes_back_equal_from_every_format(folder: Path, shape: FileShape) -> None:

    rows = read(folder, shape, "parquet")
    assert read(folder, shape, "csv") == rows
    assert read(folder, shape, "jsonl") == rows
    assert read(folder, shape, "xlsx") == rows
    assert rows
    if any(column.name == "tenant_id" for column in shape.columns):
        assert {row["tenant_id"] for row in rows} <= set(HOSTILE)
        assert {"=1+1", '"quoted", and comma', "\u200fabc\u200e"} <= {row["tenant_id"] for row in rows}


def test_no_text_cell_of_a_csv_file_begins_like_a_formula(folder: Path) -> None:
    neutralised = {
        (file["name"], column["column"])
        for file in read_manifest(folder)["files"]
        for column in file.get("schema", [])
        if column["neutralised"]
    }
    for shape in SHAPES:
        name = f"{shape.name}.csv"
        for row in csv.DictReader(io.StringIO((folder / name).read_text(encoding="utf-8"), newline="")):
            for column, cell in row.items():
                if (name, column) in neutralised:
                    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\0"))
    assert "'=1+1" in (folder / "usage.csv").read_text(encoding="utf-8")
    assert "'=1+1" not in (folder / "usage.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\0x", "'=1", "''-1", "plain", "'t Hooft", "'"])
def test_neutralised_text_is_no_formula_and_can_be_undone(text: str) -> None:
    assert neutralise(text)[0] not in "=+-@\t\r\0"
    assert original_text(neutralise(text)) == text


def test_negative_numbers_stay_numbers_and_amounts_have_their_minor_digits(tmp_path: Path, run: PublishedRun) -> None:
    first = run.invoices[0]
    credit = Decimal("-5.00")
    lines = (replace(first.lines[0], amount=credit),)
    lowered = replace(first, lines=lines, total=credit, amount_due=credit, prepaid=())
    yen = next(invoice for invoice in run.invoices if invoice.currency == "JPY")
    folder = publish(tmp_path, replace(run, papers=papers_for([lowered, yen]))).folder

    rows = read(folder, SHAPES[0], "csv")
    assert {row["currency"]: row["amount_net"] for row in rows} == {"USD": "-5.00", "JPY": "900"}


def test_the_sums_of_the_files_are_those_of_the_invoices(folder: Path, run: PublishedRun) -> None:
    register, lines, changes, charges, usage, burns, paid, entries, summary, *_, ties = (
        read(folder, shape, "csv") for shape in SHAPES
    )
    received = exact_sum([Decimal(row["amount"]) for row in paid])

    for currency in ("USD", "JPY"):
        total = exact_sum([invoice.total for invoice in run.invoices if invoice.currency == currency])
        assert exact_sum([Decimal(row["amount_net"]) for row in register if row["currency"] == currency]) == total
        assert exact_sum([Decimal(row["amount"]) for row in lines if row["currency"] == currency]) == total
        taxes = [Decimal(row["tax_amount"]) for row in lines if row["currency"] == currency]
        assert exact_sum([Decimal(row["amount_tax"]) for row in register if row["currency"] == currency]) == exact_sum(
            taxes
        )
        payable = [Decimal(row["amount_payable"]) for row in register if row["currency"] == currency]
        for journal in (entries, summary):
            owed = [row for row in journal if (row["account"], row["currency"]) == ("receivables", currency)]
            left = exact_sum([Decimal(row["debit"]) - Decimal(row["credit"]) for row in owed])
            assert left == exact_sum(payable) - (received if currency == "USD" else 0)
    corrections = {row["line_id"]: row for row in lines if row["kind"] == "correction"}
    assert {row["line_id"] for row in changes} == corrections.keys()
    for row in changes:
        # As much had been billed before as this line bills.
        amounts = [row["amount_before"], row["amount_change"], corrections[row["line_id"]]["amount"]]
        assert amounts == [amounts[0]] * 3
        assert Decimal(row["amount_after"]) == 2 * Decimal(row["amount_before"])
    assert {row["before_number"] for row in changes} == {"=INV-0", ""}
    assert {row["difference"] for row in ties} == {"0"}
    assert {(row["control_id"], row["currency"]) for row in ties} >= {(one, "USD") for one in CONTROLS}
    for row in register:
        services = [
            (line["service_period_start"], line["service_period_end"])
            for line in lines
            if line["invoice_id"] == row["invoice_id"]
        ]
        assert row["service_period_start"] == min(start for start, _ in services)
        assert row["service_period_end"] == max(end for _, end in services)
        net, tax, gross = (Decimal(row[f"amount_{name}"]) for name in ("net", "tax", "gross"))
        prepaid, payable = (Decimal(row[f"amount_{name}"]) for name in ("prepaid", "payable"))
        assert (net + tax, gross - prepaid) == (gross, payable)
        burned = [Decimal(burn["amount"]) for burn in burns if burn["invoice_id"] == row["invoice_id"]]
        assert exact_sum(burned) == prepaid
    for row in lines:
        assert Decimal(row["list_amount"]) + Decimal(row["discount_amount"]) == Decimal(row["exact_amount"])
        parts = [Decimal(charge["exact_amount"]) for charge in charges if charge["line_id"] == row["line_id"]]
        assert exact_sum(parts) == Decimal(row["exact_amount"])
    for meter in ("tokens", "+calls"):
        billed = [Decimal(row["quantity"]) for row in lines if row["meter"] == meter]
        assert exact_sum(billed) == exact_sum([Decimal(row["quantity"]) for row in usage if row["meter"] == meter])


@pytest.mark.parametrize("control_id", CONTROLS)
def test_a_total_that_moves_shows_in_its_tie_out_and_no_other(run: PublishedRun, control_id: str) -> None:
    """One cent more in one file is one row with a difference of one cent."""
    (file, column, _, chosen), _ = CONTROLS[control_id]
    cent = Decimal("0.01")
    ties = TieOuts()
    for shape, table in tables_of(run, "run-1"):
        rows = table.to_pylist()
        if shape.name == file:
            moved = next(
                row for row in rows if row["currency"] == "USD" and all(row[by] in those for by, those in chosen or ())
            )
            moved[column] += cent
        if shape.name != "tie_outs":
            ties.see(shape, pa.Table.from_pylist(rows, schema=table.schema))
    differing = {row["control_id"]: row["difference"] for row in ties.rows() if row["difference"]}
    assert differing[control_id] == cent
    touched = {name for name, pair in CONTROLS.items() if any(one[:2] == (file, column) for one in pair)}
    assert set(differing) <= touched


def test_a_run_of_drafts_is_not_compared_with_a_journal(run: PublishedRun) -> None:
    drafts = papers_for([replace(invoice, status="draft", number=None) for invoice in run.invoices])
    *_, (shape, table) = tables_of(replace(run, papers=drafts, settlements=(), prepaid=()), "run-1")
    assert shape.name == "tie_outs"
    assert not {
        row["control_id"]
        for row in table.to_pylist()
        if "journal" in (said := row["source_a"] + row["source_b"]) or "roll" in said
    }
    assert set(table["difference"].to_pylist()) == {0}


def test_the_manifest_describes_every_file(folder: Path, run: PublishedRun) -> None:
    manifest = read_manifest(folder)

    assert manifest["snapshot_ids"] == list(run.snapshot_ids)
    assert manifest["generator"] == {"tallybook": "0.1.0"}
    assert {file["name"] for file in manifest["files"]} | {"manifest.json", "SHA256SUMS"} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }
    for file in (one for one in manifest["files"] if one["format"] != "html"):
        content = (folder / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert file["rows"] == len(read(folder, _shape(file["name"]), file["format"]))
    line_totals = next(file["control_totals"] for file in manifest["files"] if file["name"] == "invoice_lines.csv")
    amounts = next(total["sums"] for total in line_totals if total["sum_of"] == "amount")
    usd = exact_sum([invoice.total for invoice in run.invoices if invoice.currency == "USD"])
    assert amounts == {"JPY": "900", "USD": trimmed(usd)}


def _shape(name: str) -> FileShape:
    return next(shape for shape in SHAPES if shape.name == name.rpartition(".")[0])


def test_parquet_keeps_decimals_and_utc(folder: Path) -> None:
    for shape in SHAPES:
        assert pq.read_schema(folder / f"{shape.name}.parquet").equals(arrow_schema(shape))


def test_no_column_is_always_empty(folder: Path) -> None:
    for shape in SHAPES:
        table = pq.read_table(folder / f"{shape.name}.parquet")
        empty = [name for name in table.column_names if table[name].null_count == table.num_rows]
        # No price of this run has cells, and none of its documents is void.
        expected = {"charges": ["cell"], "invoice_register": ["voided_at", "void_reason"],
                        "rated_changes": ["attributes"]}  # fmt: skip
        assert empty == expected.get(shape.name, []), shape.name


def all_bytes(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, run: PublishedRun) -> None:
    shuffled = replace(make_run(list(reversed(EVENTS))), papers=list(reversed(run.papers)))
    first, second = publish(tmp_path / "a", run), publish(tmp_path / "b", shuffled)

    assert first.folder.name == second.folder.name
    assert all_bytes(first.folder) == all_bytes(second.folder)


def test_publishing_twice_changes_nothing(tmp_path: Path, run: PublishedRun) -> None:
    first = publish(tmp_path, run)
    times = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = publish(tmp_path, run)

    assert (first.is_new, second.is_new) == (True, False)
    assert replace(second, is_new=True) == first
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == times
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_other_content_is_another_folder(tmp_path: Path, run: PublishedRun) -> None:
    first = publish(tmp_path, run)
    second = publish(tmp_path, replace(run, papers=papers_for(run.invoices, name="Another house")))

    assert first.folder != second.folder
    assert verify_published(first.folder).run_id == first.run_id


def test_a_changed_folder_is_refused_and_left_alone(tmp_path: Path, run: PublishedRun) -> None:
    folder = publish(tmp_path, run).folder
    (folder / "usage.csv").write_text("edited")

    with pytest.raises(PublicationConflict, match=r"usage\.csv"):
        publish(tmp_path, run)
    assert (folder / "usage.csv").read_text() == "edited"
    with pytest.raises(PublicationDamaged) as damage:
        verify_published(folder)
    assert damage.value.differences == ("usage.csv is not what the manifest says",)


@pytest.mark.parametrize("change", ["missing", "extra", "sums", "no manifest"])
def test_a_damaged_publication_does_not_verify(tmp_path: Path, run: PublishedRun, change: str) -> None:
    folder = publish(tmp_path, run).folder
    name = {"missing": "charges.jsonl", "extra": "extra.csv", "sums": "SHA256SUMS", "no manifest": "manifest.json"}
    if change in {"missing", "no manifest"}:
        (folder / name[change]).unlink()
    else:
        (folder / name[change]).write_text("0")

    with pytest.raises(PublicationDamaged, match=name[change]):
        verify_published(folder)


@pytest.mark.parametrize("at", ["invoice_lines.parquet", "manifest.json", "rename"])
def test_a_kill_before_the_rename_leaves_no_readable_run(tmp_path: Path, run: PublishedRun, at: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=publish_and_die, args=(tmp_path, at))
    process.start()
    process.join()

    assert process.exitcode == -9
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert verify_published(publish(tmp_path, run).folder)


def test_at_every_step_a_reader_finds_the_old_run_whole_and_no_other(tmp_path: Path, run: PublishedRun) -> None:
    """What a kill before a step leaves is what lies on the disk then; from each of these states publishing goes on."""
    seen: list[str] = []
    old = publish(tmp_path / "out", replace(run, papers=papers_for(run.invoices[:2])))

    def keep(step: str) -> None:
        seen.append(step)
        # Letters are written beside: one that gets its name while this copies is not in the copy, as it might be at a kill.
        with suppress(shutil.Error):
            shutil.copytree(tmp_path / "out", tmp_path / "states" / str(len(seen)))

    new = publish(tmp_path / "out", run, on_step=keep)
    assert seen[-3:] == ["SHA256SUMS", "manifest.json", "rename"]
    assert len(seen) == len(new.files) + 1
    for number, step in enumerate(seen, start=1):
        state = tmp_path / "states" / str(number)
        assert [path.name for path in state.iterdir() if not path.name.startswith(".")] == [old.folder.name], step
        assert verify_published(state / old.folder.name).run_id == old.run_id
        half = [path for path in state.iterdir() if path.name.startswith(".")]
        assert len(half) == 1
        if step != "rename":
            with pytest.raises(PublicationDamaged):
                verify_published(half[0])
    for number in (1, len(seen) // 2, len(seen)):
        again = publish(tmp_path / "states" / str(number), run)
        assert again.is_new
        assert again.files == new.files


def test_only_the_formats_that_are_wanted_are_written(tmp_path: Path, run: PublishedRun) -> None:
    some = publish(tmp_path, run, formats=["xlsx", "csv"])
    assert {file.format for file in some.files} == {"csv", "xlsx", "json", "sums"}
    assert publish(tmp_path, run, formats=["csv", "xlsx"]) == replace(some, is_new=False)
    assert publish(tmp_path, run).folder != some.folder
    with pytest.raises(ValueError, match="pdf"):
        publish(tmp_path, run, formats=["pdf"])


def test_a_full_disk_publishes_nothing(tmp_path: Path, run: PublishedRun) -> None:
    def refuse(step: str) -> None:
        if step == "manifest.json":
            raise OSError(28, "No space left on device")

    with pytest.raises(PublicationFailed, match="No space left"):
        publish(tmp_path, run, on_step=refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_period_without_invoices_is_published_too(tmp_path: Path, run: PublishedRun) -> None:
    folder = publish(tmp_path, replace(run, papers=[], usage=run.usage.slice(0, 0))).folder
    assert (folder / "invoice_register.csv").read_text(encoding="utf-8").count("\n") == 1
    assert (folder / "invoice_register.jsonl").read_bytes() == b""
    assert verify_published(folder)


def test_usage_has_the_declared_columns() -> None:
    engine = open_engine(threads=1)
    terms = terms_of(CATALOG)
    load_events(engine, events_table([]))
    rate(engine, terms, billing_spans(terms, parse_period(MONTH)), parse_period(MONTH).in_zone("UTC").end)
    declared = arrow_schema(next(shape for shape in SHAPES if shape.name == "usage"))
    assert [(field.name, field.type) for field in usage_of(engine).schema] == [
        (field.name, field.type) for field in declared if field.name != "run_id"
    ]
