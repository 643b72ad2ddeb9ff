"""The SQL of billing_adapters, file by file: one statement, a head that says what it is, exact arithmetic only."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

import billing_adapters

FILES = sorted(Path(billing_adapters.__file__).parent.rglob("*.sql"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_one_exact_statement_with_a_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- ")
    assert len(duckdb.extract_statements(text)) == 1
    code = re.sub(r"--.*", "", text)
    code = re.sub(r"'[^']*'", "''", code).lower()
    for inexact in (" / ", "avg(", " round(", "double", "float", "now(", "current_"):
        assert inexact not in code
