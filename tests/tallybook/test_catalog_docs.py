"""The page about the catalog: what it shows loads, and no key is left out of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallybook.catalog import json_schemas, load_catalog

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "catalog.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_yaml_of_the_page_is_one_catalog(tmp_path: Path) -> None:
    for number, block in enumerate(blocks("yaml")):
        (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
    catalog = load_catalog(tmp_path)
    counts = [
        len(catalog.meters),
        len(catalog.features),
        len(catalog.plans),
        len(catalog.accounts),
        len(catalog.subscriptions),
        len(catalog.sellers),
        len(catalog.ledger_accounts),
    ]
    assert counts == [13, 3, 5, 3, 5, 1, 8]


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "catalog").mkdir()
    for number, block in enumerate(blocks("yaml")):
        (tmp_path / "catalog" / f"{number}.yaml").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        exec(compile(block, "docs/catalog.md", "exec"), {})
    assert "added plan pro/4" in capsys.readouterr().out


def test_every_key_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", PAGE))
    for name, schema in json_schemas()["$defs"].items():
        missing = set(schema.get("properties", {})) - explained
        assert not missing, f"{name} has keys that docs/catalog.md does not explain: {missing}"


def test_the_catalog_that_init_leaves_loads(tmp_path: Path) -> None:
    example = (ROOT / "tallybook" / "example_catalog.yaml").read_text(encoding="utf-8")
    (tmp_path / "catalog.yaml").write_text(example, encoding="utf-8")
    assert load_catalog(tmp_path).plans
