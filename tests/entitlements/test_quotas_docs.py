"""The Python of docs/quotas.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tallybook import Workspace

CATALOG = """
meters: [{name: exports}, {name: tokens}]
accounts: [{id: a, name: A, tenants: [acme]}]
plans:
  - name: pro
    version: 1
    currency: USD
    entitlements: [{feature: exports, type: metered, meter: exports, quota: 100, limit: hard, reset: never}]
subscriptions: [{id: s, tenant: acme, plan: pro, version: 1, from: 2020-01-01}]
"""
PAGE = Path(__file__).parents[2] / "docs" / "quotas.md"


def test_the_page_runs_from_quota_to_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    with Workspace.init("tallybook-data") as workspace:
        (workspace.layout.catalog / "all.yaml").write_text(CATALOG, encoding="utf-8")
        workspace.apply()
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        # The shipper is a process of its own, which a test does not need.
        exec(block.replace('Recorder("tallybook-data")', 'Recorder("tallybook-data", ship="none")'), names)
        if number == 0:
            assert names["decision"].reason == "lease_granted"  # type: ignore[attr-defined]
            names["usage"].close()  # type: ignore[attr-defined]
    names["usage"].close()  # type: ignore[attr-defined]
    names["books"].dispose()  # type: ignore[attr-defined]
    assert capsys.readouterr().out == "True lease_granted 999488\npercent:80 850000\n"
