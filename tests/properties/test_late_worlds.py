"""The SQL engine against the oracle, over use that is told late, of whichever billing period; what is forgotten is caught."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest

import rating.late
import rating.rate
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.checks import check_pieces, check_same_lines, lines_differ
from tests.properties.late_worlds import late_world_of, late_worlds
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_rating import CUTS

WORLDS = 30
_BETWEEN, _OF_SPANS = rating.late.limits_between, rating.late.limits_of_spans


@holds(12, world=late_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(3, world=late_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


def _of_rated(terms: Any, spans: Any) -> Any:
    """Return the limits of the spans that are rated, and of no others."""
    for span in spans:
        days = terms.plans[span.plan_key].late_usage_days
        until = None if days is None else span.period.end + timedelta(days=days)
        yield rating.late.LateLimit(span.tenant_id, span.service.start, span.service.end, until)


def _of_phases(terms: Any, dates: Any, tenants: Any = None) -> Any:
    """Return limits that are those of the last plan only."""
    every = list(_BETWEEN(terms, dates, tenants))
    last = {one.tenant_id: one.recorded_before and one.recorded_before - one.service_end for one in every}
    for one in every:
        days = last[one.tenant_id]
        yield rating.late.LateLimit(
            one.tenant_id, one.service_start, one.service_end, None if days is None else one.service_end + days
        )


def _from_one_day_on(terms: Any, dates: Any, tenants: Any = None) -> Any:
    for one in _BETWEEN(terms, dates, tenants):
        until: datetime | None = one.recorded_before and one.recorded_before + timedelta(days=1)
        yield rating.late.LateLimit(one.tenant_id, one.service_start, one.service_end, until)


FORGOTTEN: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "history has no limits": (rating.late, "_reads_history", lambda *_: False),
    "tiers that go on take what was refused": (rating.late, "is_since_plan", lambda _: False),
    "only what is rated has limits": (rating.rate, "limits_of_spans", _of_rated),
    "the last plan limits all time": (rating.late, "limits_between", _of_phases),
    "a day is given": (rating.late, "limits_between", _from_one_day_on),
    "nobody else is looked at": (
        rating.late,
        "limits_between",
        lambda terms, dates, tenants: _BETWEEN(terms, dates, set()),
    ),
}


@cache
def worlds() -> list[tuple[World, dict[LineKey, Line]]]:
    made = [late_world_of(seed, 1 + seed % 3, 2, 30) for seed in range(WORLDS)]
    return [(world, oracle.lines(*world)) for world in made]


def is_caught() -> bool:
    return lines_differ(worlds())


def test_what_is_not_forgotten_is_not_caught() -> None:
    assert not is_caught()


@pytest.mark.parametrize("forgotten", FORGOTTEN.values(), ids=FORGOTTEN)
def test_what_is_forgotten_is_caught(
    forgotten: tuple[Any, str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*forgotten)
    assert is_caught()
