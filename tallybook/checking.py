"""A checker over a workspace: views from its catalog and lake, hard quotas by leases of its books.

Enters: a workspace and a recorder. Leaves: a `Checker`. Refuses: to touch disk or books before the first check, so that a
server may make it before it forks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from entitlements.checker import Checker
from entitlements.leased import LeasedQuotas, ViewTerms
from entitlements.leases import LeaseBook
from tallybook.books import open_books
from tallybook.entitlement_views import WorkspaceSource
from tallybook.lease_accounts import holder_of

if TYPE_CHECKING:
    from metering.recorder import Recorder
    from tallybook.workspace import Workspace


def checker(workspace: Workspace, recorder: Recorder | None = None, **settings: Any) -> Checker:
    """Return the checker of a workspace; see `Workspace.checker`."""
    # An engine of its own: a child of a fork must not use the connections of its parent, nor close them.
    books = open_books(workspace.settings.books_url(workspace.layout))
    made: list[Checker] = []
    hard = LeasedQuotas(
        LeaseBook(books, workspace.clock),
        ViewTerms(lambda: made[0].view, workspace.clock),
        holder="" if recorder is None else holder_of(recorder),
        clock=workspace.clock,
    )
    source = WorkspaceSource(str(workspace.layout.root), clock=workspace.clock)

    home = os.getpid()

    def give_back() -> None:
        source.close()
        if os.getpid() == home:
            books.dispose()

    made.append(Checker(source, recorder, hard=hard, on_close=give_back, **settings))
    return made[0]
