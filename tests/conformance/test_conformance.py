"""The numeric cases of other billing systems, put to the public engine. One test per file and area.

pytest tests/conformance --cases ../shared/conformance
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import (
    lago,
    lago_books,
    lago_levels,
    lago_money,
    openmeter,
    openmeter_grants,
    openmeter_pricing,
    peers,
)
from tests.conformance.cases import Case, Tally, judge, load_cases, questioned, unsupported
from tests.conformance.rules import RULES

READERS = {
    "openmeter": openmeter.ANSWERS | openmeter_grants.ANSWERS | openmeter_pricing.ANSWERS,
    "lago": lago.ANSWERS | lago_money.ANSWERS | lago_books.ANSWERS | lago_levels.ANSWERS,
    "peers": peers.ANSWERS,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "area_cases" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--cases"))
    areas: dict[str, list[Case]] = defaultdict(list)
    for case in load_cases(folder) if folder.is_dir() else ():
        areas[f"{case.file} {case.area}"].append(case)
    parameters: list[Any] = [pytest.param(cases, id=area) for area, cases in sorted(areas.items())]
    if not parameters:
        skip = pytest.mark.skip(reason=f"no conformance cases in {folder}; name a folder with --cases")
        parameters = [pytest.param([], id="none", marks=skip)]
    metafunc.parametrize("area_cases", parameters)


def test_area(area_cases: list[Case], record_property: Any) -> None:
    tally = Tally()
    for case in area_cases:
        judge(case, READERS[case.file], RULES, tally)
    record_property("conformance", f"{area_cases[0].file} {area_cases[0].area}")
    record_property("verdicts", dict(tally.verdicts))
    record_property("reasons", dict(tally.reasons))
    record_property("questions", dict(tally.questions))
    if tally.failures:
        pytest.fail("\n".join(tally.failures), pytrace=False)


def test_the_lists_name_only_what_exists() -> None:
    """An area that a reader answers is not listed as unsupported; every questioned entry has its rule, and no other."""
    for file, answers in READERS.items():
        assert not set(answers) & set(unsupported()[file]["areas"])
    assert {entry["rule"] for entry in questioned()} == set(RULES)
    assert all(entry["ours"] and entry["why"] for entry in questioned())
