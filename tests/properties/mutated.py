"""Mutants of statements: one text of one .sql file replaced, and whether a property fails for it.

The engine reads its statements by `read_sql` of each module; a mutant is put in their place for one test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

import metering.engine

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

USAGE = ("metering.usage",)
RATING = ("rating.rate", "rating.adjust_steps")


def mutate(
    monkeypatch: pytest.MonkeyPatch, package: str, file: str, find: str, replace: str, modules: tuple[str, ...]
) -> None:
    """Replace a text that stands exactly once in a statement, for the modules that read it."""
    read = metering.engine.read_sql

    def read_mutated(asked: str, name: str) -> str:
        statement = read(asked, name)
        return statement.replace(find, replace) if (asked, name) == (package, file) else statement

    assert read(package, file).count(find) == 1, f"the mutant of {file}.sql has to be rewritten with it"
    for module in modules:
        monkeypatch.setattr(f"{module}.read_sql", read_mutated)


def fails(check: Callable[[], object], *errors: type[Exception]) -> bool:
    """Return whether a property fails: by an assertion, an error of the engine, or one of those that are named."""
    try:
        check()
    except duckdb.ResourceInUseException:
        # An answer that an earlier question left half read says nothing of this one.
        raise
    except (AssertionError, duckdb.Error, *errors):
        return True
    return False
