"""docs/adapters.md is true: the adapter on the page is at most 60 lines long, and passes the contract of all adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from billing_adapters.adapter import Document
from billing_adapters.outcomes import Outcome
from billing_adapters.testing.contract import BEGINNING, AdapterContract
from metering.clock import FixedClock
from tests.billing_adapters import stripe_world  # noqa: F401 (it turns the SDK's telemetry off)
from tests.billing_adapters.invoices import invoice

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(encoding="utf-8")
ADAPTER, SUITE, FAKES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Archive:
    """The provider of the page: keeps the first text of a key for ever."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.failures: list[str] = []

    def put(self, key: str, text: str) -> str:
        how = self.failures.pop(0) if self.failures else ""
        if how == "throttled":
            raise BlockingIOError("slow down")
        if how == "away":
            raise ConnectionError("no route")
        if self.kept.setdefault(key, text) != text:
            raise FileExistsError(f"{key} holds another text")
        if how == "lost":
            raise TimeoutError("no answer")
        return f"receipt-{key}"

    def get(self, key: str) -> str | None:
        return self.kept.get(key)


class ArchiveWorld:
    def __init__(self) -> None:
        self.clock = FixedClock(BEGINNING)
        self.archive = Archive()

    def adapter(self) -> Any:
        return NAMES["ArchiveAdapter"](self.archive)

    def sources(self) -> list[object]:
        made = [invoice(1, "49.00", "0.01"), invoice(2, "0.00"), invoice(3, "12345678.90", account="globex")]
        return [Document(one) for one in made]

    def fail(self, how: str, times: int = 1) -> None:
        self.archive.failures += [how] * times

    def holdings(self) -> dict[str, list[str]]:
        return {key: [text] for key, text in self.archive.kept.items()}

    def expected(self, intent: Any) -> str:
        return str(intent.payload)


NAMES: dict[str, Any] = {"ArchiveWorld": ArchiveWorld, "__name__": __name__}
exec(ADAPTER, NAMES)
exec(SUITE, NAMES)
TestArchive: type[AdapterContract] = NAMES["TestArchive"]


def test_the_adapter_of_the_page_is_small() -> None:
    assert len([one for one in ADAPTER.splitlines() if one.strip()]) <= 60


def test_the_fakes_of_the_page_answer() -> None:
    names: dict[str, Any] = {}
    exec(FAKES, names)
    assert names["customer"].name == "Acme"


def test_the_page_names_every_outcome() -> None:
    assert set(re.findall(r"^\|[^|]*\| `([A-Z_]+)`", PAGE, re.MULTILINE)) == set(Outcome)
