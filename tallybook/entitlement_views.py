"""Views of a workspace for checkers.

Enters: the folder of a workspace. Leaves: a `View` each time. Refuses: to open anything before it is read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tallybook.catalog_history import last_revision
from tallybook.entitlements import Entitlements

if TYPE_CHECKING:
    from entitlements.view import View
    from metering.clock import Clock
    from tallybook.catalog_entries import Catalog
    from tallybook.workspace import Workspace


class WorkspaceSource:
    """Views of a workspace, for a `Checker`. Opened when first read, anew in each process."""

    def __init__(self, root: str, *, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock
        self._opened: tuple[int, Workspace] | None = None
        # A revision never changes, so it is read once.
        self._catalog: Catalog | None = None

    def read(self) -> View:
        """Return the view as of now. Raises what the books and the lake raise while they are away."""
        from tallybook.workspace import Workspace

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), Workspace(self._root, clock=self._clock)
        workspace = self._opened[1]
        last = last_revision(workspace.books)
        if self._catalog is None or self._catalog.revision != last:
            self._catalog = workspace.catalog()
        return Entitlements(workspace, catalog=self._catalog).view()
