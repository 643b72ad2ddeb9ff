"""Findings in the books: what runs found, what became of it, and who decided what.

Enters: BREAK and CONTROL_RUN of a run. Leaves: findings with their history, new and cleared ones of a run.
Refuses: a step back in history. What people decide is in finding_decisions.py.

One transaction per run, which the caller begins (with the lock that keeps writers of the books apart). A run
that was recorded already changes nothing. SQLite and PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import orjson
from sqlalchemy import and_, func, insert, or_, select, update

from billing_adapters.books import control_runs, finding_events, findings, reconciliations, waivers
from billing_adapters.finding_life import (
    LIVING,
    Cover,
    Facts,
    Standing,
    Status,
    Step,
    Waiver,
    class_at,
    covers,
    steps,
)
from metering.clock import iso_utc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    import pyarrow as pa
    from sqlalchemy import Connection

BY_ITSELF = "tallybook"
_AT_ONCE = 500
# Columns of `findings` that a run writes anew each time it sees one; the rest is its life.
_OF_LIFE = {"first_seen", "last_seen", "status", "class", "waiver_id", "settled_amount", "settled_quantity"}


@dataclass(frozen=True, slots=True)
class Run:
    """One reconciliation of a period, as the books keep it. `preparer` started it; a reviewer is another person."""

    run_id: str
    period_start: date
    period_end: date
    as_of: datetime
    snapshot_id: str
    verdict: str
    preparer: str
    generator_version: str
    reviewer: str | None = None
    reviewed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a finding: what it was from then on, who said so and why."""

    number: int
    at: datetime
    verb: str
    status: Status
    finding_class: str
    by: str
    why: str
    run_id: str | None
    amount_likely: Decimal | None
    quantity_difference: Decimal | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A judged break and its life. Amounts are exact and never negative; `finding_class` says which way they go.

    `finding_class` is what holds since the last run; `control_class` what its control says. `history` is oldest first.
    """

    finding_id: str
    dedupe_key: str
    control_id: str
    control_version: int
    run_id: str
    period_start: date
    period_end: date
    tenant_id: str | None
    account_id: str | None
    subscription_id: str | None
    meter: str | None
    adapter: str | None
    bucket: str
    reason: str
    subject: str
    rows: int | None
    quantity_expected: Decimal | None
    quantity_actual: Decimal | None
    quantity_difference: Decimal | None
    unit: str | None
    amount_low: Decimal | None
    amount_likely: Decimal | None
    amount_high: Decimal | None
    currency: str | None
    estimate_basis: str
    control_class: str
    finding_class: str
    occurred_at: datetime | None
    recover_by: datetime | None
    owner: str
    detail: str
    evidence_query: str | None
    evidence_path: str | None
    evidence_hash: str | None
    evidence_sample: tuple[str, ...]
    first_seen: datetime
    last_seen: datetime
    status: Status
    waiver_id: str | None
    settled_amount: Decimal | None
    settled_quantity: Decimal | None
    history: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run changed: ids of findings by what happened to them. `was_there`: the run had been recorded before."""

    run_id: str
    new: tuple[str, ...]
    cleared: tuple[str, ...]
    reopened: tuple[str, ...]
    expired: tuple[str, ...]
    was_there: bool


# --- a run ------------------------------------------------------------------------------------------------------------


def record_run(connection: Connection, run: Run, breaks: pa.Table, runs: pa.Table) -> Recorded:
    """Write a run, its control runs and what it means for every finding, this period's and those that only grow older.

    `breaks` is BREAK and `runs` CONTROL_RUN, of this run and period. Idempotent by `run_id`. All or nothing, in the
    caller's transaction. Raises ValueError for rows of another run.
    """
    others = {*breaks["run_id"].to_pylist(), *runs["run_id"].to_pylist()} - {run.run_id}
    if others:
        raise ValueError(
            f"what a run found is recorded under its own id; rows are of {min(others)}, not of {run.run_id}"
        )
    if connection.scalar(select(reconciliations.c.run_id).where(reconciliations.c.run_id == run.run_id)):
        return _recorded_before(connection, run.run_id)
    connection.execute(insert(reconciliations).values(**{name: getattr(run, name) for name in Run.__slots__}))
    logged = [_control_run(row) for row in runs.to_pylist()]
    _insert_all(connection, control_runs, logged)
    seen = {row["finding_id"]: _as_columns(row) for row in breaks.to_pylist()}
    held = _held(connection, run, list(seen))
    looked_at = {row["control_id"] for row in logged if row["result"] in {"passed", "breaks"}}
    facts = {finding_id: _facts(row) for finding_id, row in {**held, **seen}.items()}
    living = {
        finding_id: (one, held[finding_id]["waiver_id"] if finding_id in held else None)
        for finding_id, one in facts.items()
        if finding_id in seen or held[finding_id]["status"] in LIVING
    }
    cover = covers(_waivers(connection), living, run.as_of)
    made: dict[str, list[Step]] = {}
    for finding_id, fact in facts.items():
        row = held.get(finding_id)
        is_ours = fact.period == (run.period_start, run.period_end) and fact.control_id in looked_at
        sighting: Any = "seen" if finding_id in seen else "absent" if is_ours else "unknown"
        standing = None if row is None else _standing(row)
        made[finding_id] = steps(standing, fact, sighting, cover.get(finding_id, Cover()), run.as_of)
    _write(connection, run, seen, held, made, cover)
    return _by_verb(run.run_id, {key: [step.verb for step in taken] for key, taken in made.items()}, was_there=False)


