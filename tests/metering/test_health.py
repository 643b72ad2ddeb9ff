"""The health of a recorder, and the same as OpenTelemetry metrics."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from metering.clock import Clock, to_us
from metering.health import oldest_unshipped_ns
from metering.lake import Lake
from metering.layout import Layout
from metering.recorder import Recorder
from metering.telemetry import instrument

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


class Hands(Clock):
    """A clock whose hands are moved by the test."""

    def __init__(self) -> None:
        self.us = to_us(NOON)

    def now_us(self) -> int:
        return self.us


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def recorder(**settings: Any) -> Recorder:
        chosen: dict[str, Any] = {"ship": "none", "seal_interval_s": 3600.0, "segment_bytes": 1 << 16, **settings}
        made.append(Recorder(tmp_path, **chosen))
        return made[-1]

    yield recorder
    for usage in made:
        usage.close()


def test_a_recorder_that_recorded_nothing_is_well_and_creates_nothing(
    make: Callable[..., Recorder], tmp_path: Path
) -> None:
    health = make().health()
    assert (health.recorded, health.dropped, health.unshipped_segments, health.unshipped_bytes) == (0, 0, 0, 0)
    assert (health.oldest_unshipped_s, health.is_shipper_alive, health.last_error) == (0, False, None)
    assert list(tmp_path.iterdir()) == []


def test_every_row_is_counted_wherever_it_is(make: Callable[..., Recorder]) -> None:
    usage = make()
    tokens = usage.bind("tokens", tenant="acme")
    for number in range(5000):
        tokens.add(number)
        if number % 1000 == 0:
            usage.record("tokens", tenant="acme", key=f"k{number}")
            assert usage.health().recorded == number + 2 + number // 1000
    instant = pa.array([NOON] * 3, pa.timestamp("us", tz="UTC"))
    columns = {"tenant_id": ["a"] * 3, "meter": ["m"] * 3, "quantity": [1] * 3, "event_time": instant}
    usage.record_batch(pa.table(columns))
    usage.record("tokens", tenant="acme")
    assert usage.health().recorded == 5009
    usage.close()
    assert usage.health().recorded == 5009


def test_what_is_not_shipped_is_seen_until_it_is(make: Callable[..., Recorder]) -> None:
    hands = Hands()
    usage = make(clock=hands)
    usage.record("tokens", tenant="acme", key="k", event_time=datetime(2020, 1, 1, tzinfo=UTC))
    hands.us += 2_000_000
    usage.record("tokens", tenant="acme")
    health = usage.health()
    assert (health.oldest_unshipped_s, health.unshipped_segments, health.unshipped_bytes) == (2.0, 1, 1 << 16)
    usage.seal()
    usage.record("tokens", tenant="acme")
    hands.us += 1_500_000
    assert usage.health().oldest_unshipped_s == 3.5
    assert usage.health().unshipped_segments == 2
    usage.ship_now()
    health = usage.health()
    assert (health.oldest_unshipped_s, health.unshipped_segments, health.unshipped_bytes) == (0.0, 0, 0)
    assert health.recorded == 3


def test_an_idle_segment_is_as_old_as_its_first_row_not_as_itself(make: Callable[..., Recorder]) -> None:
    hands = Hands()
    usage = make(clock=hands)
    usage.record("tokens", tenant="acme")
    usage._rotate()
    usage.ship_now()
    hands.us += 3600 * 10**6
    assert usage.health().oldest_unshipped_s == 0
    usage.record("tokens", tenant="acme")
    hands.us += 10**6
    assert usage.health().oldest_unshipped_s == 1


def test_it_says_what_the_disk_said_and_forgets_it_when_the_disk_is_well(
    make: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = make(on_error="drop_and_count")

    def refuse(_file: int, _start: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", refuse)
        usage.record("tokens", tenant="acme")
    health = usage.health()
    assert (health.recorded, health.dropped) == (0, 1)
    assert "No space left" in str(health.last_error)
    usage._refused_until_s = float("-inf")
    usage.record("tokens", tenant="acme")
    assert usage.health().last_error is None


def test_a_producer_that_goes_away_meanwhile_hides_no_other(make: Callable[..., Recorder], tmp_path: Path) -> None:
    usage = make(clock=Hands())
    usage.record("tokens", tenant="acme")
    journal = Layout.of(tmp_path).journal
    # Listed, and gone when it is looked at: before and after the one that is there, in whatever order folders are listed.
    for number in range(64):
        (journal / f"p-{number:032x}").symlink_to(tmp_path / "gone", target_is_directory=True)
    assert oldest_unshipped_ns(Layout.of(tmp_path)) == to_us(NOON) * 1000


def test_a_shipper_is_seen_by_its_lock(make: Callable[..., Recorder], tmp_path: Path) -> None:
    usage = make()
    usage.record("tokens", tenant="acme")
    code = (
        "import sys, os, fcntl; file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(file, fcntl.LOCK_EX); print('led', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "journal" / "ship.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        assert leader.stdin is not None
        leader.stdout.readline()
        assert usage.health().is_shipper_alive
        leader.stdin.close()
    assert not usage.health().is_shipper_alive


# --- drops ------------------------------------------------------------------------------------------------------------

DROPPING = """
import os, signal, sys
from metering.recorder import Recorder
usage = Recorder(sys.argv[1], ship="none", segment_bytes=1 << 16, on_error="drop_and_count", seal_interval_s=3600.0)
real = os.posix_fallocate
def refuse(*_): raise OSError(28, "No space left on device")
usage.record("calls", tenant="acme", quantity=1)
usage.seal()
os.posix_fallocate = refuse
for _ in range(7): usage.record("calls", tenant="acme", quantity=9)
os.posix_fallocate = real
usage._refused_until_s = float("-inf")
usage.record("calls", tenant="acme", quantity=2)
assert usage.dropped == 7
usage.seal()
usage.record("calls", tenant="acme", quantity=3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_dropped_outlives_a_kill_with_the_next_sealed_segment(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", DROPPING, str(tmp_path)], check=False)
    assert ended.returncode == -9
    with Recorder(tmp_path, ship="none") as usage:
        usage.ship_now()
    segments = Lake(Layout.of(tmp_path).lake).segments().sort_by("segment").to_pylist()
    assert [row["rows"] for row in segments] == [1, 1, 1]
    # Of the whole life so far; the last one was sealed by the shipper, who finds the count in the lock file.
    assert [row["dropped"] for row in segments] == [0, 7, 7]


def test_a_child_of_a_fork_does_not_count_the_drops_of_its_parent_again(make: Callable[..., Recorder]) -> None:
    usage = make(on_error="drop_and_count")
    usage.dropped = 5
    usage._renew()
    assert usage.dropped == 0


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    metrics = [one for resource in data.resource_metrics for scope in resource.scope_metrics for one in scope.metrics]
    return {one.name: point.value for one in metrics for point in one.data.data_points}  # type: ignore[union-attr]


def test_health_is_shown_as_metrics(tmp_path: Path) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    usage = Recorder(tmp_path, ship="none", seal_interval_s=3600.0)
    assert instrument(usage, meter_provider=provider)
    for _ in range(3):
        usage.record("tokens", tenant="acme")
    seen = collected(reader)
    age = seen.pop("tallybook.journal.unshipped.age")
    assert age > 0
    assert seen == {
        "tallybook.recorder.recorded": 3,
        "tallybook.recorder.dropped": 0,
        "tallybook.journal.unshipped.segments": 1,
        "tallybook.journal.unshipped.size": 1 << 20,
        "tallybook.shipper.alive": 0,
        "tallybook.journal.failing": 0,
    }
    usage.close()
    provider.shutdown()


def test_metering_does_without_opentelemetry(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from metering.recorder import Recorder; from metering.telemetry import instrument\n"
        "with Recorder(sys.argv[1], ship='none') as usage: sys.exit(instrument(usage))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_where_only_the_api_is_installed_nobody_ever_asks(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "import metering.recorder as of; from metering.telemetry import instrument\n"
        "def asked(*_, **__): sys.exit('health was looked at')\n"
        "of.look = asked\n"
        "with of.Recorder(sys.argv[1], ship='none') as usage:\n"
        "    assert instrument(usage)\n"
        "    for _ in range(1000): usage.record('calls', tenant='acme')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
