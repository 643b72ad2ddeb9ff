"""What runs by itself: in order from the marker, once with two runners, and one that fails holds up only who needs it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import Engine

from billing_adapters.findings import list_findings
from billing_adapters.findings import list_runs as list_reconciliations
from metering.clock import FixedClock, from_us
from tallybook import Workspace
from tallybook import steps as steps_module
from tallybook.books import reading
from tallybook.errors import BadSettings
from tallybook.run_books import (
    Marker,
    Run,
    begin_marker,
    claim,
    fail,
    finish,
    forget_runs,
    list_runs,
    read_markers,
    renew,
)
from tallybook.run_telemetry import Telemetry
from tallybook.runner import LEASE, Runner
from tallybook.steps import STEPS, Done, Step
from tests.tallybook.shop import USAGE, import_text, open_shop

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
QUIET = """
[run]
from = 2026-10-01
[run.steps]
maintain = "off"
reconcile_open = "off"
rate = "off"
alerts = "off"
[files]
formats = ["csv"]
"""


# --- the books: claims and fences -----------------------------------------------------------------------------------------


def marker_of(books: Engine, step: str = "close") -> Marker:
    with reading(books) as connection:
        return read_markers(connection)[step, ""]


def test_of_two_that_saw_the_same_marker_one_gets_the_claim(books: Engine) -> None:
    begin_marker(books, "close", "", NOW)
    begin_marker(books, "close", "", NOW + timedelta(days=9))
    seen = marker_of(books)
    assert seen.done_until == NOW
    first = claim(books, seen, "2026-10", "a", NOW, LEASE)
    assert first is not None
    assert claim(books, seen, "2026-10", "b", NOW, LEASE) is None, "the marker is not what it was"
    assert claim(books, marker_of(books), "2026-10", "b", NOW, LEASE) is None, "somebody is at it"
    assert finish(books, first, NOW, NOW + timedelta(days=1), "done", "all") == "done"
    after = marker_of(books)
    assert (after.done_until, after.begun, after.done, after.holder) == (NOW + timedelta(days=1), 1, 2, None)
    assert claim(books, seen, "2026-10", "b", NOW, LEASE) is None, "what was seen is done"


def test_who_comes_back_from_the_dead_moves_nothing(books: Engine) -> None:
    begin_marker(books, "close", "", NOW)
    dead = claim(books, marker_of(books), "2026-10", "dead", NOW, LEASE)
    later = NOW + LEASE
    heir = claim(books, marker_of(books), "2026-10", "heir", later, LEASE)
    assert dead is not None
    assert heir is not None
    assert not renew(books, dead, later + LEASE)
    assert finish(books, dead, later, NOW + timedelta(days=5), "done", "") == "overtaken"
    assert fail(books, dead, later, 3, later, "no") == "overtaken"
    assert renew(books, heir, later + LEASE)
    assert marker_of(books).done_until == NOW
    assert finish(books, heir, later, NOW + timedelta(days=1), "done", "") == "done"
    with reading(books) as connection:
        assert [(one.holder, one.outcome) for one in list_runs(connection)] == [("heir", "done"), ("dead", "overtaken")]


def test_many_threads_claim_once(books: Engine) -> None:
    begin_marker(books, "close", "", NOW)
    seen = marker_of(books)
    got: list[Run] = []
    barrier = threading.Barrier(8)

    def take(number: int) -> None:
        barrier.wait()
        if (run := claim(books, seen, "2026-10", str(number), NOW, LEASE)) is not None:
            got.append(run)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_interrupted_runs_are_told_and_old_runs_of_passes_are_forgotten(books: Engine) -> None:
    begin_marker(books, "ship", "", NOW)
    begin_marker(books, "close", "", NOW)
    with reading(books) as connection:
        seen = read_markers(connection)
    claim(books, seen["ship", ""], "x", "a", NOW, LEASE)
    claim(books, seen["close", ""], "2026-10", "a", NOW, LEASE)
    with reading(books) as connection:
        seen = read_markers(connection)
    claim(books, seen["ship", ""], "y", "b", NOW + LEASE, LEASE)
    with reading(books) as connection:
        assert [one.outcome for one in list_runs(connection, step="ship")] == [None, "interrupted"]
    assert forget_runs(books, ["ship"], NOW + timedelta(days=1)) == 1
    with reading(books) as connection:
        assert len(list_runs(connection)) == 2


# --- the runner -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the usage of October in its lake, made once and copied."""
    workspace = open_shop(tmp_path_factory.mktemp("used") / "shop", now=NOW)
    import_text(workspace, "usage.csv", USAGE)
    workspace.layout.settings_file.write_text(QUIET, encoding="utf-8")
    workspace.close()
    return workspace.layout.root


