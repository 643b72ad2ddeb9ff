"""Runs controls over one engine: each gives its breaks or says why it could not; all of them are accounted for.

Enters: an engine that holds the inputs (`reconciliation.inputs`), the controls, the period. Leaves: BREAK without amounts
that must be estimated (`reconciliation.stake` adds them), and CONTROL_RUN.
Refuses: to stop. A statement that fails, a table that is missing or stale, a head that cannot be read: that control is
`not_run`, which is a break of CONTROL_NOT_RUN; the others go on. What is not configured is `not_possible`, never passed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.reconciliation.controls import PARAMETERS, SAYABLE, Control, Refused, parameters_of
from billing_adapters.reconciliation.inputs import INPUTS
from billing_adapters.reconciliation.tables import (
    BASES,
    CLASSES,
    EVIDENCE_SAMPLE_MAX,
    break_schema,
    control_run_schema,
    dedupe_key_of,
    finding_id_of,
    refuse_floats,
)
from metering.engine import fetch
from metering.numbers import trimmed
from metering.usage import register
from rating.iso4217 import MINOR_UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime

    import duckdb
    import pyarrow as pa

    from billing_adapters.reconciliation.controls import Need

Row = dict[str, Any]

# A decimal of the engine in a text: all its places are written. Nothing else has nine and more.
_DECIMAL = re.compile(r"(?<![\w.])(-?\d+\.\d{9,})(?![\w.])( [A-Z]{3}\b)?")

# In the order in which amounts must be.
_AMOUNTS = ("amount_low", "amount_likely", "amount_high")
_FIGURES = ("quantity_difference", *_AMOUNTS)

# It reads how the others ran, so it runs when they have.
_LAST = "control_run"


@dataclass(frozen=True, slots=True)
class Asked:
    """What all controls of a run are asked about. `end_instant` is open; `as_of` is when we look.

    `pinned` names what fixes the content of tables made from the lake and the catalog: the snapshot. `absent` has the
    inputs that are not configured, each with what would make it possible.
    """

    period: str
    first_date: date
    end_date: date
    start_instant: datetime
    end_instant: datetime
    as_of: datetime
    pinned: str
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Return the id of this run: the same question about the same facts is the same run."""
        text = json.dumps([self.period, self.as_of.isoformat(), self.pinned])
        return "run-" + hashlib.sha256(text.encode()).hexdigest()[:24]


class _NotRun(Exception):
    """Why a control did not run."""


class _NotPossible(Exception):
    """What would make it possible to run a control."""


def run_controls(
    engine: duckdb.DuckDBPyConnection, controls: Sequence[Control], refused: Sequence[Refused], asked: Asked
) -> tuple[list[Row], pa.Table]:
    """Return the breaks of every control as rows of BREAK, and CONTROL_RUN. The same tables give the same rows.

    Amounts that a statement did not give are None; its `estimate_basis` is then '' and its head says how to estimate.
    """
    import pyarrow as pa

    breaks: list[Row] = []
    runs = [_refused_run(one, asked) for one in refused]
    facts: dict[str, Row] = {}
    is_last = [any(need.name == _LAST for need in control.needs) for control in controls]
    for last in (False, True):
        if last:
            register(engine, _LAST, pa.Table.from_pylist(runs, schema=control_run_schema()))
        for control, comes_last in zip(controls, is_last, strict=True):
            if comes_last == last:
                found, run = _run(engine, control, asked, facts)
                breaks += found
                runs.append(run)
    order = {control.control_id: (control.point, control.control_id) for control in controls}
    breaks.sort(key=lambda row: (*order[row["control_id"]], *_order_of(row)))
    runs.sort(key=lambda row: (row["point"], row["control_id"]))
    return breaks, pa.Table.from_pylist(runs, schema=control_run_schema())


def _order_of(row: Row) -> tuple[str, ...]:
    return tuple(row[name] or "" for name in ("tenant_id", "meter", "reason", "subject"))


