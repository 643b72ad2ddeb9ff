"""What the hot path must know of a meter, without pydantic and without a database.

Enters: `journal/meters.json`, published by `tallybook apply`. Leaves: a MeterRule per meter name.
Refuses: to know prices. While no catalog was ever applied there are no rules, and every well-formed name is accepted.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metering.errors import UnknownMeter

if TYPE_CHECKING:
    from collections.abc import Iterable

AGGREGATIONS = ("count", "sum", "max", "min", "last", "unique_count")


@dataclass(frozen=True, slots=True)
class MeterRule:
    """What is counted and how, as far as capture and usage need it."""

    name: str
    unit: str = "unit"
    aggregation: str = "sum"
    unique_attribute: str | None = None
    negative_allowed: bool = False
    expression: str | None = None


def publish_rules(path: Path, rules: Iterable[MeterRule]) -> None:
    """Write the rules so that a reader sees the old file or the new one, never half of one. Idempotent."""
    document = {"meters": [asdict(rule) for rule in sorted(rules, key=lambda rule: rule.name)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def load_rules(path: Path) -> dict[str, MeterRule] | None:
    """Return the published rules by meter name, or None while no catalog was applied. Raises UnknownMeter if damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return {row["name"]: MeterRule(**row) for row in json.loads(text)["meters"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownMeter(
            f"{path} cannot be read ({error}), so no meter is known; run `tallybook apply` again"
        ) from error
