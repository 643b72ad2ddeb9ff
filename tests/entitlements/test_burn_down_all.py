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


def test_a_run_backward_is_refused() -> None:
    burn = BurnDown([Grant("a", Decimal(1), day(0))], [], State(day(2)), day(1))
    with pytest.raises(ValueError, match="runs forward"):
        burn_down_all(open_engine(), [burn])
