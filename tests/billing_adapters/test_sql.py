"""The SQL of billing_adapters, file by file: one statement, a head that says what it is, exact arithmetic only."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

import billing_adapters
from billing_adapters.reconciliation.equations import CONTROLS

FILES = sorted(Path(billing_adapters.__file__).parent.rglob("*.sql"))
CONTROL_FILES = [path for path in FILES if path.stem.upper() in CONTROLS]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_one_exact_statement_with_a_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- ")
    assert len(duckdb.extract_statements(text)) == 1
    code = re.sub(r"--.*", "", text)
    code = re.sub(r"'[^']*'", "''", code).lower()
    for inexact in (" / ", "avg(", " round(", "double", "float", "now(", "current_"):
        assert inexact not in code


@pytest.mark.parametrize("path", CONTROL_FILES, ids=lambda path: path.stem)
def test_the_head_of_a_control_says_what_it_compares_and_who_acts(path: Path) -> None:
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("--"))
    control_id = path.stem.upper()
    assert f"{control_id} compares" in head
    assert "Catches" in head
    assert f"Class {CONTROLS[control_id]}" in head
    assert "Acts:" in head


def test_every_control_has_its_file() -> None:
    assert {path.stem.upper() for path in CONTROL_FILES} == set(CONTROLS)
