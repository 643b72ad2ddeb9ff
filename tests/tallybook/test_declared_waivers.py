"""Waivers that stand in the settings: applied by the next reconciliation, ended when they are taken out, over on their day."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metering.clock import FixedClock
from tallybook import Workspace
from tallybook.errors import BadSettings
from tests.tallybook.shop import NOVEMBER, USAGE, import_text, open_shop
from tests.tallybook.test_cli import run
from tests.tallybook.test_cli_reconciling import ask

GHOST = """
[[waivers]]
control = "UNKNOWN_TENANT"
tenant = "ghost"
why = "a test tenant"
amount_max = "10"
currency = "USD"
until = 2026-12-24
who = "ben"
approved_by = "ana"
"""
GLOBEX = GHOST.replace("UNKNOWN_TENANT", "NO_SUBSCRIPTION").replace("ghost", "globex")
CHRISTMAS = datetime(2026, 12, 24, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with open_shop(tmp_path / "data") as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
    return tmp_path / "data"


def look(root: Path, text: str, now: datetime = NOVEMBER) -> tuple[dict[str | None, str], list[str]]:
    """Return, with settings, the status of what is found by tenant, and of each waiver whether it holds and why not."""
    (root / "tallybook.toml").write_text(text, encoding="utf-8")
    with Workspace(root, clock=FixedClock(now)) as workspace:
        report = workspace.report("2026-10")
    found = {
        one.tenant_id: one.status for one in report.findings if one.control_id in {"UNKNOWN_TENANT", "NO_SUBSCRIPTION"}
    }
    return found, [one.ended_why or ("over" if one.expires_at <= now else "holds") for one in report.waivers]


def test_what_the_settings_declare_is_waived_until_it_is_taken_out(shop: Path) -> None:
    assert look(shop, "", NOVEMBER.replace(hour=2)) == ({"ghost": "open", "globex": "open"}, [])
    assert look(shop, GHOST) == ({"ghost": "waived", "globex": "open"}, ["holds"])
    # Again, and in another order beside another one: each stands once in the books.
    assert look(shop, GHOST) == ({"ghost": "waived", "globex": "open"}, ["holds"])
    later = NOVEMBER.replace(day=2)
    assert look(shop, GLOBEX + GHOST, later) == ({"ghost": "waived", "globex": "waived"}, ["holds", "holds"])
    gone = "it is no longer in the settings"
    assert look(shop, GLOBEX, NOVEMBER.replace(day=3)) == ({"ghost": "open", "globex": "waived"}, [gone, "holds"])
    # Put in again it holds again, as a waiver of its own.
    found, waivers = look(shop, GLOBEX + GHOST, NOVEMBER.replace(day=4))
    assert (found, waivers) == ({"ghost": "waived", "globex": "waived"}, [gone, "holds", "holds"])


def test_it_is_over_on_its_day_and_its_findings_are_open_again(shop: Path) -> None:
    assert look(shop, GHOST)[0]["ghost"] == "waived"
    assert look(shop, GHOST, CHRISTMAS) == ({"ghost": "open", "globex": "open"}, ["over"])
    # Taken out afterwards, nothing is ended that was over.
    assert look(shop, "", CHRISTMAS.replace(hour=1))[1] == ["over"]
    # One that was over before it was ever read waives nothing.
    assert look(shop, GLOBEX, CHRISTMAS.replace(hour=2)) == ({"ghost": "open", "globex": "open"}, ["over"])


def test_one_with_other_words_takes_its_place(shop: Path) -> None:
    look(shop, GHOST)
    found, waivers = look(shop, GHOST.replace('"10"', '"0.04"'), NOVEMBER.replace(day=2))
    # The stranger's call is worth 0.05.
    assert (found["ghost"], waivers) == ("open", ["it is no longer in the settings", "holds"])


def test_it_is_listed_shown_and_ended_by_hand(shop: Path, tmp_path: Path) -> None:
    (shop / "tallybook.toml").write_text(GHOST.replace("2026-12-24", "2099-12-24"), encoding="utf-8")
    said = run(shop, "findings", "waivers")
    assert "1 of the settings hold from the next `tallybook reconcile` on: UNKNOWN_TENANT" in " ".join(
        said.stderr.split()
    )
    page = tmp_path / "page.html"
    run(shop, "reconcile", "--period", "2026-10", "--html", str(page))
    assert "a test tenant; by ben, approved by ana" in page.read_text(encoding="utf-8")
    [held] = ask(shop, "findings", "waivers")["waivers"]
    assert (held["holds"], held["created_by"], held["expires_at"]) == (True, "ben", "2099-12-24T00:00:00Z")
    ask(shop, "findings", "waivers", "end", held["waiver_id"], "--why", "they pay", "--who", "eva")
    run(shop, "reconcile", "--period", "2026-10")
    [ended] = ask(shop, "findings", "waivers")["waivers"]
    assert (ended["holds"], ended["ended_by"]) == (False, "eva"), "what somebody ended stays ended"
    shown = {one["name"]: (one["value"], one["source"]) for one in ask(shop, "settings")["settings"]}
    assert shown["waivers.0.control"] == ("UNKNOWN_TENANT", "tallybook.toml")
    assert shown["waivers.0.meter"] == ("", "default")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('why = "a test tenant"\n', "", r"waivers\.0\.why"),
        ('why = "a test tenant"\n', 'why = " "\n', r"waivers\.0\.why"),
        ("until = 2026-12-24\n", "", r"waivers\.0\.until"),
        ("until = 2026-12-24\n", 'until = "soon"\n', r"waivers\.0\.until"),
        ('approved_by = "ana"\n', "", r"waivers\.0\.approved_by"),
        ('approved_by = "ana"\n', 'approved_by = "Ben "\n', "cannot approve a waiver of their own"),
        ('amount_max = "10"\ncurrency = "USD"\n', "", "a waiver has a ceiling"),
        ('currency = "USD"\n', "", "belong together"),
        ('amount_max = "10"\n', "amount_max = 10.5\n", "not exact in TOML"),
        ('tenant = "ghost"\n', 'tennant = "ghost"\n', r"waivers\.0\.tennant"),
    ],
)
def test_one_that_is_none_is_refused_and_says_what_to_write(shop: Path, old: str, new: str, said: str) -> None:
    assert old in GHOST
    (shop / "tallybook.toml").write_text(GHOST.replace(old, new), encoding="utf-8")
    with pytest.raises(BadSettings, match=said) as refused:
        Workspace(shop)
    assert "tallybook.toml" in "".join(traceback.format_exception_only(refused.value))


def test_one_of_a_control_that_is_not_there_is_refused_and_nothing_is_kept(shop: Path) -> None:
    (shop / "tallybook.toml").write_text(GLOBEX + GHOST.replace("UNKNOWN_TENANT", "UNKNOWN"), encoding="utf-8")
    answer = run(shop, "reconcile", "--period", "2026-10")
    assert answer.returncode == 2
    assert "waive findings of UNKNOWN, and there is no such control; `tallybook controls`" in " ".join(
        answer.stderr.split()
    )
    assert ask(shop, "findings", "waivers")["waivers"] == []
    assert ask(shop, "controls", "runs")["runs"] == []
