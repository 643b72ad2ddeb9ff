"""The rules that recorders read: published whole, and refused by a sentence when somebody broke them."""

from __future__ import annotations

from pathlib import Path

import pytest

from metering import Recorder, UnknownMeter
from metering.meters import MeterRule, load_rules, publish_rules


def test_rules_come_back_as_they_were_published(tmp_path: Path) -> None:
    rules = [MeterRule("tokens", unit="token"), MeterRule("users", aggregation="unique_count", unique_attribute="user")]
    publish_rules(tmp_path / "meters.json", rules)
    assert load_rules(tmp_path / "meters.json") == {rule.name: rule for rule in rules}
    assert load_rules(tmp_path / "nowhere.json") is None


@pytest.mark.parametrize("text", ['{"meters": [', "[]", '{"meters": [{"nome": "tokens"}]}'])
def test_rules_that_cannot_be_read_say_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "meters.json").write_text(text, encoding="utf-8")
    with Recorder(tmp_path, ship="none") as usage, pytest.raises(UnknownMeter, match="tallybook apply"):
        usage.record("tokens", tenant="acme")