def _held(connection: Connection, run: Run, seen: Sequence[str]) -> dict[str, dict[str, Any]]:
    of_period = and_(findings.c.period_start == run.period_start, findings.c.period_end == run.period_end)
    query = select(findings).where(or_(of_period, findings.c.status.in_(LIVING)))
    rows = [dict(row) for row in connection.execute(query).mappings()]
    there = {row["finding_id"]: row for row in rows}
    missing = [finding_id for finding_id in seen if finding_id not in there]
    for at in range(0, len(missing), _AT_ONCE):
        query = select(findings).where(findings.c.finding_id.in_(missing[at : at + _AT_ONCE]))
        there.update({row["finding_id"]: dict(row) for row in connection.execute(query).mappings()})
    return there


def _write(
    connection: Connection,
    run: Run,
    seen: dict[str, dict[str, Any]],
    held: dict[str, dict[str, Any]],
    made: dict[str, list[Step]],
    cover: dict[str, Cover],
) -> None:
    new = []
    for finding_id, taken in made.items():
        row = seen.get(finding_id) or held[finding_id]
        last = taken[-1] if taken else None
        status = last.status if last else held[finding_id]["status"]
        life: dict[str, Any] = {
            "status": status,
            "class": class_at(row["control_class"], row["recover_by"], run.as_of),
            "waiver_id": cover[finding_id].waiver_id if status == "waived" else None,
        }
        if last is not None and last.verb == "reopened":
            life |= {"settled_amount": None, "settled_quantity": None}
        if finding_id in seen:
            life |= {**row, "last_seen": run.as_of, "run_id": run.run_id}
        if finding_id not in held:
            new.append({"settled_amount": None, "settled_quantity": None, **life, "first_seen": run.as_of})
        elif taken or finding_id in seen or life["class"] != row["class"]:
            connection.execute(update(findings).where(findings.c.finding_id == finding_id).values(**life))
    _insert_all(connection, findings, new)
    numbers = last_numbers(connection, [finding_id for finding_id, taken in made.items() if taken])
    events = [
        event_row(finding_id, numbers.get(finding_id, 0) + count, step, run.as_of, BY_ITSELF, run.run_id, figures)
        for finding_id, taken in made.items()
        for figures in [seen.get(finding_id) or held.get(finding_id) or {}]
        for count, step in enumerate(taken, start=1)
    ]
    _insert_all(connection, finding_events, events)


def event_row(
    finding_id: str, number: int, step: Step, at: datetime, by: str, run_id: str | None, figures: dict[str, Any]
) -> dict[str, Any]:
    return {
        "finding_id": finding_id,
        "number": number,
        "at": at,
        "verb": step.verb,
        "status": step.status,
        "class": step.finding_class,
        "by": by,
        "why": step.why,
        "run_id": run_id,
        "amount_likely": figures["amount_likely"],
        "quantity_difference": figures["quantity_difference"],
    }


