"""docs/context.md is true: its blocks run in order, and record exactly what they say."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.metering.requests_served import recorder, rows

PAGE = (Path(__file__).parents[2] / "docs" / "context.md").read_text(encoding="utf-8")


def test_the_blocks_of_the_page_record_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    # No shipper: what was recorded is read from the journal.
    monkeypatch.setattr("metering.Recorder", recorder, raising=False)
    for block in blocks:
        exec(block, names)

    async def ask(scope: dict[str, Any]) -> None:
        async def send(message: Any) -> None:
            del message

        await names["app"](scope, None, send)

    asyncio.run(ask({"type": "http", "session": {"tenant": "acme"}}))
    names["provider"].shutdown()
    names["usage"].close()
    found = Counter((row["meter"], row["tenant_id"], int(row["quantity"])) for row in rows(tmp_path / "tallybook-data"))
    assert found == {
        ("tokens", "acme", 512): 1,
        ("tokens", "globex", 7): 1,
        ("tokens", "initech", 1): 1,
        ("pages", "acme", 3): 1,
        ("pages", "acme", 4): 1,
        ("reports", "acme", 1): 1,
        ("report_seconds", "acme", 0): 1,
        ("lines", "acme", 5): 1,
        ("build_seconds", "acme", 0): 1,
        ("searches", "acme", 1): 1,
        ("api_requests", "acme", 1): 1,
    }
