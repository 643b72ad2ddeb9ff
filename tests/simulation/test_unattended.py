"""A quarter of unattended running: every period closed once, invoiced once, delivered once, to the cent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.simulation.unattended import Quarter, sparse


def test_a_quarter_runs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", "sk_test_fake_key")
    quarter = Quarter(tmp_path, seed=1, wakes=sparse()).play()
    assert quarter.breaks() == []
    assert quarter.told["a run ended overtaken"]
