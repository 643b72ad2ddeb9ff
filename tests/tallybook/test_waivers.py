"""Waivers by pattern and the floor of money: made at the command line or in the settings, applied by the next reconciliation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallybook import Workspace
from tests.tallybook.shop import USAGE, import_text, open_shop
from tests.tallybook.test_cli import run
from tests.tallybook.test_cli_reconciling import ask

COVERS = ["findings", "waivers", "add", "UNKNOWN_TENANT", "--why", "test tenants", "--who", "ben"]
CEILING = ["--amount-max", "10", "--currency", "USD"]
LASTS = ["--until", "2099-01-01", "--approved-by", "ana"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with open_shop(tmp_path / "data") as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
    return tmp_path / "data"


def status(root: Path) -> dict[tuple[str, str | None], str]:
    """Return what a reconciliation of October says of its findings."""
    with Workspace(root) as workspace:
        found = workspace.report("2026-10").findings
    return {(one.control_id, one.tenant_id): one.status for one in found}


def test_a_pattern_waives_what_it_names_until_it_is_ended(shop: Path) -> None:
    [made] = ask(shop, *COVERS, "--tenant", "ghost", *CEILING, *LASTS)["waivers"]
    assert (made["control_id"], made["tenant_id"], made["amount_max"], made["holds"]) == (
        "UNKNOWN_TENANT",
        "ghost",
        "10",
        True,
    )
    found = status(shop)
    assert found["UNKNOWN_TENANT", "ghost"] == "waived"
    assert found["NO_SUBSCRIPTION", "globex"] == "open"
    assert ask(shop, "findings", "waivers")["waivers"] == [made]
    assert "UNKNOWN_TENANT" in run(shop, "findings", "waivers").stdout
    [ended] = ask(shop, "findings", "waivers", "end", made["waiver_id"][:20], "--why", "they pay now", "--who", "ben")[
        "waivers"
    ]
    assert (ended["holds"], ended["ended_by"], ended["ended_why"]) == (False, "ben", "they pay now")
    assert status(shop)["UNKNOWN_TENANT", "ghost"] == "open"
    # What has ended cannot end again.
    assert run(shop, "findings", "waivers", "end", made["waiver_id"], "--why", "again").returncode == 2


def test_a_pattern_for_another_tenant_waives_nothing(shop: Path) -> None:
    ask(shop, *COVERS, "--tenant", "somebody", *CEILING, *LASTS)
    assert status(shop)["UNKNOWN_TENANT", "ghost"] == "open"


def test_a_ceiling_holds_for_all_that_a_pattern_covers_together(shop: Path) -> None:
    ask(shop, *COVERS, "--amount-max", "0.04", "--currency", "USD", *LASTS)
    # One call of the stranger is worth more than 0.04 by the list.
    assert status(shop)["UNKNOWN_TENANT", "ghost"] == "open"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*COVERS, *LASTS], "a waiver has a ceiling"),
        ([*COVERS, "--amount-max", "10", *LASTS], "--amount-max and --currency belong together"),
        ([*COVERS, *CEILING, "--until", "soon", "--approved-by", "ana"], "--until is a day"),
        ([*COVERS, *CEILING, "--until", "2020-01-01", "--approved-by", "ana"], "ends in the future"),
        ([*COVERS, *CEILING, "--until", "2099-01-01", "--approved-by", "Ben"], "cannot approve a waiver of their own"),
        ([*COVERS[:3], "UNKNOWN", *COVERS[4:], *CEILING, *LASTS], "there is no control UNKNOWN"),
        (["findings", "waivers", "end", "waiver-", "--why", "x"], "0 waivers"),
    ],
)
def test_a_waiver_that_is_none_is_refused_in_a_sentence(shop: Path, words: list[str], said: str) -> None:
    answer = run(shop, *words)
    assert answer.returncode == 2
    assert said in " ".join(answer.stderr.replace("│", " ").split())
    assert ask(shop, "findings", "waivers")["waivers"] == []


def told(root: Path, **words: Any) -> str:
    with Workspace(root) as workspace:
        return str(workspace.report("2026-10", **words).floor)


def test_the_floor_stands_in_the_settings_and_the_command_line_wins(shop: Path, tmp_path: Path) -> None:
    assert told(shop) == "0"
    (shop / "tallybook.toml").write_text('[reconciliation]\nfloor = "2.50"\n', encoding="utf-8")
    assert told(shop) == "2.50"
    page = tmp_path / "page.html"
    run(shop, "reconcile", "--period", "2026-10", "--html", str(page))
    listed = ask(shop, "findings", code=1)["findings"]
    [stranger] = [one["finding_id"] for one in listed if one["tenant_id"] == "ghost"]
    # The stranger's call is worth 0.05: it is in the line of its control, and not told one by one.
    assert f'id="{stranger}"' not in page.read_text(encoding="utf-8")
    assert "Unknown tenant" in page.read_text(encoding="utf-8")
    assert "worth less than <data" in page.read_text(encoding="utf-8")
    run(shop, "reconcile", "--period", "2026-10", "--html", str(page), "--floor", "0")
    assert f'id="{stranger}"' in page.read_text(encoding="utf-8")
    (shop / "tallybook.toml").write_text("[reconciliation]\nfloor = 2.5\n", encoding="utf-8")
    answer = run(shop, "reconcile", "--period", "2026-10")
    assert answer.returncode == 2
    assert "not exact in TOML" in answer.stderr