@pytest.fixture
def shop(used: Path, tmp_path: Path) -> Iterator[Workspace]:
    root = shutil.copytree(used, tmp_path / "shop")
    with Workspace(root, clock=FixedClock(NOW)) as opened:
        yield opened


@contextmanager
def replaced(monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[..., Done]) -> Iterator[None]:
    """Let a step do something else."""
    changed = tuple(replace(step, do=do) if step.name == name else step for step in STEPS)
    with monkeypatch.context() as patch:
        patch.setattr("tallybook.runner.STEPS", changed)
        yield


def went(runs: list[Run]) -> list[tuple[str, str, str | None]]:
    return [(one.step, one.period, one.outcome) for one in runs if one.step in {"close", "invoice", "reconcile"}]


def advance_to(workspace: Workspace, at: datetime) -> None:
    clock = workspace.clock
    assert isinstance(clock, FixedClock)
    clock.advance(at - from_us(clock.now_us()))


def test_missed_months_are_done_in_order_one_by_one(shop: Workspace) -> None:
    advance_to(shop, datetime(2027, 1, 2, tzinfo=UTC))
    assert went(Runner(shop).run_due()) == [
        (step, month, "done")
        for month in ("2026-10", "2026-11", "2026-12")
        for step in ("close", "invoice", "reconcile")
    ]
    assert went(Runner(shop).run_due()) == []
    assert [one.amount_due for one in shop.invoices("2026-11")], "November was invoiced"
    assert (shop.layout.out).exists(), "and published"


