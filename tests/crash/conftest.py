"""Where the crash tests work when it does not matter how slow the disk is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def fast_disk() -> Iterator[Path]:
    """A folder in memory where there is one: an injected fault does not ask what kind of disk it fails on."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
