"""The endings of docs/losses.md, with the program that measures them: Tallybook loses nothing in any of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import loss
from benchmarks.loss import ENDINGS, US, Ending, Loss

SIMPLE = [ending for ending in ENDINGS if ending.fault is None and ending.child != "gunicorn"]
FAULTS = [ending for ending in ENDINGS if ending.fault is not None]


def ended(folder: Path, ending: Ending) -> Loss:
    """Run one ending as the benchmark does, and skip with its reason what this machine cannot do."""
    found = loss.run_us(folder, ending, {US: sys.executable, "segment": sys.executable}, quick=True)
    if isinstance(found, str):
        pytest.skip(f"{ending.name}: {found}")
    return found


@pytest.mark.parametrize("ending", SIMPLE, ids=lambda ending: ending.name)
def test_whatever_ends_the_process_every_event_arrives_once(tmp_path: Path, ending: Ending) -> None:
    assert ended(tmp_path, ending) == Loss(returned=ending.count, refused=0, lost=0, doubled=0, invented=0)


@pytest.mark.prove
@pytest.mark.parametrize("ending", FAULTS, ids=lambda ending: ending.name)
def test_whatever_fails_around_it_what_was_taken_arrives_once(tmp_path: Path, ending: Ending) -> None:
    found = ended(tmp_path, ending)
    assert found.returned > 0
    assert (found.lost, found.doubled, found.invented) == (0, 0, 0)
    # Only a full disk may say no, and then it must.
    assert (found.refused > 0) == (ending.fault == "full disk")


def test_a_preloaded_server_whose_worker_is_killed_loses_nothing(tmp_path: Path) -> None:
    if loss.version_of(sys.executable, "gunicorn") is None:
        pytest.skip("gunicorn is not installed; tests/crash/test_process_life.py forks without it")
    (ending,) = (ending for ending in ENDINGS if ending.child == "gunicorn")
    assert ended(tmp_path, ending) == Loss(returned=ending.count, refused=0, lost=0, doubled=0, invented=0)


@pytest.mark.timeout(100)
def test_a_server_that_cannot_be_asked_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if loss.version_of(sys.executable, "gunicorn") is None:
        pytest.skip("gunicorn is not installed")

    def nobody_answers(_url: str) -> int:
        raise TimeoutError

    monkeypatch.setattr(loss, "_ask", nobody_answers)
    (ending,) = (ending for ending in ENDINGS if ending.child == "gunicorn")
    with pytest.raises(TimeoutError):
        ended(tmp_path, ending)


def test_a_cell_says_what_was_lost_and_what_was_refused() -> None:
    kept = Loss(returned=500, refused=0, lost=0, doubled=0, invented=0)
    half = Loss(returned=500, refused=1000, lost=250, doubled=2, invented=0)
    one = Loss(returned=20_000, refused=0, lost=1, doubled=0, invented=3)
    assert loss.cell([kept, kept]) == "0"
    assert loss.cell([kept, half]) == "0 to 50.0 %; 1,000 refused to the caller; 2 twice"
    assert loss.cell([one]) == "< 0.1 %; 3 invented"
    assert loss.cell(loss.NOT_INSTALLED) == "not installed"


def test_the_page_keeps_its_words_around_a_new_table(tmp_path: Path) -> None:
    page = tmp_path / "losses.md"
    page.write_text(loss.PAGE_OF_LOSSES.read_text(encoding="utf-8"), encoding="utf-8")
    row: dict[str, list[Loss] | str] = {US: [Loss(1, 0, 0, 0, 0)], **dict.fromkeys(loss.PEERS, loss.NOT_INSTALLED)}
    loss.write_page({"an ending": row}, quick=True, peers=sys.executable, page=page)
    before, after = loss.PAGE_OF_LOSSES.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    assert "| an ending | 0 | not installed |" in after
    assert after.partition(loss.TABLE_BEGINS)[0] == before.partition(loss.TABLE_BEGINS)[0]
    assert after.partition(loss.TABLE_ENDS)[2] == before.partition(loss.TABLE_ENDS)[2]
    assert loss.as_figures({"an ending": row})[0]["value"] == 0
