"""Waivers that stand in the settings: brought into the books by the next reconciliation, and ended when they are taken out.

Enters: what the settings declare, and the waivers in the books. Leaves: a row for each declared one that is new, and the end of
each that no longer stands there; nothing else, so that doing it again changes nothing. Refuses: a waiver of a control that is
not there, which would cover nothing without a word.

What a waiver says is its identity: an entry that is changed ends the old waiver and begins another, and the history stays. One
that was ended by hand stays ended, whatever the settings say; one whose day has come is over, and may stay or be taken out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billing_adapters.finding_decisions import end_waiver, make_waiver
from billing_adapters.findings import BY_ITSELF, list_waivers
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from billing_adapters.finding_life import Waiver
    from tallybook.settings import DeclaredWaiver

ORIGIN = "declared"
_SAID = ("control_id", "tenant_id", "meter", "reason", "why", "amount_max", "currency", "quantity_max", "created_by",
         "approved_by", "expires_at")  # fmt: skip


def bring(connection: Connection, declared: Sequence[DeclaredWaiver], controls: Collection[str], now: datetime) -> None:
    """Make the books hold what the settings declare. Idempotent. Raises BadSettings for a control that is not there."""
    for one in declared:
        if one.control not in controls:
            raise BadSettings(
                f"the settings waive findings of {one.control}, and there is no such control; "
                "`tallybook controls` lists them"
            )
    held = list_waivers(connection)
    for said in waiting(declared, held, now):
        make_waiver(connection, now=now, origin=ORIGIN, **said)
    stands = [_said_by(one) for one in declared]
    for waiver in held:
        is_ours = waiver.waiver_id.startswith(f"{ORIGIN}-") and waiver.ended_at is None and waiver.expires_at > now
        if is_ours and _said_of(waiver) not in stands:
            end_waiver(connection, waiver.waiver_id, who=BY_ITSELF, why="it is no longer in the settings", now=now)


def waiting(declared: Sequence[DeclaredWaiver], held: Sequence[Waiver], now: datetime) -> list[dict[str, Any]]:
    """Return what the settings declare, is not over, and the books do not hold yet."""
    there = [
        _said_of(one)
        for one in held
        # One that ended because it was taken out of the settings may be put in again.
        if one.waiver_id.startswith(f"{ORIGIN}-") and (one.ended_at is None or one.ended_by != BY_ITSELF)
    ]
    found: list[dict[str, Any]] = []
    for said in map(_said_by, declared):
        if said["expires_at"] > now and said not in there and said not in found:
            found.append(said)
    return found


def _said_by(one: DeclaredWaiver) -> dict[str, Any]:
    said = (one.control, one.tenant, one.meter, one.reason, one.why, one.amount_max, one.currency, one.quantity_max,
            one.who, one.approved_by, one.expires_at)  # fmt: skip
    return dict(zip(_SAID, said, strict=True))


def _said_of(waiver: Waiver) -> dict[str, Any]:
    return {name: getattr(waiver, name) for name in _SAID}
