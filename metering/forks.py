"""Whose process this is: a byte of memory that the kernel wipes in the child of a fork.

Enters: the recorders of this process. Leaves: `here`, whose first byte is 1 in the process that imported this module, or
renewed it, and 0 in a child that came of a fork without Python's hooks (uWSGI, ctypes); and recorders that are renewed in
a child before they touch what is the parent's. Refuses: to ask the kernel per row where it can be had for a read of memory.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from metering.recorder import Recorder

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


class OfOneProcess(Protocol):
    """What else holds something that only its own process may use, such as a lease."""

    def _renew(self) -> None: ...


recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
of_one_process: weakref.WeakSet[OfOneProcess] = weakref.WeakSet()


def notice_fork() -> None:
    """Before anything is recorded, flushed or sealed: be a process of its own, if this is a child that no hook told so."""
    if not here[0]:
        _renew_all()


def _renew_all() -> None:
    """Make every recorder of a child process a new producer; what was inherited belongs to the parent."""
    for one in [*recorders, *of_one_process]:
        one._renew()  # noqa: SLF001 - the two halves of one thing
    here[0] = 1


os.register_at_fork(after_in_child=_renew_all)
