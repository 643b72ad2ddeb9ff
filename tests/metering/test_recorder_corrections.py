"""Voids and replacements from the call to the usage that they change; and the tenant that need not be named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from metering.context import tenant
from metering.corrections import Origin
from metering.engine import open_engine
from metering.errors import BadEvent, UnknownMeter
from metering.lake import Lake
from metering.layout import Layout
from metering.meters import MeterRule, publish_rules
from metering.recorder import Recorder
from metering.usage import Snapshot, load_evidence

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


@pytest.fixture
def usage(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as recorder:
        yield recorder


def evidence(usage: Recorder, statement: str) -> list[tuple[Any, ...]]:
    """Bring what was recorded to the lake, and ask the usage events of all of it."""
    usage.ship_now()
    lake = Lake(Layout.of(usage.layout.root).lake)
    files = lake.data_files()
    engine = open_engine([str(file.path) for file in files], threads=1)
    try:
        load_evidence(engine, [str(file.path) for file in files], Snapshot.of(lake.cut()))
        return engine.execute(statement).fetchall()
    finally:
        engine.close()


def counted(usage: Recorder) -> list[tuple[Any, ...]]:
    return evidence(usage, "SELECT tenant_id, meter, quantity, attributes FROM usage_event ORDER BY quantity")


def test_a_void_by_key_takes_effect_in_usage(usage: Recorder) -> None:
    usage.record("tokens", tenant="acme", quantity=5, key="a", model="m")
    usage.record("tokens", tenant="acme", quantity=7, key="b", model="m")
    usage.void("tokens", tenant="acme", key="a")
    usage.void("tokens", tenant="acme", key="a")
    assert counted(usage) == [("acme", "tokens", 7, '{"model":"m"}')]
    stored = evidence(usage, "SELECT correction, quantity FROM stored_event WHERE correction IS NOT NULL")
    assert stored == [('{"key":"a","verb":"void"}', 0)] * 2


def test_a_void_may_come_first_and_in_a_later_segment_than_its_retry(usage: Recorder) -> None:
    usage.void("tokens", tenant="acme", key="a")
    usage.seal()
    usage.record("tokens", tenant="acme", quantity=5, key="a")
    assert counted(usage) == []


def test_a_void_by_origin_takes_the_event_without_a_key(usage: Recorder) -> None:
    for quantity in (1, 2, 3):
        usage.record("tokens", tenant="acme", quantity=quantity)
    named = evidence(usage, "SELECT producer_id, segment, row FROM usage_event WHERE quantity = 2")
    usage.void("tokens", tenant="acme", origin=Origin(*named[0]))
    assert [row[2] for row in counted(usage)] == [1, 3]


def test_a_replacement_counts_as_the_event_it_says(usage: Recorder) -> None:
    usage.record("tokens", tenant="acme", quantity=500, key="a", model="m")
    for _ in range(2):
        usage.replace("tokens", tenant="acme", quantity="50.5", key="a", new_key="a2", event_time=NOON, model="n")
    assert counted(usage) == [("acme", "tokens", Decimal("50.5"), '{"model":"n"}')]
    (when,) = evidence(usage, "SELECT epoch_us(event_time) FROM usage_event")
    assert when == (int(NOON.timestamp()) * 10**6,)


def test_corrections_of_one_tenant_leave_the_other_alone(usage: Recorder) -> None:
    usage.record("tokens", tenant="acme", quantity=5, key="a")
    usage.record("tokens", tenant="globex", quantity=7, key="a")
    usage.record("calls", tenant="acme", quantity=9, key="a")
    usage.void("tokens", tenant="acme", key="a")
    assert [row[2] for row in counted(usage)] == [7, 9]


@pytest.mark.parametrize(
    ("reason", "names"),
    [
        ("bad_correction", {}),
        ("bad_correction", {"key": "a", "origin": Origin("p", 1, 0)}),
        ("bad_key", {"key": "a\nb"}),
        ("bad_tenant", {"key": "a", "tenant": ""}),
    ],
)
def test_a_correction_that_names_no_event_is_refused(usage: Recorder, reason: str, names: dict[str, Any]) -> None:
    for correct in (usage.void, lambda meter, **rest: usage.replace(meter, quantity=1, **rest)):
        with pytest.raises(BadEvent) as raised:
            correct("tokens", **{"tenant": "acme", **names})
        assert raised.value.reason == reason


def test_a_replacement_cannot_carry_the_key_that_it_takes_out(usage: Recorder) -> None:
    with pytest.raises(BadEvent, match="another new_key"):
        usage.replace("tokens", tenant="acme", quantity=1, key="a", new_key="a")


def test_an_unknown_meter_cannot_be_corrected(usage: Recorder) -> None:
    publish_rules(usage.layout.meters_file, [MeterRule("tokens")])
    with pytest.raises(UnknownMeter):
        usage.void("token", tenant="acme", key="a")


def test_voids_do_not_fill_the_memory_of_checked_series(usage: Recorder) -> None:
    for number in range(100):
        usage.void("tokens", tenant="acme", key=f"k{number}")
    assert len(usage._series.known) == 0


# --- the tenant that need not be named ----------------------------------------------------------------------------


def test_the_tenant_of_the_running_work_is_taken_where_none_is_named(usage: Recorder) -> None:
    with tenant("acme"):
        for _ in range(2):
            usage.record("tokens", quantity=1)
        bound = usage.bind("tokens", model="m")
        usage.record("tokens", quantity=5, key="a")
        usage.void("tokens", key="a")
        usage.replace("tokens", quantity=6, key="a")
        usage.record("tokens", tenant="globex", quantity=9)
    with tenant("initech"):
        bound.add(7)
    assert [row[::2] for row in counted(usage)] == [("acme", 1), ("acme", 1), ("acme", 6), ("acme", 7), ("globex", 9)]


def test_without_a_tenant_nothing_is_recorded(usage: Recorder) -> None:
    calls: list[Any] = [
        lambda: usage.record("tokens"),
        lambda: usage.bind("tokens"),
        lambda: usage.void("tokens", key="a"),
        lambda: usage.replace("tokens", quantity=1, key="a"),
    ]
    for call in calls:
        with pytest.raises(BadEvent) as raised:
            call()
        assert raised.value.reason == "no_tenant"
    assert list(usage.layout.root.iterdir()) == []