def _run(
    engine: duckdb.DuckDBPyConnection, control: Control, asked: Asked, facts: dict[str, Row]
) -> tuple[list[Row], Row]:
    inputs: list[Row] = []
    found: list[Row] = []
    result, explanation = "passed", ""
    try:
        inputs.extend(_read_input(engine, need, asked, facts) for need in control.needs)
        _refuse_stale(inputs)
        found = _breaks_of(control, _ask(engine, control, asked), asked)
        result = "breaks" if found else "passed"
    except _NotPossible as error:
        result, explanation = "not_possible", str(error)
    except _NotRun as error:
        result, explanation = "not_run", str(error)
    run = {
        **_run_of(control.control_id, asked),
        "control_version": control.version,
        "control_hash": control.control_hash,
        "point": control.point,
        "cadence": control.cadence,
        "owner": control.owner,
        "is_ours": control.is_ours,
        "parameters": json.dumps({name: _said(value) for name, value in parameters_of(control).items()}),
        "inputs": inputs,
        "result": result,
        "explanation": explanation,
        "breaks": len(found),
        "findings": len({row["finding_id"] for row in found}),
    }
    return found, run


def _run_of(control_id: str, asked: Asked) -> Row:
    return {
        "control_id": control_id,
        "run_id": asked.run_id,
        "as_of": asked.as_of,
        "period_start": asked.first_date,
        "period_end": asked.end_date,
    }


def _refused_run(refused: Refused, asked: Asked) -> Row:
    return {
        **_run_of(refused.control_id, asked),
        "control_version": 0,
        "control_hash": hashlib.sha256(refused.statement.encode()).hexdigest(),
        "point": "",
        "cadence": "every run",
        "owner": "OPS",
        "is_ours": False,
        "parameters": "{}",
        "inputs": [],
        "result": "not_run",
        "explanation": refused.reason,
        "breaks": 0,
        "findings": 0,
    }


def _said(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value)


def _read_input(engine: duckdb.DuckDBPyConnection, need: Need, asked: Asked, facts: dict[str, Row]) -> Row:
    """Return what a control is told by an input: its rows, hash and newest instant. Asked once per run."""
    if need.name in asked.absent:
        raise _NotPossible(asked.absent[need.name])
    known = INPUTS.get(need.name)
    if known is None:
        raise _NotRun(f"there is no input {need.name!r}; inputs are {', '.join(sorted(INPUTS))}")
    if need.name not in facts:
        facts[need.name] = _facts_of(engine, need.name, asked)
    read = facts[need.name]
    # Its age counts from where the period ends: October's witness is not stale in December.
    looked_at = min(asked.as_of, asked.end_instant)
    is_stale = need.age_max_s is not None and (
        read["newest"] is None or read["newest"] < looked_at - timedelta(seconds=need.age_max_s)
    )
    return {**read, "age_max_s": need.age_max_s, "is_stale": is_stale}


def _facts_of(engine: duckdb.DuckDBPyConnection, name: str, asked: Asked) -> Row:
    import duckdb

    known = INPUTS[name]
    newest = "NULL" if known.newest is None else f"max({known.newest})"
    # What is made from the lake and the catalog is fixed by the snapshot; only what is given is read for its hash.
    content = "NULL" if known.is_derived else f"sum(md5_number_lower(({name})::VARCHAR)::HUGEINT)"
    try:
        [row] = fetch(
            engine, f"SELECT count(*) AS rows, {newest} AS newest, {content} AS content FROM {name}"
        ).to_pylist()
    except duckdb.Error as error:
        raise _NotRun(f"input {name} is not there ({_first_line(error)})") from error
    fixed = asked.pinned if known.is_derived else f"{row['content'] or 0}"
    digest = hashlib.sha256(f"{name} {row['rows']} {fixed}".encode()).hexdigest()
    return {"name": name, "rows": row["rows"], "content_hash": digest, "newest": row["newest"]}


def _refuse_stale(inputs: Iterable[Row]) -> None:
    for one in inputs:
        if one["is_stale"]:
            newest = "has no rows" if one["newest"] is None else f"ends at {one['newest']:%Y-%m-%d %H:%M} UTC"
            raise _NotRun(
                f"input {one['name']} {newest}, and may be {one['age_max_s']} seconds old; load what is newer"
            )


