"""The command line: JSON that programs can read, sentences that people can, and the four exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tallybook.cli import main
from tests.tallybook.shop import CATALOG, USAGE, import_text, open_shop


def run_process(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tallybook.cli", "-w", str(root), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: the same words, streams and exit code, without loading everything again."""
    words = ["tallybook", "-w", str(root), *arguments]
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
    said = [stream.buffer.getvalue().decode() for stream in streams]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), *said)


def ask(root: Path, *arguments: str) -> Any:
    answer = run(root, *arguments, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with October final, made in this process; the tests only read it."""
    root = tmp_path_factory.mktemp("shop")
    with open_shop(root) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
    return root


def test_the_two_minutes_of_a_newcomer(tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert run(root, "init").returncode == 0
    (root / "catalog" / "shop.yaml").write_text(CATALOG, encoding="utf-8")
    assert ask(root, "apply")["revision"] == 1
    (tmp_path / "usage.csv").write_text(USAGE, encoding="utf-8")
    (imported,) = ask(root, "import", str(tmp_path / "usage.csv"))["files"]
    assert (imported["rows"], imported["stored"], imported["dead_letters"]) == (7, 7, 0)
    assert ask(root, "ship")["rows"] == 0
    assert {invoice["status"] for invoice in ask(root, "invoice", "--period", "2026-10")["invoices"]} == {"draft"}
    final = ask(root, "invoice", "--period", "2026-10", "--final")["invoices"]
    assert [invoice["total"] for invoice in final] == ["55.75", "25.29"]
    assert list((root / "out").glob("*/manifest.json"))
    assert ask(root, "verify", "--all")["differing"] == 0
    assert ask(root, "reconcile", "--period", "2026-10")["verdict"] == "conserved"


def test_invoices_as_json_keep_the_contract(shop: Path) -> None:
    invoice = ask(shop, "invoices", "--period", "2026-10")["invoices"][0]
    wanted = {
        "invoice_id",
        "number",
        "account_id",
        "currency",
        "period_start",
        "period_end",
        "status",
        "total",
        "lines",
    }
    assert wanted <= invoice.keys()
    line = next(line for line in invoice["lines"] if line["price_id"] == "tokens_out")
    wanted = {"line_id", "tenant_id", "price_id", "meter", "quantity", "amount", "exact_amount", "currency", "kind"}
    assert wanted <= line.keys()
    assert (line["quantity"], line["amount"], line["exact_amount"], line["kind"]) == ("1500", "6.25", "6.25", "usage")
    assert invoice["period_start"] == "2026-10-01T00:00:00Z"


def test_usage_as_json_keeps_the_contract(shop: Path) -> None:
    rows = ask(shop, "usage", "--period", "2026-10", "--by", "direction")["usage"]
    row = next(row for row in rows if row["tenant_id"] == "globex" and row["meter"] == "tokens")
    assert row["quantity"] == "400.5"
    assert row["attributes"] == {"direction": "output"}
    assert {"tenant_id", "meter", "period_start", "period_end", "quantity"} <= row.keys()


def test_explain_goes_down_to_the_event(shop: Path) -> None:
    lines = [line for invoice in ask(shop, "invoices")["invoices"] for line in invoice["lines"]]
    line = next(line for line in lines if line["tenant_id"] == "acme" and line["price_id"] == "tokens_out")
    explained = ask(shop, "explain", line["line_id"])
    assert [tier["quantity"] for tier in explained["tiers"]] == ["1000", "500"]
    (event,) = explained["events"]
    assert (event["quantity"], event["idempotency_key"], event["segment"]) == ("1500", "a1", 1)
    text = run(shop, "explain", line["line_id"])
    assert text.returncode == 0
    assert "graduated price tokens_out of pro version 1" in text.stdout


def test_tables_are_for_people_and_say_the_same(shop: Path) -> None:
    for command in (
        ["invoices", "--lines"],
        ["usage", "-p", "2026-10"],
        ["verify"],
        ["reconcile", "-p", "2026-10"],
        ["doctor"],
    ):
        answer = run(shop, *command)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.strip()
    assert "55.75" in run_process(shop, "invoices").stdout
    assert ask(shop, "doctor")["checks"]


BAD_INPUT = {
    "no such period": (["usage", "--period", "2026-13"], "2026-10-01..2026-11-01"),
    "no period at all": (["invoice"], "--period"),
    "no such line": (["explain", "line-nope"], "line-nope"),
    "no such invoice": (["verify", "INV-99"], "INV-99"),
    "no such file": (["import", "nowhere.csv"], "nowhere.csv"),
    "an invoice and all": (["verify", "INV-1", "--all"], "not both"),
    "no such command": (["bill"], "bill"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_exit_code_2_and_a_sentence(shop: Path, case: str) -> None:
    arguments, said = BAD_INPUT[case]
    answer = run(shop, *arguments)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_no_workspace_is_exit_code_2(tmp_path: Path) -> None:
    answer = run_process(tmp_path / "nowhere", "usage", "--period", "2026-10")
    assert answer.returncode == 2
    assert "init" in answer.stderr


BAD_CATALOGS = {
    "an unreadable plan": ("plans: [{name: pro", "shop.yaml:"),
    "a binary file": ("\x00\x01", "shop.yaml"),
    "overlapping tiers": (
        CATALOG.replace('{up_to: "1000", unit_price: "0"}', '{up_to: "1000"}, {up_to: "900"}'),
        "does not rise above 1000",
    ),
    "a subscription to a missing plan": (
        CATALOG.replace("plan: pro, version: 1, from", "plan: prro, version: 1, from"),
        "prro",
    ),
    "an exponent as price": (CATALOG.replace("0.0125", "1e-3"), "plain decimal"),
    "an unknown key": (CATALOG.replace("amount:", "amonut:"), "amonut"),
}


@pytest.mark.parametrize("case", BAD_CATALOGS)
def test_a_bad_catalog_is_exit_code_2_and_nothing_is_applied(tmp_path: Path, case: str) -> None:
    text, said = BAD_CATALOGS[case]
    root = tmp_path / "data"
    run(root, "init")
    (root / "catalog" / "shop.yaml").write_text(text, encoding="utf-8")
    answer = run(root, "apply")
    assert answer.returncode == 2
    assert said in answer.stderr
    assert not (root / "journal" / "meters.json").exists()
    assert run(root, "invoice", "--period", "2026-10").returncode == 2


def test_a_used_plan_version_cannot_change(tmp_path: Path) -> None:
    with open_shop(tmp_path):
        pass
    (tmp_path / "catalog" / "shop.yaml").write_text(CATALOG.replace("0.0125", "0.0120"), encoding="utf-8")
    answer = run(tmp_path, "apply")
    assert answer.returncode == 2
    assert "version 2" in answer.stderr


BAD_ROWS = {
    "unknown_meter": "acme,nope,1,2026-10-03T10:00:00Z",
    "negative_quantity": "acme,tokens,-1,2026-10-03T10:00:00Z",
    "bad_quantity": "acme,tokens,NaN,2026-10-03T10:00:00Z\nacme,tokens,1e40,2026-10-03T10:00:00Z",
    "bad_tenant": '../x,tokens,1,2026-10-03T10:00:00Z\n"ac\nme",tokens,1,2026-10-03T10:00:00Z',
    "bad_event_time": "acme,tokens,1,yesterday",
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_is_a_counted_dead_letter_and_the_rest_is_stored(tmp_path: Path, reason: str) -> None:
    with open_shop(tmp_path) as workspace:
        good = "acme,tokens,5,2026-10-03T10:00:00Z"
        import_text(
            workspace, "usage.csv", f"tenant_id,meter,quantity,event_time\n{good}\n{BAD_ROWS[reason]}\n{good}\n"
        )
        letters = workspace.lake.dead_letters().to_pylist()
        assert {letter["reason"] for letter in letters} == {reason}
        assert all(letter["detail"] and letter["original"] for letter in letters)
        assert sum(row.event_count for row in workspace.usage("2026-10")) == 2
        statement = workspace.reconcile("2026-10")
        assert statement.is_conserved


HALF_WRITTEN = {
    "a row without all its cells": "acme,tokens,5,2026-10-03T10:00:00Z\nacme,tok",
    "a quote that never closes": 'acme,"tokens,5,2026-10-03T10:00:00Z\n',
    "no rows and no columns": None,
}


@pytest.mark.parametrize("case", HALF_WRITTEN)
def test_a_half_written_file_is_refused_whole(tmp_path: Path, case: str) -> None:
    body = HALF_WRITTEN[case]
    with open_shop(tmp_path) as workspace:
        path = tmp_path / "half.csv"
        path.write_text("" if body is None else f"tenant_id,meter,quantity,event_time\n{body}", encoding="utf-8")
    answer = run(tmp_path, "import", str(path))
    assert answer.returncode == 2, answer.stdout
    assert "half.csv" in answer.stderr
    with open_shop(tmp_path) as workspace:
        assert workspace.usage("2026-10") == []
