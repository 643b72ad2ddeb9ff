"""How long a property looks for a counterexample.

By default few examples, always the same ones: a change that breaks a rule breaks them, and a green run stays green.
`pytest -m prove` looks at many times as many, new ones each time; a failure prints how to replay it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TIMES = 25
_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}


def holds(examples: int, **arguments: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Return a decorator that makes a class of two tests of a property: a short one, and one marked `prove`."""

    def both(check: Callable[..., None]) -> Any:
        short = settings(max_examples=examples, derandomize=True, **_COMMON)(given(**arguments)(check))
        long = settings(max_examples=examples * TIMES, **_COMMON)(given(**arguments)(check))
        members = {
            "__doc__": check.__doc__,
            "test": staticmethod(short),
            "test_prove": staticmethod(pytest.mark.prove(pytest.mark.timeout(3600)(long))),
        }
        return type(check.__name__, (), members)

    return both
