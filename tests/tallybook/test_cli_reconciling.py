"""Reconciliation at the command line: what is written, kept and decided, and the exit codes that scripts rest on."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from metering.clock import FixedClock
from tallybook import Workspace
from tests.tallybook.shop import NOVEMBER, USAGE, import_text, open_shop
from tests.tallybook.test_cli import run

OCTOBER = ["--period", "2026-10"]
WITNESS = """tenant_id,meter,bucket_start,count
acme,calls,2026-10-05T10:00:00Z,1
nobody,calls,soon,1
acme,calls,2026-10-31T23:00:00Z,0
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shop")
    with open_shop(root) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
    return root


def ask(root: Path, *words: str, code: int = 0) -> Any:
    answer = run(root, *words, "--json")
    assert answer.returncode == code, answer.stderr
    return json.loads(answer.stdout)


def test_one_command_writes_every_form_of_the_report(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "witness.csv").write_text(WITNESS, encoding="utf-8")
    page, book, files = tmp_path / "new" / "report.html", tmp_path / "report.xlsx", tmp_path / "files"
    words = ["--html", str(page), "--xlsx", str(book), "--csv", str(files), "--parquet", str(files), "--who", "ana"]
    answer = run(shop, "reconcile", *OCTOBER, *words, "--witness", str(tmp_path / "witness.csv"), "--json")
    body = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert "1 not understood (bad_event_time); first line 3" in answer.stderr
    assert (body["verdict"], body["run"]["preparer"]) == ("conserved", "ana")
    ghost = next(one for one in body["findings"] if one["tenant_id"] == "ghost")
    assert (ghost["control_id"], ghost["status"], ghost["class"]) == ("UNKNOWN_TENANT", "open", "AT_RISK")
    assert ghost["finding_id"] in page.read_text(encoding="utf-8")
    assert "Balanced" in page.read_text(encoding="utf-8")
    assert load_workbook(io.BytesIO(book.read_bytes())).sheetnames[0] == "Summary"
    assert (files / "findings.csv").exists()
    assert (files / "control_log.parquet").exists()
    assert not list(tmp_path.rglob("*.part"))
    worth = body["waterfall"]["amount"]["USD"]
    assert (worth[0]["bucket"], worth[-1]["bucket"], worth[-1]["figure"]) == ("rated_value", "invoiced", "81.04")
    table = run(shop, "reconcile", *OCTOBER)
    assert "Balanced" in table.stdout
    assert "Unknown tenant" in table.stdout


def test_a_finding_is_decided_about_until_it_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with open_shop(root) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        first = workspace.report("2026-10", preparer="ana")
        again = workspace.report("2026-10", preparer="ana")
    assert first.run == again.run, "the same facts at the same instant are the same run"
    assert first.new == again.new != ()
    (ghost,) = (one["finding_id"] for one in ask(root, "findings", code=1)["findings"] if one["tenant_id"] == "ghost")
    said = ask(root, "findings", "acknowledge", ghost[:12], "--why", "asked sales", "--who", "ben")["findings"]
    assert [one["status"] for one in said] == ["acknowledged"]
    words = ["--why", "a test tenant", "--who", "ben", "--until", "2099-01-01", "--approved-by"]
    assert run(root, "findings", "waive", ghost, *words, "Ben").returncode == 2
    assert ask(root, "findings", "waive", ghost, *words, "ana")["findings"][0]["status"] == "waived"
    assert "open" in run(root, "findings", "reopen", ghost, "--why", "pilot over").stdout
    assert [event["verb"] for event in ask(root, "findings", "show", ghost)["findings"][0]["history"]] == [
        "found", "acknowledged", "waived", "reopened",
    ]  # fmt: skip
    assert ask(root, "findings", "recover", ghost, "--why", "by hand", code=0)["findings"][0]["status"] == "recovered"
    later = FixedClock(NOVEMBER + timedelta(days=1))
    catalog = root / "catalog" / "shop.yaml"
    text = catalog.read_text(encoding="utf-8").replace("tenants: [globex]", "tenants: [globex, ghost]")
    catalog.write_text(text, encoding="utf-8")
    with Workspace(root, clock=later) as workspace:
        workspace.apply()
        after = workspace.report("2026-10", preparer="ana")
    assert after.before is not None
    assert after.before.run_id == first.run.run_id
    status = {one.finding_id: one.status for one in after.findings}
    assert status[ghost] == "recovered"
    assert any(one.control_id == "NO_SUBSCRIPTION" and one.tenant_id == "ghost" for one in after.findings)
    assert run(root, "controls", "review", after.run.run_id, "--who", "ana").returncode == 2
    assert run(root, "controls", "review", after.run.run_id, "--who", "ben").returncode == 0
    assert [one["reviewer"] for one in ask(root, "controls", "runs", *OCTOBER)["runs"]] == ["ben", None]


def test_controls_are_listed_with_those_of_the_workspace(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        folder = workspace.layout.root / "controls"
        folder.mkdir()
        (folder / "broken.sql").write_text("SELECT 1", encoding="utf-8")
        workspace.report("2026-10")
    body = ask(tmp_path, "controls")
    known = {one["control_id"]: one for one in body["controls"]}
    assert known["UNKNOWN_TENANT"]["result"] == "passed"
    assert known["UNKNOWN_TENANT"]["compares"]
    assert [one["control_id"] for one in body["refused"]] == ["BROKEN"]
    table = run(tmp_path, "controls")
    assert table.returncode == 1
    assert "BROKEN cannot run" in table.stderr


def test_a_log_becomes_a_witness(tmp_path: Path) -> None:
    log, who, made = tmp_path / "access.log", tmp_path / "who.csv", tmp_path / "witness.csv"
    log.write_text('10.0.0.1 - - [05/Oct/2026:10:59:59 +0000] "GET /v1 HTTP/1.1" 200 9\nnoise\n', encoding="utf-8")
    who.write_text("name,tenant_id\n10.0.0.1,acme\n", encoding="utf-8")
    words = ["witness", str(log), "--meter", "calls", "--out", str(made), "--tenants", str(who)]
    body = ask(tmp_path, *words)
    assert (body["rows"], body["counted"], body["not_understood"]) == (2, 1, {"no_request": 1})
    assert made.read_text(encoding="utf-8").splitlines()[1] == "acme,calls,2026-10-05T10:00:00Z,1"
    assert "1 of 2 lines" in run(tmp_path, *words).stdout


BAD = {
    "no such witness": (["reconcile", *OCTOBER, "--witness", "nowhere.csv"], "no such file"),
    "a floor that is none": (["reconcile", *OCTOBER, "--floor", "much"], "plain decimal"),
    "no such status": (["findings", "--status", "shut"], "acknowledged"),
    "no such finding": (["findings", "show", "find-nope"], "0 findings"),
    "no reason": (["findings", "acknowledge", "find-nope"], "--why"),
    "no such rule": (["witness", "a.log", "--meter", "m", "--out", "b.csv", "--tenant", "shoe"], "path:N"),
    "an end that is no day": (
        ["findings", "waive", "find-", "--why", "x", "--approved-by", "y", "--until", "soon"], "2026-12-31"),
    "no such run": (["controls", "review", "run-nope"], "0 reconciliations"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_sentence_and_exit_code_2(shop: Path, case: str) -> None:
    words, said = BAD[case]
    answer = run(shop, *words)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
