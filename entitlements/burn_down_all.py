"""The burn-down of all tenants at once, in DuckDB: the same answers as `entitlements.burndown`, one statement per step.

Enters: burn-downs as values (`BurnDown`), or the tables that they are loaded into. Leaves: the tables
    burn_step     one row per (burn, seq): a segment, a reset, or the finish
    burn_balance  one row per (seq, burn, grant): what it held in the step, what was burned of it, what is left, and what was
                  burned of it in the whole segment that the step goes on
    burn_state    one row per (seq, burn): overage, usage, granted usage after the step
Refuses: to know time zones. When a grant recurs and a quota is reset is worked out before, by `BillingCycle`.

Steps follow each other, so they are taken one after the other, but each for all tenants together: the number of statements is
that of the steps of the longest burn-down, not that of the tenants. Rejected: a recursive query, which carries the balances
of all grants through each row and cannot show the steps in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entitlements.burndown import ZERO, State, is_kept
from metering.engine import read_sql
from metering.questions import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb

    from entitlements.burndown import Grant, Kept, Used

PREPARE = ("burn_grant_ordered", "burn_step", "burn_used", "burn_balance_start", "burn_state_start")


@dataclass(frozen=True, slots=True)
class BurnDown:
    """One burn-down from a state to an instant; see `entitlements.burndown.burn_down`. `cuts` split segments further."""

    grants: Sequence[Grant]
    usage: Sequence[Used]
    start: State
    until: datetime
    resets: Sequence[datetime] = ()
    keep_overage: Kept = False
    cuts: Sequence[datetime] = ()


@dataclass(frozen=True, slots=True)
class OverUsed:
    """What was used from an instant on, and what of it no grant covered, in units of the meter."""

    used: Decimal
    over_used: Decimal


def burn_down_all(engine: duckdb.DuckDBPyConnection, burns: Sequence[BurnDown]) -> list[State]:
    """Return the state at the end of each. Raises ValueError where one runs backward, as `burn_down` does.

    Raises duckdb.OutOfRangeException where a sum leaves decimal(38, 9). The tables stay in the engine.
    """
    for burn in burns:
        if burn.until < burn.start.at or any(not burn.start.at < reset <= burn.until for reset in burn.resets):
            raise ValueError(f"a burn-down runs forward, with resets after {burn.start.at} and up to {burn.until}")
    _load(engine, burns)
    run_steps(engine)
    return _states(engine, burns)


def run_steps(engine: duckdb.DuckDBPyConnection) -> None:
    """Make `burn_step`, `burn_balance` and `burn_state` from the tables that say what to burn down."""
    for name in PREPARE:
        engine.execute(read_sql("entitlements", name))
    ((last,),) = engine.execute("SELECT coalesce(max(seq), 0) FROM burn_step").fetchall()
    for seq in range(1, last + 1):
        for name in ("burn_balance", "burn_state"):
            engine.execute(read_sql("entitlements", name), {"seq": seq})


def over_used(engine: duckdb.DuckDBPyConnection, since: Sequence[datetime]) -> list[OverUsed]:
    """Return what was used and over-used of each burn-down from an instant on; it must be one of its cuts or its start."""
    import pyarrow as pa

    columns = {
        "burn_id": pa.array(range(len(since)), pa.int64()),
        "due_at": pa.array(since, pa.timestamp("us", tz="UTC")),
    }
    register(engine, "burn_since", pa.table(columns))
    rows = engine.execute(read_sql("entitlements", "burn_over")).fetchall()
    found = {burn_id: OverUsed(used, over) for burn_id, used, over in rows}
    return [found.get(burn_id, OverUsed(ZERO, ZERO)) for burn_id in range(len(since))]


def _states(engine: duckdb.DuckDBPyConnection, burns: Sequence[BurnDown]) -> list[State]:
    balances: list[dict[str, Decimal]] = [{} for _ in burns]
    burned: list[dict[str, Decimal]] = [{} for _ in burns]
    latest = "QUALIFY row_number() OVER (PARTITION BY {} ORDER BY seq DESC) = 1"
    for burn_id, grant_id, after, burned_here in engine.execute(
        f"SELECT burn_id, grant_id, after, burned_here FROM burn_balance {latest.format('burn_id, grant_id')}"
    ).fetchall():
        balances[burn_id][grant_id] = after
        if burned_here:
            burned[burn_id][grant_id] = burned_here
    # A burn-down of no length returns its start unchanged.
    states = [burn.start for burn in burns]
    for burn_id, overage, usage, granted_usage in engine.execute(
        f"SELECT burn_id, overage, usage, granted_usage FROM burn_state {latest.format('burn_id')}"
    ).fetchall():
        if burns[burn_id].start.at < burns[burn_id].until:
            at, left = burns[burn_id].until, balances[burn_id]
            states[burn_id] = State(at, left, overage, usage, granted_usage, burned[burn_id])
    return states


def _load(engine: duckdb.DuckDBPyConnection, burns: Sequence[BurnDown]) -> None:
    """Make the tables that say what to burn down: burn, burn_grant, burn_recurrence, burn_reset, burn_cut, burn_usage."""
    numbered = list(enumerate(burns))
    starts = [(n, b.start.at, b.until, b.start.overage, b.start.usage, b.start.granted_usage) for n, b in numbered]
    _fill(engine, "burn", "burn_id start_at until_at overage usage granted_usage", "nttqqq", starts)
    _fill(
        engine,
        "burn_grant",
        "burn_id grant_id amount effective_at ends_at priority expires_at created_at rollover_min rollover_max balance burned",
        "nsqttnttqqqq",
        [
            (
                n, one.id, one.amount, one.effective_at, _ends(one), one.priority, one.expires_at, one.created_at,
                one.rollover_min, one.rollover_max, burn.start.balances.get(one.id, ZERO), burn.start.burned.get(one.id, ZERO),
            )
            for n, burn in numbered
            for one in burn.grants
        ],
    )  # fmt: skip
    recurrences = [
        (n, one.id, at)
        for n, burn in numbered
        for one in burn.grants
        for at in one.recurrences(burn.start.at, burn.until)
    ]
    _fill(engine, "burn_recurrence", "burn_id grant_id due_at", "nst", recurrences)
    resets = {(n, at, is_kept(burn.keep_overage, at)) for n, burn in numbered for at in burn.resets}
    _fill(engine, "burn_reset", "burn_id due_at keeps_overage", "ntb", resets)
    _fill(engine, "burn_cut", "burn_id due_at", "nt", {(n, at) for n, burn in numbered for at in burn.cuts})
    used = [(n, one.at, one.quantity) for n, burn in numbered for one in burn.usage]
    _fill(engine, "burn_usage", "burn_id due_at quantity", "ntq", used)


def _ends(grant: Grant) -> datetime | None:
    ends = [at for at in (grant.expires_at, grant.voided_at) if at is not None]
    return min(ends, default=None)


def _fill(
    engine: duckdb.DuckDBPyConnection, table: str, names: str, types: str, rows: Iterable[tuple[Any, ...]]
) -> None:
    """Make a table of rows. Types: n a whole number, t an instant, b a truth, s a text, q a quantity."""
    import pyarrow as pa

    kinds = {
        "n": pa.int64(),
        "t": pa.timestamp("us", tz="UTC"),
        "b": pa.bool_(),
        "s": pa.string(),
        "q": pa.decimal128(38, 9),
    }
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    arrays = [pa.array(column, kinds[kind]) for column, kind in zip(columns, types, strict=True)]
    register(engine, table, pa.table(arrays, names=names.split()))
