"""The two tables of the controls: their words, and ids that stay the same."""

from __future__ import annotations

import pytest

from billing_adapters.reconciliation.tables import break_schema, control_run_schema, dedupe_key_of, finding_id_of


def test_a_finding_keeps_its_id_on_every_machine() -> None:
    key = dedupe_key_of("SEQUENCE_GAP", "acme", None, "2026-10", "rows_missing")
    assert key == "SEQUENCE_GAP\x1facme\x1f\x1f2026-10\x1frows_missing"
    # Written down once: a finding that was waived must be found by the same id for ever.
    assert finding_id_of(key) == "find-bd0e33aeeb1a7671580b1d22"


@pytest.mark.parametrize("part", range(6))
def test_every_part_of_the_key_tells_findings_apart(part: int) -> None:
    parts = ["A", "acme", "calls", "2026-10", "why", "INV-1"]
    changed = [text + "x" if at == part else text for at, text in enumerate(parts)]
    assert dedupe_key_of(*parts) != dedupe_key_of(*changed)  # type: ignore[arg-type]


def test_both_tables_name_the_run_and_the_control() -> None:
    shared = {"control_id", "control_version", "run_id", "period_start", "period_end", "owner"}
    assert shared <= set(break_schema().names)
    assert shared <= set(control_run_schema().names)
