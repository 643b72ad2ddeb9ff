"""A quarter of unattended running: every period closed once, invoiced once, delivered once, to the cent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.simulation.unattended import Quarter, dense, sparse

HAPPENED = (
    "usage comes late",
    "the provider is away",
    "a scheduler died",
    "the other looks in the middle",
    "overtaken in the middle",
    "the other was faster",
    "a run ended overtaken",
    "a run ended interrupted",
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", "sk_test_fake_key")


@pytest.mark.timeout(600)
def test_a_quarter_runs_by_itself(tmp_path: Path) -> None:
    quarter = Quarter(tmp_path, seed=1, wakes=sparse()).play()
    assert quarter.breaks() == []
    assert [what for what in HAPPENED if not quarter.told[what]] == [], quarter.told


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(2, 8))
def test_more_quarters(seed: int, tmp_path: Path) -> None:
    assert Quarter(tmp_path, seed=seed, wakes=sparse()).play().breaks() == [], f"seed {seed}"


@pytest.mark.prove
@pytest.mark.parametrize("wakes", [sparse], ids=["sparse"])
def test_a_quarter_over_postgresql(tmp_path: Path, postgres_url: str, wakes: Callable[[], list[datetime]]) -> None:  # noqa: F811
    assert Quarter(tmp_path, seed=11, wakes=wakes(), books=postgres_url).play().breaks() == []


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_a_quarter_of_every_sixth_hour_with_all_steps(tmp_path: Path) -> None:
    quarter = Quarter(tmp_path, seed=12, wakes=dense(), is_whole=True).play()
    assert quarter.breaks() == []
    # Every pass that was due at a wake was done at it; there are some 380 wakes, and the nights of 94 days.
    passes = {
        step: quarter.told[f"{step} was done"] for step in ("ship", "maintain", "deliver", "rate", "reconcile_open")
    }
    assert all(passes[step] > 300 for step in ("ship", "maintain", "deliver")), passes
    assert passes["rate"] > 80, passes
    assert passes["reconcile_open"] + quarter.told["reconcile_open was finding"] > 80, passes
