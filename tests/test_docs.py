"""The documents are tested: their Python runs, their YAML applies, their commands exist."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import NAMES
from metering.clock import FixedClock
from tallybook import Workspace
from tallybook.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *(ROOT / name / "README.md" for name in (
    "metering", "entitlements", "rating", "billing_adapters", "tallybook"))])  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_runs_from_record_to_invoice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    october = FixedClock(datetime(2026, 10, 5, tzinfo=UTC))
    with Workspace.init("tallybook-data", clock=october) as workspace:
        record, entitle = blocks(README, "python")
        names: dict[str, Any] = {}
        exec(record, names)
        usage = names["usage"]
        # The shipper that the Recorder spawned may be faster; either way all three are in the lake now.
        usage.ship_now()
        (catalog,) = blocks(README, "yaml")
        (workspace.layout.catalog / "plans.yaml").write_text(catalog, encoding="utf-8")
        workspace.apply()
        exec(entitle, names)
        assert capsys.readouterr().out == "signed in by SSO\nTrue 15\n"
        assert not names["entitled"].consume("acme", "exports", 16), "what does not fit is refused, and not recorded"
        names["entitled"].close()
        usage.ship_now()
        usage.close()
        now = datetime.now(UTC)
        used = {row.meter: row.quantity for row in workspace.usage(f"{now:%Y-%m}")}
        assert used == {"api_requests": 1, "tokens": 2560, "exports": 5}
        invoices = workspace.invoice(f"{now:%Y-%m}").invoices
        assert {line.price_id for invoice in invoices for line in invoice.lines} >= {"platform_fee", "tokens_out"}


def test_every_command_that_the_readme_names_exists() -> None:
    for command in set(re.findall(r"tallybook (?:-w \S+ )?([a-z]+)", README)):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0, command


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_files_that_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:metering|rating|billing_adapters|tallybook|tests|entitlements)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name


def test_every_result_names_the_command_of_a_benchmark_and_each_is_named_once() -> None:
    assert len(set(NAMES)) == len(NAMES), "`python -m benchmarks all` would run one twice"
    sections = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert {re.split(r"[ \n]", section)[0] for section in sections} == set(NAMES)
    for section in sections:
        assert f"`python -m benchmarks {section.split()[0]} " in section.split("|")[0]