def _ask(engine: duckdb.DuckDBPyConnection, control: Control, asked: Asked) -> list[Row]:
    import duckdb

    values: dict[str, object] = {name: getattr(asked, name) for name in PARAMETERS}
    values |= {name: _said_to_engine(value) for name, value in parameters_of(control).items()}
    # A statement is given the values it names and no others.
    named = {name: value for name, value in values.items() if f"${name}" in control.body}
    try:
        table = fetch(engine, control.statement, named)
    except duckdb.Error as error:
        raise _NotRun(f"its statement failed: {_first_line(error)}") from error
    unknown = [name for name in table.schema.names if name not in SAYABLE]
    if unknown or "reason" not in table.schema.names:
        what = f"it returns {', '.join(unknown)}" if unknown else "it returns no column reason"
        raise _NotRun(f"{what}; a control returns reason and any of {', '.join(SAYABLE)}")
    try:
        refuse_floats(table)
    except ValueError as error:
        raise _NotRun(str(error)) from error
    return _typed(table)


def _typed(table: pa.Table) -> list[Row]:
    import pyarrow as pa

    schema = break_schema()
    try:
        columns = [table[name].cast(schema.field(name).type) for name in table.schema.names]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _NotRun(f"a column has not the type that breaks have: {_first_line(error)}") from error
    rows: list[Row] = pa.table(columns, names=table.schema.names).to_pylist()
    return rows


def _said_to_engine(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _readable(detail: str) -> str:
    """Return what a statement said with its decimals as people write them: 4.5 and 4.50 USD, not 4.500000000."""
    return _DECIMAL.sub(lambda found: _shortened(*found.groups()), detail)


def _shortened(number: str, currency: str | None) -> str:
    short = trimmed(Decimal(number))
    if not currency:
        return short
    whole, _, places = short.partition(".")
    return f"{whole}.{places:0<2}{currency}"


def _breaks_of(control: Control, said: Iterable[Row], asked: Asked) -> list[Row]:
    """Return what a statement said as rows of BREAK. Raises _NotRun where two rows would be the same finding."""
    empty = dict.fromkeys(break_schema().names)
    found = [_break_of(control, {**empty, **row}, asked) for row in said]
    repeated = [key for key, count in Counter(row["dedupe_key"] for row in found).items() if count > 1]
    if repeated:
        named = repeated[0].replace("\x1f", " / ")
        raise _NotRun(
            f"{len(repeated)} findings stand there twice, first {named}; group by them, or tell them apart by subject"
        )
    return found


def _basis_of(row: Row) -> str:
    """Return how an amount was found that the statement gave; '' where the stake is still to be estimated."""
    said: str = row["estimate_basis"] or ("EXACT" if row["amount_likely"] is not None else "")
    if said and said not in BASES:
        raise _NotRun(f"basis {said!r} is not known; return one of {', '.join(BASES)}")
    return said


def _refuse_figures(row: Row) -> None:
    """Raise _NotRun for figures that a sum must not have: below zero they would net, without a currency they would be lost."""
    below = [name for name in _FIGURES if row[name] is not None and row[name] < 0]
    if below:
        raise _NotRun(
            f"{below[0]} is below zero; return its size, and OVERBILL as the class where the payer is charged too much"
        )
    amounts = [row[name] for name in _AMOUNTS if row[name] is not None]
    # A low or a high one alone bounds what is still to be estimated.
    if row["amount_likely"] is not None and row["currency"] not in MINOR_UNITS:
        raise _NotRun(f"an amount has the currency {row['currency']!r}; return a code of ISO 4217 beside it")
    if amounts != sorted(amounts):
        raise _NotRun("amount_low, amount_likely and amount_high are not in this order; exchange them")


def _break_of(control: Control, row: Row, asked: Asked) -> Row:
    if not row["reason"]:
        raise _NotRun("a row has no reason; say in a word why it is a break")
    finding_class = row["class"] or control.finding_class
    if finding_class not in CLASSES:
        raise _NotRun(f"class {finding_class!r} is not known; return one of {', '.join(CLASSES)}")
    _refuse_figures(row)
    subject = row["subject"] or ""
    key = dedupe_key_of(control.control_id, row["tenant_id"], row["meter"], asked.period, row["reason"], subject)
    return {
        **row,
        "finding_id": finding_id_of(key),
        "dedupe_key": key,
        "control_id": control.control_id,
        "control_version": control.version,
        "run_id": asked.run_id,
        "period_start": asked.first_date,
        "period_end": asked.end_date,
        "bucket": control.bucket,
        "subject": subject,
        "class": finding_class,
        "estimate_basis": _basis_of(row),
        "owner": control.owner,
        "detail": _readable(row["detail"] or ""),
        "evidence_sample": sorted(row["evidence_sample"] or [])[:EVIDENCE_SAMPLE_MAX],
    }
