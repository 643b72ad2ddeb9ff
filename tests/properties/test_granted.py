"""Prices whose included units come from grants, against the oracle: whole, in pieces, and with every rule broken on purpose."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import strategies as st

import rating.granted
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.checks import check_pieces, check_same_lines, lines_differ
from tests.properties.granted_worlds import granted_world_of, granted_worlds
from tests.properties.mutated import mutate
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_kept import History, keeping_all
from tests.properties.test_rating import CUTS

# The worlds that each mutant is asked, of many tenants; in the first all that is rare happens.
SEEDS = (21, 5, 4)


@holds(6, world=granted_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(1, world=granted_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


@holds(1, world=granted_worlds(), seed=st.integers(0, 1000))
def TestKeptIsFromNothing(world: World, seed: int) -> None:
    """Whatever entitles a tenant changes what is kept of it: a grant, a quota of another subscription."""
    with keeping_all(), tempfile.TemporaryDirectory() as root:
        history, tenants = History(root, world, seed), world.catalog["accounts"][0]["tenants"]
        for number in range(3):
            history.append()
            kept, from_nothing = history.both()
            assert kept == from_nothing
            grant = {"id": f"more{number}", "tenant": history.chance.choice(tenants), "feature": "tokens", "amount": "3",
                     "effective": "2026-02-01"}  # fmt: skip
            history.catalog["grants"].append(grant)
            if number:
                addon = {"id": f"b{number}", "tenant": history.chance.choice(tenants), "plan": "addon", "version": 1}
                history.catalog["subscriptions"].append({**addon, "from": "2026-03-08"})
            kept, from_nothing = history.both()
            assert kept == from_nothing


@cache
def worlds() -> list[tuple[World, dict[LineKey, Line]]]:
    made = [granted_world_of(seed, 20, 30, 300) for seed in SEEDS]
    return [(world, oracle.lines(*world)) for world in made]


def is_caught() -> bool:
    return lines_differ(worlds(), KeyError)


STATEMENTS = {
    "what is left rolls over whole": (
        "burn_balance", "least(ordered.rollover_max, greatest(ordered.rollover_min, held.after))", "held.after"
    ),
    "a grant lives for ever": ("burn_balance", "ordered.ends_at <= step.start_at", "false"),
    "nothing recurs": ("burn_balance", "WHEN recurrence.due_at IS NOT NULL AND step.kind = 'segment' THEN", "WHEN false THEN"),
    "overage outlives a reset": ("burn_state", "ELSE 0\n    END::DECIMAL(38, 9) AS overage", "ELSE state.overage END AS overage"),
    "grants burn in the order of their names": (
        "burn_grant_ordered", "priority, expires_at NULLS LAST, created_at NULLS LAST, ", ""
    ),
    "what was burned before the span counts": ("burn_over", "step.start_at >= burn_since.due_at", "true"),
    "nothing is covered": ("granted_share", "span_id, price_id, included", "span_id, price_id, 0 AS included"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", STATEMENTS.values(), ids=STATEMENTS)
def test_mutants_of_statements_are_caught(mutant: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    file, find, put = mutant
    package = "rating" if file == "granted_share" else "entitlements"
    mutate(monkeypatch, package, file, find, put, ("entitlements.burn_down_all", "rating.granted"))
    assert is_caught()


def resolved(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return `resolve` with every entitlement changed."""
    resolve = rating.granted.resolve

    def changed(*asked: Any) -> Any:
        found, elsewhen = resolve(*asked)
        return {name: [change(one) for one in held] for name, held in found.items()}, elsewhen

    return changed


FUNCTIONS: dict[str, tuple[str, Callable[[], Any]]] = {
    "every month begins with full grants": ("begin_of", lambda: lambda _, at: at),
    "a quota is all there is": ("is_plain", lambda: lambda *_: True),
    "what is unlimited includes nothing": ("EVERYTHING", lambda: rating.granted.ZERO),
    "only the last plan was ever held": ("resolve", lambda: resolved(lambda one: _with(one, leads=one.leads[-1:]))),
    "use while nothing entitled burns grants": ("resolve", lambda: resolved(lambda one: _with(one, uncounted=()))),
    "what was voided is still there": (
        "resolve",
        lambda: resolved(lambda one: _with(one, grants=_unvoided(one.grants))),
    ),
    "the quota of an add-on is not there": ("resolve", lambda: resolved(lambda one: _with(one, grants=one.grants[:1]))),
}


def _unvoided(grants: Any) -> Any:
    """Return grants of which those of the tenant (g0, g1 ...) were not voided."""
    from dataclasses import replace

    return tuple(replace(one, voided_at=None) if one.id.startswith("g") else one for one in grants)


def _with(one: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(one, **changes) if one.leads else one


@pytest.mark.parametrize("mutant", FUNCTIONS.values(), ids=FUNCTIONS)
def test_mutants_of_functions_are_caught(
    mutant: tuple[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, made = mutant
    monkeypatch.setattr(rating.granted, name, made())
    assert is_caught()
