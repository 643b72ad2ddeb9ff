"""The style of the house, kept by a test: SQL that cannot lie, small functions, one public list, a light import."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import long_tests

ROOT = Path(__file__).parents[1]
PACKAGES = ("metering", "entitlements", "rating", "billing_adapters", "tallybook")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SQL_FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.sql"))
MONEY_SQL = [path for path in SQL_FILES if path.relative_to(ROOT).parts[0] in {"rating", "billing_adapters"}]
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 550  # about 500 is the taste; past this a module has two subjects
HEAVY = ("pyarrow", "duckdb", "deltalake", "numpy", "polars", "pydantic", "sqlalchemy", "yaml")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(path: Path) -> str:
    """Return a statement without its comments and text literals."""
    lines = (line.partition("--")[0] for line in path.read_text(encoding="utf-8").splitlines())
    return re.sub(r"'[^']*'", "''", "\n".join(lines))


@pytest.mark.parametrize("path", SQL_FILES, ids=name_of)
def test_every_sql_file_is_one_statement_with_a_head(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("-- "), "a statement begins by saying what it does"
    assert code_of(path).count(";") == 0, "one statement, no semicolon"
    assert max(map(len, text.splitlines())) < 140, "a line fits a screen"


@pytest.mark.parametrize("path", SQL_FILES, ids=name_of)
def test_no_statement_reads_a_clock_or_chance(path: Path) -> None:
    assert not re.search(r"\b(now|current_date|current_timestamp|today|random|uuid)\b", code_of(path), re.IGNORECASE)


@pytest.mark.parametrize("path", MONEY_SQL, ids=name_of)
def test_money_sql_cannot_leave_exact_arithmetic(path: Path) -> None:
    code = code_of(path)
    # `//` divides HUGEINT exactly; a single `/` gives a double, silently, and so does avg.
    assert not re.search(r"(?<!/)/(?!/)", code), "no division"
    assert not re.search(r"\b(avg|mean|median|double|float|real|round|round_even|trunc)\b\s*\(?", code, re.IGNORECASE)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_begins_by_saying_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), "a module begins with its docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_fit_a_screen_and_modules_a_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MODULE_LINES_MAX
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_float_and_no_assert_decides_anything(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not asserts, "broken invariants raise; an assert vanishes under -O"
    if path.relative_to(ROOT).parts[0] in {"rating", "billing_adapters", "entitlements"}:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "float"]
        lines += [
            node.lineno for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is float
        ]
        # Seconds of waiting are floats, and say so in their names; money and quantities never are.
        source = text.splitlines()
        found = [line for line in lines if not re.search(r"_s\b|_S\b|seconds", source[line - 1])]
        assert not found, "money never passes through float"


def test_arrow_adds_nothing_up_by_groups_but_in_one_place() -> None:
    """It adds decimals in 128 bits and wraps without a word; `metering.totals.sums_by` adds them in 256."""
    met = [name_of(path) for path in MODULES if re.search(r"\.aggregate\(.*\"sum\"", path.read_text(encoding="utf-8"))]
    assert met == ["metering/totals.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_list_is_sorted_short_and_true(package: str) -> None:
    module = importlib.import_module(package)
    public = getattr(module, "__all__", [])
    assert list(public) == sorted(public)
    assert len(public) <= 22
    for name in public:
        assert getattr(module, name) is not None


def test_importing_metering_loads_nothing_heavy() -> None:
    code = f"import sys, metering; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_recording_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from metering import Recorder\n"
        f"usage = Recorder({str(tmp_path)!r}, ship='none'); usage.record('calls', tenant='acme'); usage.close()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_nothing_of_this_machine_or_of_a_registry_is_in_the_house() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    # Written in halves, so that this file does not find itself.
    places = (
        "/ho" + "me/",
        "/wo" + "rk/main",
        "/wo" + "rk/shared",
        "/ro" + "ot/",
        r"py" + r"pi\.org",
        "python" + "hosted",
    )
    forbidden = re.compile("|".join(places))
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".sql", ".csv", ""} and path.is_file():
            assert not forbidden.search(path.read_text(encoding="utf-8")), name


def test_every_long_test_that_is_listed_exists() -> None:
    gone = []
    for entry in sorted(long_tests()):
        path, name, *_ = entry.split("::")
        known = ast.parse((ROOT / path).read_text(encoding="utf-8")).body if (ROOT / path).exists() else []
        if name not in {getattr(node, "name", None) or getattr(node, "id", None) for node in known}:
            gone.append(entry)
    assert not gone, "take these out of tests/long_tests.txt, or give them their new names"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("oracle*.py")), ids=name_of)
def test_an_oracle_shares_no_code_with_what_it_judges(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= (
                {f"tests.{alias.name}" for alias in node.names} if node.module == "tests" else {str(node.module)}
            )
    # Nothing but the language, and other oracles: neither the packages nor the engine that they calculate in.
    others = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not name.startswith("tests.oracle")} == set()
