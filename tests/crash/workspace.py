"""How the crash tests start processes, ship what they left, and count what arrived."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq

from metering.lake import Lake
from metering.layout import Layout
from metering.ship import Shipped, ship

REPOSITORY = Path(__file__).parents[2]


def start(*arguments: object, stdout: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.crash.children", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=stdout)


def run(*arguments: object) -> int:
    """Run a command to its end. One that hangs is killed, and fails its test."""
    with start(*arguments) as process:
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def ship_all(root: Path) -> Shipped:
    layout = Layout.of(root)
    return ship(layout, Lake(layout.lake))


def arrived(root: Path) -> dict[str, Counter[int]]:
    """Return, per tenant, how often each quantity is in the lake."""
    lake = Lake(Layout.of(root).lake)
    files = lake.data_files()
    lake.verify(files)
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for file in files:
        table = pq.ParquetFile(file.path).read(columns=["tenant_id", "quantity"])
        for tenant, quantity in zip(table["tenant_id"].to_pylist(), table["quantity"].to_pylist(), strict=True):
            counts[tenant][int(quantity)] += 1
    return counts


def once_each(count: int) -> Counter[int]:
    return Counter(range(1, count + 1))


def journal_is_empty(root: Path) -> bool:
    return not [path for path in (root / "journal").iterdir() if path.name.startswith((".p-", "p-"))]
