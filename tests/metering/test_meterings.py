"""Metering around code: calls, durations, quantities that add up; and the recorder that a process shares."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

import metering
from metering import defaults
from metering.context import tenant
from metering.decode import decode_segment
from metering.errors import BadEvent, UnknownMeter
from metering.meters import MeterRule, publish_rules
from metering.recorder import Recorder
from metering.segments import producer_folders, read_segment


@pytest.fixture
def usage(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as recorder:
        yield recorder


def recorded(usage: Recorder) -> list[tuple[Any, ...]]:
    usage.seal()
    paths = [path for folder in producer_folders(usage.layout.root / "journal") for path in folder.sealed()]
    rows = [row for path in paths for row in decode_segment(read_segment(path), None).events.to_pylist()]
    return [(row["tenant_id"], row["quantity"], row["attributes"]) for row in rows]


def stepping(monkeypatch: pytest.MonkeyPatch, *readings: int) -> None:
    left = iter(readings)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(left))


def test_a_duration_is_exact_to_the_nanosecond(usage: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    # More nanoseconds than a float holds digits for.
    stepping(monkeypatch, 1, 1 + 9_007_199_254_740_993)
    with localcontext(prec=3), usage.measure("build_seconds", tenant="acme", machine="large"):
        pass
    assert recorded(usage) == [("acme", Decimal("9007199.254740993"), '{"machine":"large"}')]


def test_each_call_takes_its_own_time(usage: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    @usage.measure("build_seconds", machine="large")
    def build(depth: int) -> int:
        """Build."""
        return depth and build(depth - 1) + 1

    @usage.measure("build_seconds", tenant="globex", when="error")
    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("mine")

    stepping(monkeypatch, 0, 10, 13, 10**9, 5, 5 + 7)
    with tenant("acme"):
        assert build(1) == 1
    with pytest.raises(KeyError, match="mine"):
        asyncio.run(fail())
    assert build.__doc__ == "Build."
    inner, outer = Decimal(3).scaleb(-9), Decimal(1)
    assert recorded(usage) == [
        ("acme", inner, '{"machine":"large"}'),
        ("acme", outer, '{"machine":"large"}'),
        ("globex", Decimal(7).scaleb(-9), None),
    ]
    with pytest.raises(TypeError, match="key"):
        usage.measure("build_seconds", tenant="acme", key="one")(build)


@pytest.mark.parametrize(("when", "counts"), [("success", (1, 0)), ("error", (0, 1)), ("always", (1, 1))])
def test_what_is_metered_when_the_code_raises_is_said(usage: Recorder, when: Any, counts: tuple[int, int]) -> None:
    @usage.meter_calls("calls", tenant="acme", when=when)
    def call(fails: bool) -> None:
        if fails:
            raise KeyError("mine")

    call(False)
    with usage.measure("seconds", tenant="acme", when=when):
        pass
    with usage.tally("rows", tenant="acme", when=when) as rows:
        rows.add()
    assert len(recorded(usage)) == 3 * counts[0]
    with pytest.raises(KeyError, match="mine"):
        call(True)
    with pytest.raises(KeyError, match="mine"), usage.measure("seconds", tenant="acme", when=when):
        raise KeyError("mine")
    with pytest.raises(KeyError), usage.tally("rows", tenant="acme", when=when) as rows:
        raise KeyError(rows.add())
    assert len(recorded(usage)) == 3 * sum(counts)


def test_a_tally_is_one_event_and_nothing_is_none(usage: Recorder) -> None:
    with localcontext(prec=3), usage.tally("rows", tenant="acme", key="job-1") as rows:
        for quantity in (10**20, Decimal("0.1"), "0.2"):
            rows.add(quantity)
        with pytest.raises(BadEvent):
            rows.add(0.3)  # type: ignore[arg-type]
    with usage.tally("rows", tenant="acme"):
        pass
    assert recorded(usage) == [("acme", Decimal("100000000000000000000.3"), None)]


def test_calls_of_functions_and_coroutine_functions(usage: Recorder) -> None:
    @usage.meter_calls("rows", quantity=len, kind="list")
    def listed(count: int, *, item: str) -> list[str]:
        """Repeat an item."""
        return [item] * count

    @usage.meter_calls("calls")
    async def answered() -> str:
        await asyncio.sleep(0)
        return "yes"

    async def both() -> list[str]:
        async def of(name: str) -> str:
            with tenant(name):
                return await answered()

        return await asyncio.gather(of("acme"), of("globex"))

    with tenant("acme"):
        assert listed(3, item="a") == ["a", "a", "a"]
    assert listed.__doc__ == "Repeat an item."
    assert asyncio.run(both()) == ["yes", "yes"]
    assert recorded(usage) == [("acme", 3, '{"kind":"list"}'), ("acme", 1, None), ("globex", 1, None)]


def test_what_nobody_could_pay_for_is_not_begun(usage: Recorder) -> None:
    publish_rules(usage.layout.meters_file, [MeterRule("calls")])
    done: list[int] = []
    for call in (usage.meter_calls("calls")(done.append), usage.meter_calls("cals", tenant="acme")(done.append)):
        with pytest.raises((BadEvent, UnknownMeter)):
            call(1)
    with pytest.raises(UnknownMeter), usage.measure("secs", tenant="acme"):
        done.append(1)
    assert done == []


def test_mistakes_are_told_where_they_are_written(usage: Recorder) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="tally"):
        usage.meter_calls("calls")(numbers)
    with pytest.raises(TypeError, match="quantity"):
        usage.tally("rows", tenant="acme", quantity=5)
    with pytest.raises(ValueError, match="always"):
        usage.meter_calls("calls", when="allways")(print)  # type: ignore[arg-type]


# --- the recorder of the process --------------------------------------------------------------------------------------


@pytest.fixture
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Recorder]]:
    monkeypatch.setattr(defaults, "_recorder", None)
    yield defaults.configured
    if defaults._recorder is not None:
        defaults._recorder.close()


@pytest.mark.usefixtures("nothing_configured")
def test_the_recorder_of_the_process_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="configure"):
        metering.record("calls", tenant="acme")
    first = metering.configure(tmp_path / "one", ship="none")
    metering.record("calls", tenant="acme", quantity=2, region="eu")
    with metering.tenant("globex"):
        metering.record("calls", key="k")
    assert metering.configure(tmp_path / "two", ship="none") is defaults.configured()
    metering.record("calls", tenant="acme", quantity=3)
    assert recorded(first) == [("acme", 2, '{"region":"eu"}'), ("globex", 1, None)]
    assert recorded(defaults.configured()) == [("acme", 3, None)]
    with pytest.raises(ValueError, match="closed"):
        first.record("calls", tenant="acme")


def test_configuring_a_recorder_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, metering\n"
        "metering.configure(sys.argv[1], ship='none'); metering.record('calls', tenant='acme')\n"
        "heavy = {'numpy', 'pyarrow', 'duckdb', 'pydantic', 'asyncio', 'opentelemetry'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