def last_numbers(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for at in range(0, len(ids), _AT_ONCE):
        query = (
            select(finding_events.c.finding_id, func.max(finding_events.c.number))
            .where(finding_events.c.finding_id.in_(ids[at : at + _AT_ONCE]))
            .group_by(finding_events.c.finding_id)
        )
        found.update((finding_id, number) for finding_id, number in connection.execute(query))
    return found


def _recorded_before(connection: Connection, run_id: str) -> Recorded:
    query = select(finding_events.c.finding_id, finding_events.c.verb).where(finding_events.c.run_id == run_id)
    verbs: dict[str, list[str]] = {}
    for finding_id, verb in connection.execute(query.order_by(finding_events.c.finding_id, finding_events.c.number)):
        verbs.setdefault(finding_id, []).append(verb)
    return _by_verb(run_id, verbs, was_there=True)


def _by_verb(run_id: str, verbs: dict[str, list[str]], *, was_there: bool) -> Recorded:
    def of(verb: str) -> tuple[str, ...]:
        return tuple(sorted(finding_id for finding_id, said in verbs.items() if verb in said))

    return Recorded(run_id, of("found"), of("cleared"), of("reopened"), of("expired"), was_there)


def _as_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of BREAK as columns of `findings`."""
    columns = {name: value for name, value in row.items() if name != "class"}
    sample = orjson.dumps(row["evidence_sample"]).decode()
    return {**columns, "control_class": row["class"], "evidence_sample": sample}


def _control_run(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "inputs": orjson.dumps(row["inputs"], default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME).decode(),
    }


def _plain(value: Any) -> str:
    return iso_utc(value) if hasattr(value, "astimezone") else str(value)


def _facts(row: dict[str, Any]) -> Facts:
    names = ("control_id", "tenant_id", "meter", "reason", "dedupe_key", "control_class", "recover_by",
             "amount_likely", "amount_high", "currency", "quantity_difference")  # fmt: skip
    return Facts(period=(row["period_start"], row["period_end"]), **{name: row[name] for name in names})


def _standing(row: dict[str, Any]) -> Standing:
    status = cast("Status", row["status"])
    settled = row["settled_amount"], row["settled_quantity"]
    return Standing(status, row["class"], _facts(row), row["waiver_id"], *settled)


def _insert_all(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    for at in range(0, len(rows), _AT_ONCE):
        connection.execute(insert(table), rows[at : at + _AT_ONCE])


# --- reading ----------------------------------------------------------------------------------------------------------


def list_findings(
    connection: Connection,
    *,
    period: tuple[date, date] | None = None,
    statuses: Sequence[str] | None = None,
    control_id: str | None = None,
    prefix: str | None = None,
    with_history: bool = False,
) -> list[Finding]:
    """Return findings: the soonest deadline first, then the largest amount. `prefix`: those whose id begins so."""
    query = select(findings)
    if period is not None:
        query = query.where(findings.c.period_start == period[0], findings.c.period_end == period[1])
    if statuses is not None:
        query = query.where(findings.c.status.in_(statuses))
    if control_id is not None:
        query = query.where(findings.c.control_id == control_id)
    if prefix is not None:
        query = query.where(findings.c.finding_id.startswith(prefix, autoescape=True))
    rows = [dict(row) for row in connection.execute(query).mappings()]
    histories = _histories(connection, [row["finding_id"] for row in rows]) if with_history else {}
    found = [_finding(row, tuple(histories.get(row["finding_id"], ()))) for row in rows]
    return sorted(found, key=_urgency)


def _urgency(one: Finding) -> tuple[Any, ...]:
    deadline = "9999" if one.recover_by is None else iso_utc(one.recover_by)
    return deadline, -(one.amount_likely or Decimal(0)), one.control_id, one.finding_id


def _finding(row: dict[str, Any], history: tuple[Event, ...]) -> Finding:
    fields = {name: row[name] for name in Finding.__slots__ if name in row}
    fields |= {"evidence_sample": tuple(orjson.loads(row["evidence_sample"])), "finding_class": row["class"]}
    return Finding(**fields, history=history)


def _histories(connection: Connection, ids: Sequence[str]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for at in range(0, len(ids), _AT_ONCE):
        query = (
            select(finding_events)
            .where(finding_events.c.finding_id.in_(ids[at : at + _AT_ONCE]))
            .order_by(finding_events.c.finding_id, finding_events.c.number)
        )
        for row in connection.execute(query).mappings():
            fields = {name: row[name] for name in Event.__slots__ if name != "finding_class"}
            found.setdefault(row["finding_id"], []).append(Event(**fields, finding_class=row["class"]))
    return found


def list_runs(connection: Connection, period: tuple[date, date] | None = None) -> list[Run]:
    """Return reconciliations, newest first; of a period, or all."""
    query = select(reconciliations)
    if period is not None:
        query = query.where(reconciliations.c.period_start == period[0], reconciliations.c.period_end == period[1])
    query = query.order_by(reconciliations.c.as_of.desc(), reconciliations.c.run_id)
    return [Run(*(row[name] for name in Run.__slots__)) for row in connection.execute(query).mappings()]


def list_waivers(connection: Connection) -> list[Waiver]:
    """Return all waivers, also those that expired or were ended, oldest first."""
    return _waivers(connection)


def _waivers(connection: Connection) -> list[Waiver]:
    query = select(*(waivers.c[name] for name in Waiver.__slots__)).order_by(waivers.c.created_at, waivers.c.waiver_id)
    return [Waiver(*row) for row in connection.execute(query)]
