"""What became of licences, by what AWS told of them in any order: may meter, ending, ended.

Enters: notices. Leaves: one `LicenceState` per licence, by AWS's own times. Refuses: to depend on the order of arrival, or on how
often a notice came; and to let the end of an agreement stop metering, for a renewal ends one, too.
Source: reference/providers.md, section 2.6.

An ending licence has about an hour for its final records (unconfirmed, so a setting), the open hour included; then nothing is
accepted. A later subscription of the same customer begins anew, whether or not the end was told. Notices only steer what we
send: the answer of BatchMeterUsage is the authority.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from sqlalchemy import func, select, update

from billing_adapters.aws_marketplace_adapter.buyers import ADAPTER
from billing_adapters.aws_marketplace_adapter.notices import Notice
from billing_adapters.books import marketplace_notices
from metering.books import insertion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

FINAL_WINDOW = timedelta(hours=1)
# Of one instant the graver word is the last.
_GRAVITY = {"may_meter": 0, "failed": 1, "ending": 2, "ended": 3}


@dataclass(frozen=True, slots=True)
class LicenceState:
    """A licence now. `starts_at`: from when on it may be metered. `ends_at`: its end (open); what is used later is not under it.

    `final_until`: from when on AWS accepts no record of it. None: it has no end.
    """

    licence: str
    state: Literal["active", "failed", "ending", "ended"]
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    final_until: datetime | None = None


def licence_states(
    notices: Iterable[Notice], *, now: datetime, final_window: timedelta = FINAL_WINDOW
) -> dict[str, LicenceState]:
    """Return the state of every licence that a notice names. Pure: the same set of notices, in any order, gives the same."""
    of_licences = sorted(
        (one for one in notices if one.licence is not None and one.kind in _GRAVITY),
        key=lambda one: (one.licence or "", one.happened_at, _GRAVITY[one.kind]),
    )
    return {
        name: _state(name, list(told), now, final_window)
        for name, told in groupby(of_licences, key=attrgetter("licence"))
        if name is not None
    }


def _state(licence: str, told: Sequence[Notice], now: datetime, final_window: timedelta) -> LicenceState:
    found = LicenceState(licence, "failed")
    for one in told:
        at = one.happened_at
        if one.kind == "may_meter":
            # Told again while it is active: it goes on. After an end it begins anew.
            starts_at = found.starts_at if found.state == "active" and found.starts_at else at
            found = LicenceState(licence, "active", starts_at)
        elif one.kind == "failed":
            found = LicenceState(licence, "failed") if found.state != "active" else found
        elif one.kind == "ending" and found.state not in {"ending", "ended"}:
            found = LicenceState(licence, "ending", found.starts_at, at, at + final_window)
        elif one.kind == "ended":
            ends_at = found.ends_at or at
            found = LicenceState(licence, "ended", found.starts_at, ends_at, min(found.final_until or at, at))
    if found.state == "ending" and found.final_until is not None and now >= found.final_until:
        return LicenceState(licence, "ended", found.starts_at, found.ends_at, found.final_until)
    return found


# --- in the books -------------------------------------------------------------------------------------------------------


def keep_notice(connection: Connection, notice: Notice, now: datetime) -> bool:
    """Keep a notice unless it is there; True: it is new. Those that ask for nothing are handled at once."""
    asks = notice.kind == "entitlements_changed" or (notice.kind == "may_meter" and notice.licence is not None)
    row = {
        "adapter": ADAPTER,
        **{name: getattr(notice, name) for name in Notice.__slots__ if name != "starts_at"},
        "received_at": now,
        "handled_at": None if asks else now,
    }
    new = insertion(connection, marketplace_notices).values(row).on_conflict_do_nothing()
    # PostgreSQL's driver does not say how many rows an insert made.
    return connection.scalar(new.returning(marketplace_notices.c.notice_id)) is not None


def list_notices(connection: Connection) -> list[Notice]:
    """Return all notices, by AWS's time."""
    names = [name for name in Notice.__slots__ if name != "starts_at"]
    query = select(*(marketplace_notices.c[name] for name in names)).where(marketplace_notices.c.adapter == ADAPTER)
    rows = connection.execute(query.order_by(marketplace_notices.c.happened_at, marketplace_notices.c.notice_id))
    return [Notice(**dict(zip(names, row, strict=True))) for row in rows]


def unhandled(connection: Connection) -> int:
    """Return how many notices ask for entitlements to be read anew."""
    query = select(func.count()).where(
        marketplace_notices.c.adapter == ADAPTER, marketplace_notices.c.handled_at.is_(None)
    )
    return connection.scalar(query) or 0


def handle(connection: Connection, received_until: datetime, now: datetime) -> None:
    """Say that what notices asked for is done: of those received until then, before entitlements were read."""
    mine = (marketplace_notices.c.adapter == ADAPTER) & marketplace_notices.c.handled_at.is_(None)
    asked = marketplace_notices.c.received_at <= received_until
    connection.execute(update(marketplace_notices).where(mine, asked).values(handled_at=now))
