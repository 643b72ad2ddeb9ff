"""What people decide about findings: acknowledge, recover, waive, reopen; and the sign-off of a reconciliation.

Enters: a finding's id, who decides and why. Leaves: the finding with one more step in its history.
Refuses: a decision without a name and a reason, a waiver that its maker approves or that never ends, a review by whoever
prepared, and whatever the status of a finding does not allow.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, insert, select, update

from billing_adapters.books import finding_events, findings, reconciliations, waivers
from billing_adapters.errors import FindingNotOpen
from billing_adapters.finding_life import DECISIONS, Step, Waiver, class_at, expired
from billing_adapters.findings import BY_ITSELF, Finding, Run, event_row, last_numbers, list_findings, list_waivers
from metering.clock import iso_utc

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


def acknowledge(connection: Connection, finding_id: str, *, who: str, why: str, now: datetime) -> Finding:
    """Say that somebody works on an open finding. Raises FindingNotOpen, ValueError without a name and a reason."""
    return _decide(connection, finding_id, "acknowledged", {}, who=who, why=why, now=now)


def recover(
    connection: Connection, finding_id: str, *, who: str, why: str, now: datetime, amount: Decimal | None = None
) -> Finding:
    """Say that the money was recovered: `amount` of the finding's currency, by default all that it is likely worth.

    A later run that finds more than that opens the finding again. Raises as `acknowledge`.
    """
    one = _one(connection, finding_id)
    if amount is not None and (amount < 0 or one["currency"] is None):
        raise ValueError("what was recovered is an amount of at least 0, of a finding that has a currency")
    settled = one["amount_likely"] if amount is None else amount
    values = {"settled_amount": settled, "settled_quantity": one["quantity_difference"]}
    return _decide(connection, finding_id, "recovered", values, who=who, why=why, now=now)


def waive(
    connection: Connection,
    finding_id: str,
    *,
    who: str,
    why: str,
    approved_by: str,
    expires_at: datetime,
    now: datetime,
    amount_max: Decimal | None = None,
    quantity_max: Decimal | None = None,
) -> Finding:
    """Waive one finding until a date and up to a ceiling: by default what it is worth now, at the most.

    Raises as `acknowledge`; ValueError where nobody else approved it or it would never expire.
    """
    one = _one(connection, finding_id)
    ceiling = one["amount_high"] or one["amount_likely"] if amount_max is None else amount_max
    waiver = make_waiver(
        connection,
        control_id=one["control_id"],
        dedupe_key=one["dedupe_key"],
        why=why,
        amount_max=ceiling,
        currency=one["currency"],
        quantity_max=one["quantity_difference"] if quantity_max is None else quantity_max,
        created_by=who,
        approved_by=approved_by,
        expires_at=expires_at,
        now=now,
    )
    reason = f"{why} (until {iso_utc(expires_at)}, approved by {approved_by})"
    return _decide(connection, finding_id, "waived", {"waiver_id": waiver.waiver_id}, who=who, why=reason, now=now)


def make_waiver(
    connection: Connection,
    *,
    control_id: str,
    why: str,
    created_by: str,
    approved_by: str,
    expires_at: datetime,
    now: datetime,
    tenant_id: str | None = None,
    meter: str | None = None,
    reason: str | None = None,
    dedupe_key: str | None = None,
    amount_max: Decimal | None = None,
    currency: str | None = None,
    quantity_max: Decimal | None = None,
    origin: str = "waiver",
) -> Waiver:
    """Write down a waiver for all findings of a control that match; the next run applies it. Raises ValueError.

    Its id begins with `origin`.
    """
    if not why.strip() or not created_by.strip() or not approved_by.strip():
        raise ValueError("a waiver has a reason, somebody who asks for it and somebody else who approves it")
    if created_by.strip().casefold() == approved_by.strip().casefold():
        raise ValueError(f"{created_by} cannot approve a waiver of their own; another person must")
    if expires_at <= now:
        raise ValueError(f"a waiver ends in the future, {iso_utc(expires_at)} is not; say until when it holds")
    parts = (control_id, tenant_id, meter, reason, dedupe_key, iso_utc(now), created_by, why, approved_by,
             iso_utc(expires_at), amount_max, currency, quantity_max)  # fmt: skip
    identity = hashlib.sha256("\x1f".join(str(part or "") for part in parts).encode()).hexdigest()[:24]
    waiver = Waiver(
        f"{origin}-{identity}", control_id, tenant_id, meter, reason, dedupe_key, why, amount_max, currency,
        quantity_max, created_by, approved_by, now, expires_at,
    )  # fmt: skip
    connection.execute(insert(waivers).values(**{name: getattr(waiver, name) for name in Waiver.__slots__}))
    return waiver


def reopen(connection: Connection, finding_id: str, *, who: str, why: str, now: datetime) -> Finding:
    """Open a finding that was acknowledged, recovered or waived. A waiver ends with it, for all that it covers.

    Raises as `acknowledge`.
    """
    waiver_id = _one(connection, finding_id)["waiver_id"]
    values = {"waiver_id": None, "settled_amount": None, "settled_quantity": None}
    decided = _decide(connection, finding_id, "reopened", values, who=who, why=why, now=now)
    if waiver_id is not None:
        _end(connection, waiver_id, who=who, why=why, now=now)
    return decided


def end_waiver(connection: Connection, waiver_id: str, *, who: str, why: str, now: datetime) -> Waiver:
    """End a waiver, by id or the beginning of one, before its day; what it covers is open again.

    Raises FindingNotOpen for one that is not there or has ended, ValueError without a name and a reason.
    """
    if not who.strip() or not why.strip():
        raise ValueError("a waiver is ended by somebody and for a reason; both must be said")
    query = select(waivers.c.waiver_id, waivers.c.ended_at).where(
        waivers.c.waiver_id.startswith(waiver_id, autoescape=True)
    )
    found = connection.execute(query).all()
    if len(found) != 1 or found[0].ended_at is not None:
        what = "has ended already" if len(found) == 1 else f"is the beginning of {len(found)} waivers"
        raise FindingNotOpen(f"{waiver_id} {what}; `tallybook findings waivers` lists them")
    _end(connection, found[0].waiver_id, who=who, why=why, now=now)
    return next(one for one in list_waivers(connection) if one.waiver_id == found[0].waiver_id)


def _end(connection: Connection, waiver_id: str, *, who: str, why: str, now: datetime) -> None:
    """Write down that a waiver has ended, and open what it covers again."""
    ended = {"ended_at": now, "ended_by": who, "ended_why": why}
    connection.execute(update(waivers).where(waivers.c.waiver_id == waiver_id).values(**ended))
    values = {"waiver_id": None, "settled_amount": None, "settled_quantity": None}
    query = select(findings.c.finding_id).where(findings.c.waiver_id == waiver_id).order_by(findings.c.finding_id)
    for other in connection.scalars(query).all():
        _decide(connection, other, "reopened", values, who=who, why=f"{waiver_id} was ended: {why}", now=now)


def review_run(connection: Connection, run_id: str, *, who: str, now: datetime) -> Run:
    """Sign a reconciliation off. Raises FindingNotOpen for a run that is not there, ValueError for its own preparer."""
    query = select(reconciliations).where(reconciliations.c.run_id.startswith(run_id, autoescape=True))
    found = connection.execute(query).mappings().all()
    if len(found) != 1:
        raise FindingNotOpen(f"{len(found)} reconciliations begin with {run_id}; `tallybook controls` lists them")
    row = dict(found[0])
    if not who.strip() or who.strip().casefold() == row["preparer"].casefold():
        raise ValueError(f"{row['preparer']} prepared this reconciliation; another person must review it")
    signed = {"reviewer": who, "reviewed_at": now}
    connection.execute(update(reconciliations).where(reconciliations.c.run_id == row["run_id"]).values(**signed))
    return Run(*({**row, **signed}[name] for name in Run.__slots__))


def _decide(
    connection: Connection, finding_id: str, verb: str, values: dict[str, Any], *, who: str, why: str, now: datetime
) -> Finding:
    if not who.strip() or not why.strip():
        raise ValueError(f"a finding is {verb} by somebody and for a reason; both must be said")
    statuses, status = DECISIONS[verb]
    row = _one(connection, finding_id)
    if row["status"] not in statuses:
        raise FindingNotOpen(
            f"finding {finding_id} is {row['status']}; only what is {' or '.join(statuses)} can be {verb}",
            finding_id=finding_id,
        )
    finding_class = class_at(row["control_class"], row["recover_by"], now)
    taken = [Step(verb, status, finding_class, why), *expired(status, row["control_class"], finding_class)]
    chosen = and_(findings.c.finding_id == finding_id, findings.c.status == row["status"])
    life = {**values, "status": taken[-1].status, "class": finding_class}
    connection.execute(update(findings).where(chosen).values(**life))
    first = last_numbers(connection, [finding_id])[finding_id] + 1
    for number, step in enumerate(taken, start=first):
        by = who if step.verb == verb else BY_ITSELF
        connection.execute(insert(finding_events).values(**event_row(finding_id, number, step, now, by, None, row)))
    return list_findings(connection, prefix=finding_id, with_history=True)[0]


def _one(connection: Connection, finding_id: str) -> dict[str, Any]:
    row = connection.execute(select(findings).where(findings.c.finding_id == finding_id)).mappings().one_or_none()
    if row is None:
        raise FindingNotOpen(
            f"there is no finding {finding_id}; `tallybook findings` lists them", finding_id=finding_id
        )
    return dict(row)
