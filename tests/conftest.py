"""Options and the closing lines of the whole suite."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A green run stays green: the same generated cases each time. `make prove` draws many new ones.
settings.register_profile("suite", derandomize=True)
settings.register_profile("search", max_examples=1000, print_blob=True)
settings.load_profile("suite")

# The cases lie beside the repository, not in it.
CASES = Path(__file__).parents[2] / "shared" / "conformance"
LONG_TESTS = Path(__file__).parent / "long_tests.txt"


def long_tests() -> frozenset[str]:
    """Return the tests that `make test` leaves to `make check`, as pytest names them without their case."""
    lines = LONG_TESTS.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are listed as long."""
    listed = long_tests()
    for item in items:
        if item.nodeid.partition("[")[0] in listed:
            item.add_marker(pytest.mark.long)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", metavar="FOLDER", default=str(CASES), help="a folder with openmeter, lago, peers.jsonl")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the conformance tests found: one line per area, why the rest was not answered as asked, the sum."""
    reports = [
        dict(report.user_properties)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and any(name == "conformance" for name, _ in report.user_properties)
    ]
    if not reports:
        return
    total: Counter[str] = Counter()
    terminalreporter.section("conformance")
    for found in sorted(reports, key=lambda found: str(found["conformance"])):
        verdicts = Counter(found["verdicts"])
        total.update(verdicts)
        counts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()) if number)
        terminalreporter.write_line(f"{found['conformance']}: {counts}")
        for text, number in [*found["reasons"].items(), *found["questions"].items()]:
            terminalreporter.write_line(f"    {number} x {text}")
    closing = ", ".join(f"{total[verdict]} {verdict}" for verdict in ("passed", "failed", "unsupported"))
    apart = f", {total['questioned']} questioned" if total["questioned"] else ""
    terminalreporter.write_line(f"conformance: {closing} of {total.total()}{apart}")
