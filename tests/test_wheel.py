"""What the wheel holds: five packages and everything they read, and nothing that other distributions would trip over."""

from __future__ import annotations

import fnmatch
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"metering", "entitlements", "rating", "billing_adapters", "tallybook"}
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_the_top_level_is_five_packages() -> None:
    included = SETUPTOOLS["packages"]["find"]["include"]
    modules = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {name for name in modules if any(fnmatch.fnmatch(name, pattern) for pattern in included)} == PACKAGES


def test_every_file_that_a_package_reads_is_in_the_wheel() -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], capture_output=True, text=True, check=True, cwd=ROOT)
    patterns = SETUPTOOLS["package-data"]["*"]
    left_out = [
        name
        for name in listed.stdout.split()
        if not name.endswith((".py", "README.md"))
        and not any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in patterns)
    ]
    assert left_out == []
