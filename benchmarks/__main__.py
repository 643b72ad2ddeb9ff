"""Run a benchmark: python -m benchmarks NAME|all [--quick] [--size N] [--json] [--write]; the names are `NAMES`.

Every ratio is against a named alternative, measured in the same run, on the same machine; what is repeated gives its median.
`--write` puts the tables into benchmarks/RESULTS.md with the command beside them; a Python other than 3.11 gets sections of
its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Figure, as_markdown, as_table

NAMES = ("capture", "rating", "whatif", "incremental", "upkeep", "loss", "entitlements", "delivery", "reconciliation")
SIZED = ("delivery",)
USUAL_PYTHON = (3, 11)
RESULTS = Path(__file__).parent / "RESULTS.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--quick", action="store_true", help="small inputs, few repeats: a smoke test, not a figure")
    parser.add_argument("--size", type=int, help=f"how many invoices or the like, for {', '.join(SIZED)}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    names = NAMES if arguments.name == "all" else (arguments.name,)
    if arguments.size is not None and (arguments.name not in SIZED or arguments.size < 1):
        parser.error(f"--size is a number above 0, for {', '.join(SIZED)}")
    results: dict[str, list[Figure]] = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        sized = {} if arguments.size is None else {"size": arguments.size}
        results[name] = importlib.import_module(f"benchmarks.{name}").run(arguments.quick, **sized)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        for name, figures in results.items():
            print(as_table(name, figures))
    if arguments.write:
        write_results(results, f"{' --quick' if arguments.quick else ''}{_size_of(arguments.size)}")
    return 0


def _size_of(size: int | None) -> str:
    return "" if size is None else f" --size {size}"


def write_results(results: dict[str, list[Figure]], options: str) -> None:
    """Replace the sections of the benchmarks that ran; the others stay as they were."""
    sections = _sections(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, CPython {platform.python_version()}"
    for name, figures in results.items():
        command = f"python -m benchmarks {name}{options} --write"
        sections[title_of(name)] = f"`{command}`, {when}, {machine}\n\n{as_markdown(figures)}"
    head = (
        "# Results\n\nWritten by `python -m benchmarks NAME --write`. These machines are shared and noisy: read the ratios,"
        " not the seconds.\nEvery ratio was measured in one run against the alternative it names.\n"
    )
    body = "".join(f"\n## {name}\n\n{sections[name]}" for name in sorted(sections))
    RESULTS.write_text(head + body, encoding="utf-8")


def title_of(name: str) -> str:
    """Return the name of a section: one of its own for every Python but the one that the others are measured with."""
    version = sys.version_info[:2]
    return name if version == USUAL_PYTHON else f"{name} (CPython {version[0]}.{version[1]})"


def _sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0].strip(): part.partition("\n")[2].strip("\n") + "\n" for part in parts}


if __name__ == "__main__":
    sys.exit(main())
