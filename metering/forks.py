"""Whose process this is: a byte of memory that the kernel wipes in the child of a fork.

Enters: nothing. Leaves: `here`, whose first byte is 1 in the process that imported this module, or renewed it, and 0 in a
child that came of a fork without Python's hooks (uWSGI, ctypes). Refuses: to ask the kernel per row where it can be had
for a read of memory.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

MADV_WIPEONFORK = 18


class _ProcessId:
    """Like the wiped page, where the kernel has none: reads 0 in a child of a fork, at the price of a getpid per row."""

    def __init__(self) -> None:
        self._home = os.getpid()

    def __getitem__(self, _index: int) -> int:
        return os.getpid() == self._home

    def __setitem__(self, _index: int, _one: int) -> None:
        self._home = os.getpid()


def _page_wiped_on_fork() -> mmap.mmap | _ProcessId:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except (AttributeError, OSError):
        return _ProcessId()
    page[0] = 1
    return page


here: Any = _page_wiped_on_fork()
