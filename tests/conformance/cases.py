"""What the three readers share: loading cases, judging answers, and the two lists of what is not answered as asked.

A case is one JSON line: `area`, `name`, `input`, `expected`. A reader has one function per area (or, where a file says
`op`, per op) that puts the input to the public engine and returns an answer in the words of `expected`; it never sees
the name. The verdict of a case is one of

    passed        every value of `expected` is in the answer, numbers compared exactly
    unsupported   the area, or an option that the input asks for, is in `unsupported.yaml`
    questioned    the answer is not as expected, but is what a rule of `questioned.yaml` says ours is
    failed        anything else

An option that an input sets and no reader looks at makes a case unsupported too: a reader that overlooks a discount
would pass by luck.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
FILES = ("openmeter", "lago", "peers")
# Stands in an answer for a figure of display that the engine does not have, and that is not compared.
NOT_OURS = object()
SAYS_NOTHING = (None, False, "", "0", 0, [], {})


class Unsupported(Exception):
    """The engine has no such option; `option` is a key of `unsupported.yaml`."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option


@dataclass(frozen=True)
class Case:
    file: str
    area: str
    name: str
    input: dict[str, Any]
    expected: dict[str, Any]


@dataclass
class Tally:
    """The verdicts of one area."""

    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class Asked:
    """The input of a case, which remembers what was looked at."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self._values = dict(values)
        self._left = {name for name, value in values.items() if value not in SAYS_NOTHING and name != "note"}
        self._children: list[Asked] = []
        self._prefix = prefix

    def __call__(self, name: str, default: Any = None) -> Any:
        self._left.discard(name)
        value = self._values.get(name)
        return default if value is None else value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def inner(self, name: str) -> Asked:
        """Return a nested mapping, watched as well."""
        child = Asked(self(name, {}), f"{name}.")
        self._children.append(child)
        return child

    def rows(self, name: str) -> list[Asked]:
        """Return a list of nested mappings, watched as well."""
        children = [Asked(row, f"{name}.") for row in self(name, [])]
        self._children.extend(children)
        return children

    def check_all_seen(self) -> None:
        """Raise Unsupported if the input sets an option that nobody looked at."""
        for name in sorted(self._left):
            raise Unsupported(self._prefix + name)
        for child in self._children:
            child.check_all_seen()


@dataclass(frozen=True)
class Agrees:
    """An answer that is compared by what the expectation means, where the same thing can be written in many ways."""

    agrees: Callable[[dict[str, Any]], bool]
    shown: str


Answer = Callable[[Asked], Any]
Rule = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any] | None]


def load_cases(folder: Path) -> Iterator[Case]:
    """Yield the cases of a folder. Numbers of the JSON become Decimals: nothing passes through float."""
    for file in FILES:
        path = folder / f"{file}.jsonl"
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                row = json.loads(line, parse_float=Decimal)
                yield Case(file, row["area"], row["name"], row["input"], row["expected"])


@cache
def unsupported() -> dict[str, dict[str, dict[str, str]]]:
    return yaml.safe_load((HERE / "unsupported.yaml").read_text(encoding="utf-8"))


@cache
def questioned() -> list[dict[str, str]]:
    return yaml.safe_load((HERE / "questioned.yaml").read_text(encoding="utf-8"))


def judge(case: Case, answers: Mapping[str, Answer], rules: Mapping[str, Rule], tally: Tally) -> None:
    """Put one case to its reader and add the verdict to the tally of its area."""
    listed = unsupported()[case.file]
    if case.area in listed["areas"]:
        tally.verdicts["unsupported"] += 1
        tally.reasons[listed["areas"][case.area]] += 1
        return
    try:
        answer = _answer(case, answers)
    except Unsupported as option:
        tally.verdicts["unsupported"] += 1
        tally.reasons[listed["options"].get(option.option, f"{option.option}: not known to the reader")] += 1
        return
    if says(answer, case.expected):
        tally.verdicts["passed"] += 1
        return
    for entry in questioned():
        if (entry["file"], entry["area"]) == (case.file, case.area):
            ours = rules[entry["rule"]](case.input, case.expected)
            if ours is not None and says(answer, ours):
                tally.verdicts["questioned"] += 1
                tally.questions[f"{entry['rule']}: {entry['ours']}"] += 1
                return
    tally.verdicts["failed"] += 1
    tally.failures.append(
        f"{case.name}\n    input    {case.input}\n    expected {case.expected}\n    answer   {answer}"
    )


def _answer(case: Case, answers: Mapping[str, Answer]) -> dict[str, Any]:
    name = case.input.get("op", case.area) if case.file == "peers" else case.area
    if name not in answers:
        raise Unsupported(str(name))
    asked = Asked(case.input)
    asked("op")
    try:
        answer = answers[name](asked)
    except Unsupported:
        raise
    except Exception as error:  # noqa: BLE001  whatever a reader stumbles over is an answer to show
        # An input without what the reader needs is told in another way, by an option that it does not know.
        asked.check_all_seen()
        return {"error": repr(error)}
    asked.check_all_seen()
    return answer


def says(answer: Any, expected: Any) -> bool:
    """Return whether the answer holds all that is expected; numbers are equal if they are the same number."""
    if answer is NOT_OURS:
        return True
    if isinstance(answer, Agrees):
        return answer.agrees(expected)
    if isinstance(expected, dict):
        if not isinstance(answer, dict):
            return False
        return all(name in answer and says(answer[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        if not isinstance(answer, list) or len(answer) != len(expected):
            return False
        return all(says(left, right) for left, right in zip(answer, expected, strict=True))
    if isinstance(answer, Decimal | int) and not isinstance(answer, bool):
        return _number(expected) == answer
    return type(answer) is type(expected) and answer == expected


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        return None
