"""The burn-down of all tenants at once, in DuckDB, against the one of a single tenant: the same states, from any state."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st

from entitlements.burn_down_all import BurnDown, burn_down_all, over_used
from entitlements.burndown import Grant, State, Used
from metering.engine import open_engine
from tests.entitlements.test_burndown import day, histories, instants, made, run_of
from tests.entitlements.test_burndown_mutants import history_of
from tests.properties.mutated import mutate
from tests.properties.proof import holds

crowds = st.lists(st.tuples(histories(), instants), min_size=1, max_size=12)


def burn_of(history: dict[str, Any], start: State, cuts: tuple[datetime, ...] = ()) -> BurnDown:
    return BurnDown(
        [made(row) for row in history["grants"]],
        [Used(at, quantity) for at, quantity in history["usage"]],
        start,
        history["until"],
        [at for at in history["resets"] if at > start.at],
        history["keep"],
        cuts,
    )


@holds(12, crowd=crowds)
def TestAllAtOnceIsEachByItself(crowd: list[tuple[dict[str, Any], datetime]]) -> None:
    """From the beginning, and from a state that was stored on the way."""
    whole = [run_of(history, State(day(0)), history["until"]).state for history, _ in crowd]
    middles = [run_of(history, State(day(0)), min(cut, history["until"])).state for history, cut in crowd]
    engine = open_engine(threads=1)
    try:
        assert burn_down_all(engine, [burn_of(history, State(day(0)), (cut,)) for history, cut in crowd]) == whole
        stored = [burn_of(history, middle) for (history, _), middle in zip(crowd, middles, strict=True)]
        assert burn_down_all(engine, stored) == whole
    finally:
        engine.close()


@holds(8, crowd=crowds)
def TestWhatIsOverUsedIsWhatSegmentsSay(crowd: list[tuple[dict[str, Any], datetime]]) -> None:
    """From any instant on."""
    engine = open_engine(threads=1)
    try:
        burn_down_all(engine, [burn_of(history, State(day(0)), (cut,)) for history, cut in crowd])
        found = over_used(engine, [cut for _, cut in crowd])
    finally:
        engine.close()
    for (history, cut), over in zip(crowd, found, strict=True):
        if cut >= history["until"]:
            continue
        before = run_of(history, State(day(0)), cut)
        segments = (*before.segments, *run_of(history, before.state, history["until"]).segments)
        # What recurs or is reset at the very end pays for what was over before, but belongs to what comes after.
        later = [one for one in segments if cut <= one.start < history["until"]]
        used = sum((one.usage for one in later), Decimal(0))
        burned = sum((part for one in later for part in one.burned.values()), Decimal(0))
        assert (over.used, over.over_used) == (used, max(Decimal(0), used - burned))


# 5 are over when it ends. At that instant A is full again and pays them, and B begins, which would have burned first.
ALIKE = {"min": Decimal(0), "max": Decimal(0), "created_at": None}
MEETING: dict[str, Any] = {
    "grants": [
        {**ALIKE, "id": "A", "amount": Decimal(10), "priority": 2, "from": day(0), "every_days": 2, "anchor": day(0)},
        {**ALIKE, "id": "B", "amount": Decimal(40), "priority": 1, "from": day(2)},
    ],
    "usage": [(day(1), Decimal(15))], "until": day(2), "resets": [], "keep": False, "cut": day(1),
}  # fmt: skip


def small() -> list[tuple[BurnDown, State]]:
    """Return histories in which instants meet and use is taken back, from where somebody looked; and what the core says."""
    found = []
    for one, cut in [(MEETING, day(1)), *((history_of(seed), day((seed % 12) / 4)) for seed in range(300))]:
        middle = run_of(one, State(day(0)), one["cut"]).state
        found += [
            (burn_of(one, State(day(0)), (cut,)), run_of(one, State(day(0)), one["until"]).state),
            (burn_of(one, middle, (cut,)), run_of(one, middle, one["until"]).state),
        ]
    return found


def is_core(burns: list[tuple[BurnDown, State]]) -> bool:
    engine = open_engine(threads=1)
    try:
        return burn_down_all(engine, [burn for burn, _ in burns]) == [state for _, state in burns]
    finally:
        engine.close()


MUTANTS = {
    "a cut ends a segment": ("burn_step", "due_at, true FROM burn_cut", "due_at, false FROM burn_cut"),
    "a start begins a segment": ("burn_step", "start_at AS due_at, true AS goes_on", "start_at AS due_at, false AS goes_on"),
    "no segment ends": ("burn_step", "bool_and(goes_on)", "true"),
    "nothing is over at the end": ("burn_step", "OR NOT EXISTS (SELECT 1", "OR true OR NOT EXISTS (SELECT 1"),
    "what is due at the end is over": ("burn_step", "last_segment.burn_id IS NOT NULL\n        OR NOT", "false OR NOT"),
    "what was burned is not asked for again": ("burn_balance", "need + sum(again) OVER (PARTITION BY burn_id)", "need"),
    "what was burned is not there again": ("burn_balance", "least(before + again, left_to_pay)", "least(before, left_to_pay)"),
    "the finish burns": ("burn_balance", "WHEN 'finish' THEN again", "WHEN 'nothing' THEN again"),
    "the start knows of nothing burned": ("burn_balance_start", "burned AS burned_here", "0::DECIMAL(38, 9) AS burned_here"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_of_a_statement_is_caught(mutant: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    burns = small()
    assert is_core(burns)
    mutate(monkeypatch, "entitlements", *mutant, ("entitlements.burn_down_all",))
    assert not is_core(burns)


def test_a_run_backward_is_refused() -> None:
    burn = BurnDown([Grant("a", Decimal(1), day(0))], [], State(day(2)), day(1))
    with pytest.raises(ValueError, match="runs forward"):
        burn_down_all(open_engine(), [burn])
