"""`tallybook run` as operators and their machines start it: once, at an instant, twice at a time, for ever until a signal."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from metering import Recorder
from metering.clock import FixedClock
from tallybook import Workspace
from tallybook.books import reading
from tallybook.cli import app
from tallybook.errors import BadSettings
from tallybook.run_books import list_runs
from tallybook.run_health import look
from tallybook.runner import Runner
from tests.crash.workspace import REPOSITORY
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.tallybook.shop import USAGE, import_text, open_shop

AT = "2026-11-02T03:00:00Z"
NOW = datetime(2026, 11, 2, 3, tzinfo=UTC)
SETTINGS = """
[run]
from = 2026-10-01
[run.steps]
maintain = "off"
[files]
formats = ["csv"]
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = open_shop(tmp_path_factory.mktemp("used") / "shop", now=NOW)
    import_text(workspace, "usage.csv", USAGE)
    workspace.layout.settings_file.write_text(SETTINGS, encoding="utf-8")
    workspace.close()
    return workspace.layout.root


@pytest.fixture
def root(used: Path, tmp_path: Path) -> Path:
    return shutil.copytree(used, tmp_path / "shop")


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tallybook.cli", "-w", str(root), *words]


def ask(root: Path, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["-w", str(root), *words, "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_once_does_what_is_due_and_says_how_all_stands(root: Path) -> None:
    done = ask(root, "run", "--once", "--at", AT, "--step", "ship", "--step", "close")
    assert [(one["step"], one["period"]) for one in done["runs"]] == [("ship", AT), ("close", "2026-10")]
    rest = ask(root, "run", "--once", "--at", AT)
    done = {one["step"]: one["detail"] for one in rest["runs"]}
    assert set(done) == {"thresholds", "rate", "invoice", "reconcile", "reconcile_open", "alerts"}
    # Two fees of 49.00; nothing was used in November yet.
    assert done["rate"] == "2026-11 so far: 2 drafts, 98.00 USD"
    with Workspace(root, clock=FixedClock(NOW)) as workspace:
        assert {one.status for one in workspace.invoices("2026-11")} == {"draft"}, "rating books nothing"
    assert ask(root, "run", "--once", "--at", AT)["runs"] == []
    standing = {one["step"]: one for one in ask(root, "steps")["steps"]}
    assert standing["close"]["done_until"] == "2026-11-01T00:00:00Z"
    assert standing["close"]["command"] == "tallybook close"
    listed = ask(root, "runs", "--step", "invoice")["runs"]
    assert [(one["period"], one["outcome"], one["detail"]) for one in listed] == [
        ("2026-10", "done", "2 invoices, 81.04 USD")
    ]
    assert ask(root, "runs", "--failed")["runs"] == []
    assert CliRunner().invoke(app, ["-w", str(root), "steps"]).exit_code == 0
    assert CliRunner().invoke(app, ["-w", str(root), "runs"]).exit_code == 0


def test_bad_input_changes_nothing(root: Path) -> None:
    for words in (
        ["run", "--once", "--at", "2999-01-01T00:00:00Z"],
        ["run", "--once", "--at", "soon"],
        ["close", "--period", "2999-01"],
    ):
        with pytest.raises(Exception, match=r"not come yet|is no instant|open until"):
            ask(root, *words)
    for words in (["run", "--at", AT], ["run", "--once", "--step", "sail"], ["run", "--once", "--health-port", "0"]):
        ask_refused = CliRunner().invoke(app, ["-w", str(root), *words])
        assert ask_refused.exit_code == 2
    assert ask(root, "runs")["runs"] == []


def test_a_period_is_closed_by_hand_and_invoiced_later(root: Path) -> None:
    closed = ask(root, "close", "--period", "2026-10")
    assert not closed["is_invoiced"]
    assert ask(root, "close", "--period", "2026-10")["close_id"] == closed["close_id"]
    ask(root, "invoice", "--period", "2026-10", "--final")
    assert ask(root, "close", "--period", "2026-10") == {**closed, "is_invoiced": True}


def run_together(root: Path, processes: int) -> None:
    """Start processes at once; each month is closed, invoiced and reconciled once, and every pass done once."""
    started = [
        subprocess.Popen(command(root, "run", "--once", "--at", AT), cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        for _ in range(processes)
    ]
    assert [one.wait(100) for one in started] == [0] * processes
    with Workspace(root, clock=FixedClock(NOW)) as workspace:
        # Whoever found a step held by another left what follows to the other, or to the next call.
        Runner(workspace).run_due()
        with reading(workspace.books) as connection:
            runs = list_runs(connection)
        assert Counter((one.step, one.period) for one in runs).most_common(1)[0][1] == 1
        assert {(one.step, one.outcome) for one in runs if one.period == "2026-10"} == {
            ("close", "done"), ("invoice", "done"), ("reconcile", "done"),
        }  # fmt: skip
        assert sorted(one.number or "" for one in workspace.invoices("2026-10")) == ["INV-00000001", "INV-00000002"]


def test_two_processes_at_once_do_everything_once(root: Path) -> None:
    run_together(root, 2)


@pytest.mark.prove
def test_six_processes_at_once_do_everything_once_in_postgresql(used: Path, tmp_path: Path, postgres_url: str) -> None:  # noqa: F811
    root = shutil.copytree(used, tmp_path / "shop")
    root.joinpath("tallybook.toml").write_text(f'[books]\nurl = "{postgres_url}"\n{SETTINGS}', encoding="utf-8")
    with Workspace(root, clock=FixedClock(NOW)) as workspace:
        workspace.apply()
    run_together(root, 6)


def health(address: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read()) if refused.code == 503 else None


def test_the_scheduler_runs_tells_its_health_and_stops_at_a_signal(root: Path) -> None:
    words = command(root, "run", "--health-port", "0", "--step", "ship", "--step", "close", "--step", "invoice")
    with subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said: list[str] = []
        address = ""
        for line in process.stderr:
            said.append(line)
            if line.startswith("Health: "):
                address = line.split()[1]
            # It has begun, and done a step.
            if " ship " in line:
                break
        status, body = health(address)
        assert status in {200, 503}, "the machine may be too slow for its patience"
        assert {one["step"] for one in body["steps"]} == {"ship", "close", "invoice"}
        assert health(address.replace("/health", "/"))[0] == 404
        assert health(f"{address}?from=a-probe")[0] in {200, 503}
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=30) as probe:
            probe.sendall(b"HEAD /health HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: probe.recv(65536), b""))
        assert answer.split(b" ")[1] in {b"200", b"503"}
        assert answer.endswith(b"\r\n\r\n"), "a head has no body"
        process.send_signal(signal.SIGTERM)
        said += process.stderr.readlines()
        assert process.wait(60) == 0
    assert said[-1] == "Stopped.\n"
    with Workspace(root) as workspace, reading(workspace.books) as connection:
        assert {one.outcome for one in list_runs(connection)} <= {"done", "finding"}, "what was in hand was finished"


def test_once_stops_at_a_signal_after_the_step_in_hand(root: Path) -> None:
    (root / "tallybook.toml").write_text("[run]\nfrom = 2020-01-01\n[run.steps]\nmaintain = 'off'\n", encoding="utf-8")
    words = command(root, "run", "--once", "--step", "ship", "--step", "close", "--step", "invoice")
    with subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " close 2020-02" in line:
                break
        process.send_signal(signal.SIGTERM)
        said = process.stderr.readlines()
        assert process.wait(60) == 0
    assert said[-1] == "Stopped; the next call goes on.\n"
    with Workspace(root) as workspace, reading(workspace.books) as connection:
        runs = list_runs(connection)
    assert {one.outcome for one in runs} == {"done"}
    months = sorted(one.period for one in runs if one.step == "close")
    assert months == ["2020-01", "2020-02", "2020-03"][: len(months)], "what was in hand, and no other"


def test_a_port_that_is_taken_is_bad_input(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["-w", str(root), "run", "--health-port", str(port)])
    assert isinstance(result.exception, BadSettings)
    assert f"127.0.0.1:{port}: Address already in use; say another --health-port" in result.exception.message


def test_health_names_a_step_that_fails_again_and_again_though_it_is_due_every_few_minutes(root: Path) -> None:
    section = '\n[delivery.stripe]\nfrom = 2026-10-01\nwindow = "week"\n'
    (root / "tallybook.toml").write_text(SETTINGS + section, encoding="utf-8")
    clock = FixedClock(NOW)
    with Workspace(root, clock=clock) as workspace:
        runner = Runner(workspace, chance=lambda: 0.1)
        for _ in range(8):
            runner.run_due()
            clock.advance(timedelta(minutes=5))
        [said] = [one for one in look(runner).troubles if one.startswith("deliver stripe")]
        assert said.startswith("deliver stripe is late by 0:40:00: BadSettings: window"), said


def test_health_names_what_is_late_and_what_waits(root: Path) -> None:
    clock = FixedClock(NOW)
    with Workspace(root, clock=clock) as workspace:
        runner = Runner(workspace)
        # Nothing ever ran: October waits for a day and three hours.
        assert any(one.startswith("close is late") for one in look(runner).troubles)
        runner.run_due()
        assert look(runner).is_well
        recorder = Recorder(root, ship="none", clock=clock)
        recorder.record("calls", tenant="acme")
        recorder.flush()
        clock.advance(timedelta(minutes=20))
        found = look(runner)
        assert found.oldest_unshipped == timedelta(minutes=20)
        assert found.troubles == ("a usage event waits for the lake for 0:20:00",)
        assert "acme" not in json.dumps(found.to_json())
        recorder.close()
        workspace.ship()
        assert look(runner).oldest_unshipped == timedelta(0)
