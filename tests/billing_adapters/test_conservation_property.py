"""Whatever is recorded, the statement is conserved and equals a recount in plain Python; whatever is lost, it says so."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.billing_adapters.world import Row, World, event, figures, letter, statement_of

QUANTITIES = st.decimals("0", "1000", places=9, allow_nan=False, allow_infinity=False).map(lambda number: f"{number:f}")
EVENTS = st.builds(
    event,
    tenant=st.sampled_from(["acme", "late", "idle", "nobody"]),
    meter=st.sampled_from(["tokens", "calls", "unsold", "not in the catalog"]),
    quantity=QUANTITIES,
    day=st.integers(1, 30),
    month=st.sampled_from([9, 10, 10, 10, 11]),
    key=st.sampled_from([None, None, "k1", "k2"]),
    attributes=st.sampled_from([None, '{"model":"a"}', '{"model":"b"}']),
)
LETTERS = st.builds(
    letter, tenant=st.sampled_from([None, "acme"]), quantity=st.one_of(st.none(), QUANTITIES), day=st.integers(1, 31)
)
SEGMENT = st.tuples(
    st.sampled_from(["p1", "p2"]), st.lists(st.one_of(EVENTS, EVENTS, LETTERS), min_size=1, max_size=6), st.booleans()
)
QUICK = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def build(segments: list[tuple[str, list[Row], bool]]) -> World:
    """Ship a prefix of every producer's segments: once one is in flight, so are those after it."""
    world = World()
    in_flight: set[str] = set()
    for producer, rows, is_in_flight in segments:
        if is_in_flight:
            in_flight.add(producer)
        world.write(*rows, producer=producer, is_shipped=producer not in in_flight)
    return world


def recount(world: World) -> tuple[dict[str, tuple[int, Decimal]], dict[str, tuple[int, Decimal]]]:
    """Count both equations again, one row at a time."""
    first: dict[str, list[Decimal]] = defaultdict(list)
    second: dict[str, list[Decimal]] = defaultdict(list)
    seen: set[tuple[Any, ...]] = set()
    order = ("recorded_at", "producer_id", "segment", "row")
    for row in sorted(world.stored(), key=lambda row: tuple(row[name] for name in order)):
        identity = (row["tenant_id"], row["meter"], row["idempotency_key"])
        is_duplicate = row["idempotency_key"] is not None and identity in seen
        seen.add(identity)
        if row["event_time"].month == 10:
            first["duplicate" if is_duplicate else "stored"].append(row["quantity"])
            if not is_duplicate:
                second[disposition(row)].append(row["quantity"])
    for row in world.letters():
        first["dead_lettered"].append(row["quantity"] or Decimal(0))
    for batch in world.in_journal:
        for row in batch.events.to_pylist():
            if row["event_time"].month == 10:
                first["in_flight"].append(row["quantity"])
        first["in_flight"] += [row["quantity"] or Decimal(0) for row in batch.dead_letters.to_pylist()]
    first["recorded"] = [quantity for bucket in list(first.values()) for quantity in bucket]
    second["stored"] = list(first["stored"])
    return _summed(first), _summed(second)


def disposition(row: Row) -> str:
    if row["tenant_id"] == "nobody":
        return "unknown_tenant"
    if row["tenant_id"] == "idle" or (row["tenant_id"] == "late" and row["event_time"].day < 10):
        return "no_subscription"
    if row["meter"] == "calls" or (row["meter"] == "tokens" and row["attributes"] == '{"model":"a"}'):
        return "rated"
    return "unpriced_meter"


def _summed(buckets: dict[str, list[Decimal]]) -> dict[str, tuple[int, Decimal]]:
    return {name: (len(listed), sum(listed, Decimal(0))) for name, listed in buckets.items() if listed}


@QUICK
@given(st.lists(SEGMENT, max_size=6))
def test_whatever_is_recorded_is_conserved(segments: list[tuple[str, list[Row], bool]]) -> None:
    world = build(segments)
    statement = statement_of(world)

    assert statement.verdict == "conserved"
    assert len({finding.finding_id for finding in statement.findings}) == len(statement.findings)
    first, second = recount(world)
    assert figures(statement, "recorded") == first
    assert figures(statement, "stored") == second


@QUICK
@given(st.lists(SEGMENT, min_size=1, max_size=6), st.data())
def test_whatever_vanishes_is_missing_exactly(segments: list[tuple[str, list[Row], bool]], data: st.DataObject) -> None:
    world = build([(producer, rows, False) for producer, rows, _ in segments])
    stored = world.stored()
    lost = data.draw(st.sets(st.integers(0, max(len(stored) - 1, 0)), max_size=4)) if stored else set()
    statement = statement_of(world, stored=[row for at, row in enumerate(stored) if at not in lost])

    gone = [stored[at]["quantity"] for at in lost if stored[at]["event_time"].month == 10]
    missing = statement.row("recorded", "missing")
    assert missing is not None
    assert (missing.rows, missing.quantity) == (len(gone), sum(gone, Decimal(0)))
    assert statement.unexplained.is_zero
    assert statement.is_conserved is not bool(gone)