def test_a_close_waits_for_its_grace_and_for_all_that_was_recorded_by_then(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Done:
        raise OSError("the lake is away")

    advance_to(shop, datetime(2026, 11, 1, 2, 59, tzinfo=UTC))
    assert went(Runner(shop).run_due()) == []
    advance_to(shop, datetime(2026, 11, 1, 3, 0, tzinfo=UTC))
    with replaced(monkeypatch, "ship", broken):
        runner = Runner(shop)
        ran = runner.run_due()
        assert went(ran) == [], "what waits to be shipped may belong to October"
        assert [one.outcome for one in ran if one.step == "ship"] == ["failed"]
        waits = {one.step.name: one.obstacle for one in runner.standings()}
        assert waits["close"] == "waits for ship"
        assert waits["invoice"] == "waits for close"
    advance_to(shop, datetime(2026, 11, 1, 4, 0, tzinfo=UTC))
    assert [outcome for *_, outcome in went(Runner(shop).run_due())] == ["done"] * 3


def test_a_step_that_fails_is_tried_later_and_holds_up_only_who_needs_it(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Done:
        raise RuntimeError("no paper in the printer")

    runner = Runner(shop, chance=lambda: 0.5)
    with replaced(monkeypatch, "invoice", broken):
        failing = Runner(shop, chance=lambda: 0.5)
        assert went(failing.run_due()) == [("close", "2026-10", "done"), ("invoice", "2026-10", "failed")]
        assert went(failing.run_due()) == [], "not at once"
        waits = {one.step.name: one for one in failing.standings()}
        assert waits["invoice"].marker.error == "RuntimeError: no paper in the printer"
        assert waits["reconcile"].obstacle == "waits for invoice"
        advance_to(shop, NOW + timedelta(seconds=30))
        assert went(failing.run_due()) == [("invoice", "2026-10", "failed")]
        assert {one.step.name: one.marker.failures for one in failing.standings()}["invoice"] == 2
        advance_to(shop, NOW + timedelta(seconds=60))
        assert went(failing.run_due()) == [], "later and later"
        assert [one.step for one in failing.run_due()] == [], "and ship was done"
    advance_to(shop, NOW + timedelta(hours=2))
    assert went(runner.run_due()) == [("invoice", "2026-10", "done"), ("reconcile", "2026-10", "done")]
    assert {one.step.name: one.marker.failures for one in runner.standings()}["invoice"] == 0


def test_a_pass_that_is_due_often_is_done_though_what_it_waits_for_has_a_pace_of_its_own(shop: Workspace) -> None:
    often = QUIET.replace('alerts = "off"', 'alerts = "every 3 seconds"\nship = "every 2 seconds"')
    shop.layout.settings_file.write_text(often, encoding="utf-8")
    done = []
    with Workspace(shop.layout.root, clock=shop.clock) as opened:
        runner = Runner(opened)
        for second in range(31):
            # Both wake at their instants; alerts looks before ship has begun.
            for step, pace in (("alerts", 3), ("ship", 2)):
                done += runner.run_step(step) if second % pace == 0 else []
            advance_to(shop, opened.now + timedelta(seconds=1))
    alerts = [one for one in done if one.step == "alerts"]
    assert len(alerts) >= 9, "each time what had been shipped since the time before was looked at"
    assert len({one.period for one in alerts}) == len(alerts), "and each instant once"
    shipped = [one.began_at for one in done if one.step == "ship"]
    for one in alerts:
        instant = datetime.fromisoformat(one.period)
        assert any(instant <= began <= one.began_at for began in shipped), one


def test_what_is_done_is_not_done_again_by_another(shop: Workspace) -> None:
    with Workspace(shop.layout.root, clock=shop.clock) as other:
        first, second = Runner(shop), Runner(other)
        assert went(first.run_due())
        assert second.run_due() == []
        assert first.holder != second.holder


def test_one_that_stands_still_is_overtaken_and_nothing_is_booked_twice(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(workspace: Workspace, place: str, period: str) -> Done:
        advance_to(shop, NOW + LEASE + timedelta(seconds=1))
        with Workspace(shop.layout.root, clock=shop.clock) as other:
            assert ("invoice", "2026-10", "done") in went(Runner(other).run_due())
        return steps_module.invoice(workspace, place, period)

    # The patched table is that of both; the one that overtakes does the step itself.
    runner = Runner(shop)
    runner._steps = [replace(step, do=slow) if step.name == "invoice" else step for step in runner._steps]
    assert ("invoice", "2026-10", "overtaken") in went(runner.run_due())
    assert sorted(one.number or "" for one in shop.invoices("2026-10")) == ["INV-00000001", "INV-00000002"]


def test_a_stop_lets_the_step_in_hand_finish_and_no_other_begin(shop: Workspace) -> None:
    stopping = threading.Event()
    runner = Runner(shop, stopping=stopping, on_run=lambda _run: stopping.set())
    (only,) = runner.run_due()
    assert only.outcome == "done"
    assert runner.run_due() == []


def test_the_first_month_is_that_of_the_first_run_unless_the_settings_say_otherwise(shop: Workspace) -> None:
    shop.layout.settings_file.write_text(QUIET.replace("from = 2026-10-01\n", ""), encoding="utf-8")
    with Workspace(shop.layout.root, clock=shop.clock) as again:
        runner = Runner(again)
        assert went(runner.run_due()) == []
        assert {one.step.name: one.coming.period for one in runner.standings() if one.coming}["close"] == "2026-11"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('[run.steps]\nship = "sometimes"', "every 5 minutes"),
        ('[run.steps]\nsail = "off"', "there is no step 'sail'"),
        ('[run.steps]\nclose = "daily at 04:00"', "can only be off"),
        ('[run]\ntimezone = "Mars/Olympus"', "Mars/Olympus"),
        ("[run]\ngrace_minutes = -1", "grace_minutes"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(shop: Workspace, section: str, said: str) -> None:
    shop.layout.settings_file.write_text(section, encoding="utf-8")
    with pytest.raises(BadSettings, match=said):
        Workspace(shop.layout.root)


@pytest.mark.parametrize(
    "wrong", ['window = "week"', 'settle_minutes = "soon"', "settle_minutes = 1.5", 'retell_days = "x"']
)
def test_a_section_that_is_wrong_holds_up_its_own_adapter_alone(shop: Workspace, wrong: str) -> None:
    text = f"{QUIET}\n[delivery.stripe]\nfrom = 2026-10-01\n{wrong}\n"
    shop.layout.settings_file.write_text(text, encoding="utf-8")
    with Workspace(shop.layout.root, clock=shop.clock) as opened:
        ran = {(one.step, one.outcome): one.detail for one in Runner(opened).run_due()}
    assert ("ship", "done") in ran
    assert ("invoice", "done") in ran
    assert ran["deliver", "failed"].startswith(f"BadSettings: {wrong.split(maxsplit=1)[0]}")


def test_a_month_is_reconciled_though_nothing_can_be_delivered_for_days(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else that a month can be compared with is there; what was not delivered is for its controls to find."""
    monkeypatch.delenv("TALLYBOOK_STRIPE_KEY", raising=False)
    shop.layout.settings_file.write_text(f"{QUIET}\n[delivery.stripe]\nfrom = 2026-10-01\n", encoding="utf-8")
    with Workspace(shop.layout.root, clock=shop.clock) as opened:
        runner = Runner(opened)
        assert went(runner.run_due()) == [("close", "2026-10", "done"), ("invoice", "2026-10", "done")]
        advance_to(opened, NOW + timedelta(hours=23))
        assert went(runner.run_due()) == []
        assert {one.step.name: one.obstacle for one in runner.standings()}["reconcile"] == "waits for deliver"
        advance_to(opened, NOW + timedelta(hours=25))
        assert [step for step, period, _ in went(runner.run_due()) if period == "2026-10"] == ["reconcile"]
        with reading(opened.books) as connection:
            assert {one.control_id for one in list_findings(connection)} >= {"NO_SUBSCRIPTION", "UNKNOWN_TENANT"}


def test_the_month_before_is_reconciled_every_day_with_the_open_one(shop: Workspace) -> None:
    """Payments, provider lists and late usage of a month come when it is closed."""
    daily = QUIET.replace('reconcile_open = "off"', 'reconcile_open = "daily at 04:00"')
    shop.layout.settings_file.write_text(daily, encoding="utf-8")
    with Workspace(shop.layout.root, clock=shop.clock) as opened:
        runner = Runner(opened)
        [first] = [one for one in runner.run_due() if one.step == "reconcile_open"]
        advance_to(opened, NOW + timedelta(days=1))
        [again] = [one for one in runner.run_due() if one.step == "reconcile_open"]
        with reading(opened.books) as connection:
            days = [(one.period_start.month, one.as_of.day) for one in list_reconciliations(connection)]
    assert again.detail.startswith("2026-11: conserved, ")
    assert "; 2026-10: conserved, " in again.detail
    assert sorted(set(days)) == [(10, 1), (10, 2), (11, 1), (11, 2)]
    assert first.outcome == again.outcome == "done"


def test_every_need_of_the_table_is_a_step_before_it() -> None:
    seen: list[str] = []
    for step in STEPS:
        assert set(step.needs) | set(step.after) <= {one.name for one in STEPS}
        if step.grain != "pass":
            assert set(step.needs) <= set(seen), "a round through the table does a period at once"
        seen.append(step.name)
    assert isinstance(STEPS[0], Step)


def test_cuts_of_the_open_month_and_its_close_add_up_to_the_month(shop: Workspace) -> None:
    text = QUIET.replace("[run.steps]", '[run.steps]\ncut = "daily at 02:30"')
    shop.layout.settings_file.write_text(text, encoding="utf-8")
    with Workspace(shop.layout.root, clock=shop.clock) as cutting:
        for day in (21, 22):
            advance_to(cutting, datetime(2026, 10, day, 3, tzinfo=UTC))
            (cut,) = [run for run in Runner(cutting).run_due() if run.step == "cut"]
            assert cut.outcome == "done"
        before = cutting.invoices("2026-10")
        assert before, "what was used so far is invoiced"
        advance_to(cutting, datetime(2026, 11, 1, 2, 45, tzinfo=UTC))
        assert [run.detail for run in Runner(cutting).run_due() if run.step == "cut"], (
            "October is over, and left to its close"
        )
        assert len(cutting.invoices("2026-10")) == len(before)
        advance_to(cutting, NOW)
        assert went(Runner(cutting).run_due()) == [
            (step, "2026-10", "done") for step in ("close", "invoice", "reconcile")
        ]
        after = cutting.invoices("2026-10")
        totals = {name: sum(one.total for one in after if one.account_id == name) for name in ("acme-inc", "globex")}
        assert {name: str(total) for name, total in totals.items()} == {"acme-inc": "55.75", "globex": "25.29"}


# --- telemetry ------------------------------------------------------------------------------------------------------------


def test_runs_are_spans_and_metrics_without_tenants(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Done:
        raise RuntimeError("no")

    kept, reader = InMemorySpanExporter(), InMemoryMetricReader()
    spans = TracerProvider(shutdown_on_exit=False)
    spans.add_span_processor(SimpleSpanProcessor(kept))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = Telemetry(tracer_provider=spans, meter_provider=meters)
    with replaced(monkeypatch, "reconcile", broken):
        Runner(shop, telemetry=telemetry).run_due()
    found = {span.name: span for span in kept.get_finished_spans()}
    assert dict(found["tallybook.step invoice"].attributes or {}) == {
        "tallybook.step": "invoice",
        "tallybook.period": "2026-10",
        "tallybook.place": "",
        "tallybook.outcome": "done",
    }
    assert found["tallybook.step reconcile"].status.description == "RuntimeError: no"
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        (metric.name, point)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    ]
    assert {name for name, _ in points} == {"tallybook.step.runs", "tallybook.step.duration"}
    assert all(set(point.attributes or {}) == {"tallybook.step", "tallybook.outcome"} for _, point in points)
    meters.shutdown()
