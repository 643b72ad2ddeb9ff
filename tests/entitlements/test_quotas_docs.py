"""The Python of docs/quotas.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "quotas.md"


def test_the_page_runs_from_quota_to_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    for block in blocks:
        # The shipper is a process of its own, which a test does not need.
        exec(block.replace('Recorder("tallybook-data")', 'Recorder("tallybook-data", ship="none")'), names)
    names["usage"].close()  # type: ignore[attr-defined]
    names["books"].dispose()  # type: ignore[attr-defined]
    assert capsys.readouterr().out == "True lease_granted 999488\npercent:80 850000\n"
