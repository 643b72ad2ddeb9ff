"""The whole way over one folder: idempotent, interruptible, and the same whatever is derived, compacted or run twice."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from metering import Recorder
from metering.clock import FixedClock
from metering.errors import LakeDamaged
from rating import books
from rating.close import read_closes
from rating.errors import InvariantViolated, NotFound
from rating.invoice import document
from tallybook import Workspace
from tests.tallybook.shop import DECEMBER, LATE, NOVEMBER, USAGE, import_text, open_shop


def amounts(invoices: list[Any]) -> dict[tuple[str, str], str]:
    return {(line.tenant_id, line.price_id): str(line.amount) for one in invoices for line in one.lines}


def documents(workspace: Workspace) -> list[bytes]:
    return [document(invoice) for invoice in workspace.invoices()]


OCTOBER = {
    ("acme", "fee"): "49.00",
    ("acme", "tokens_out"): "6.25",
    ("acme", "calls"): "0.50",
    ("globex", "fee"): "25.29",
    ("globex", "tokens_out"): "0.00",
}


def test_from_a_file_to_final_invoices(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        invoices = workspace.invoice("2026-10", final=True).invoices
        assert amounts(invoices) == OCTOBER
        assert [one.number for one in invoices] == ["INV-00000001", "INV-00000002"]
        assert [str(one.total) for one in invoices] == ["55.75", "25.29"]
        assert all(one.matches for one in workspace.verify())


def test_every_step_twice_changes_nothing(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        for _ in range(2):
            import_text(workspace, "usage.csv", USAGE)
        assert workspace.apply().changes == ()
        workspace.invoice("2026-10")
        first = workspace.invoice("2026-10", final=True)
        again = workspace.invoice("2026-10", final=True)
        assert (first.was_there, again.was_there) == (False, True)
        assert [document(one) for one in again.invoices] == [document(one) for one in first.invoices]
        assert workspace.publish("2026-10") == workspace.publish("2026-10")


def test_a_late_event_waits_and_is_booked_with_the_next_period(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        import_text(workspace, "late.csv", LATE)
        waiting = workspace.invoice("2026-10").invoices
        assert [(line.kind, str(line.amount)) for one in waiting for line in one.lines] == [("correction", "1.00")]
        workspace.clock = FixedClock(DECEMBER)
        november = workspace.invoice("2026-11", final=True).invoices
        found = {(line.price_id, line.kind): str(line.amount) for line in november[0].lines}
        assert found == {("fee", "flat"): "49.00", ("tokens_out", "correction"): "1.00"}
        (line,) = [line for line in november[0].lines if line.kind == "correction"]
        explanation = workspace.explain(line.line_id)
        assert (explanation.event_count, explanation.new_event_count, str(explanation.booked_before)) == (2, 1, "6.25")
        assert explanation.events[0].idempotency_key == "late1"
        assert all(one.matches for one in workspace.verify())


def test_derived_tables_deleted_and_run_again_give_the_same_bytes(tmp_path: Path) -> None:
    """The acid test: everything that is not a decision goes; the decisions (closes, snapshots, catalog) stay."""
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        import_text(workspace, "late.csv", LATE)
        workspace.clock = FixedClock(DECEMBER)
        workspace.invoice("2026-11", final=True)
        before, numbers = documents(workspace), [one.number for one in workspace.invoices()]
        with workspace.books.begin() as connection:
            for table in (books.charges, books.invoice_lines, books.invoices):
                connection.execute(delete(table))
            connection.execute(delete(books.number_series).where(books.number_series.c.series == "INV"))
            connection.execute(update(books.closes).values(invoices_made=False))
        shutil.rmtree(workspace.layout.lake / "derived", ignore_errors=True)
        workspace.invoice("2026-11", final=True)
        assert documents(workspace) == before
        assert [one.number for one in workspace.invoices()] == numbers


def test_compaction_and_vacuum_do_not_change_what_verify_says(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        for number, row in enumerate(USAGE.splitlines()[1:]):
            import_text(workspace, f"usage-{number}.csv", f"{USAGE.splitlines()[0]}\n{row}\n")
        workspace.invoice("2026-10", final=True)
        import_text(workspace, "late.csv", LATE)
        files = len(workspace.lake.data_files(None, None))
        before = documents(workspace)
        workspace.lake.compact()
        workspace.lake.vacuum(retention_hours=0)
        assert len(workspace.lake.data_files(None, None)) < files
        assert all(one.matches for one in workspace.verify())
        assert documents(workspace) == before


def test_two_schedulers_at_once_make_one_set_of_invoices(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        results: list[list[bytes]] = []

        def schedule() -> None:
            with Workspace(tmp_path, clock=FixedClock(NOVEMBER)) as own:
                results.append([document(one) for one in own.invoice("2026-10", final=True).invoices])

        threads = [threading.Thread(target=schedule) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        assert all(result == results[0] for result in results)
        assert [one.number for one in workspace.invoices()] == ["INV-00000001", "INV-00000002"]


def test_a_run_interrupted_between_close_and_booking_is_finished_by_the_next(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        from metering.periods import parse_period

        workspace._close(parse_period("2026-10"), 1)
        # What comes after the close's snapshot is not part of it, whoever finishes it.
        import_text(workspace, "late.csv", LATE)
        workspace.clock = FixedClock(DECEMBER)
        november = workspace.invoice("2026-11", final=True).invoices
        assert amounts(workspace.invoices("2026-10")) == OCTOBER
        assert ("acme", "tokens_out") in amounts(november)


def test_a_second_close_of_an_open_period_books_the_rest(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=NOVEMBER.replace(month=10, day=10)) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        first = workspace.invoice("2026-10", final=True)
        assert not first.is_complete
        import_text(workspace, "late.csv", LATE)
        workspace.clock = FixedClock(NOVEMBER)
        second = workspace.invoice("2026-10", final=True)
        assert second.is_complete
        assert amounts(second.invoices) == {("acme", "tokens_out"): "1.00", ("globex", "fee"): "25.29"}
        with workspace.books.connect() as connection:
            assert [close.sequence for close in read_closes(connection)] == [1, 2]


def test_an_edited_invoice_and_a_damaged_file_are_found(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        with workspace.books.begin() as connection:
            line = connection.execute(select(books.invoice_lines.c.line_id).limit(1)).scalar_one()
            connection.execute(
                update(books.invoice_lines).where(books.invoice_lines.c.line_id == line).values(description="edited")
            )
        with pytest.raises(InvariantViolated, match="changed after it was booked"):
            workspace.verify()
        file = workspace.lake.data_files(None, None)[0].path
        content = bytearray(Path(file).read_bytes())
        content[len(content) // 2] ^= 1
        Path(file).write_bytes(content)
        with pytest.raises(LakeDamaged):
            workspace.usage("2026-10")


def test_usage_shows_what_nobody_pays_for(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        rows = {
            (row.tenant_id, row.meter): (str(row.quantity.normalize()), row.subscription_ids)
            for row in workspace.usage("2026-10")
        }
        assert rows == {
            ("acme", "calls"): ("1", ("sub-acme",)),
            ("acme", "tokens"): ("2277", ("sub-acme",)),
            ("ghost", "calls"): ("1", ()),
            ("globex", "calls"): ("1", ("sub-globex",)),
            ("globex", "tokens"): ("400.5", ("sub-globex",)),
        }
        split = {row.attributes["direction"] for row in workspace.usage("2026-10", by=["direction"])}
        assert split == {"output", "input", None}


def test_recorded_events_and_files_meet_in_one_invoice(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    with open_shop(tmp_path) as workspace:
        with Recorder(tmp_path, ship="none") as usage:
            usage.record(
                "tokens", tenant="acme", quantity=40, event_time=datetime(2026, 10, 9, tzinfo=UTC), direction="output"
            )
        import_text(workspace, "usage.csv", USAGE)
        workspace.ship()
        assert amounts(workspace.invoice("2026-10").invoices)["acme", "tokens_out"] == "6.75"


def test_the_statement_of_the_shop_is_conserved_and_sees_what_is_missing(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        statement = workspace.reconcile("2026-10")
        assert statement.is_conserved
        assert {finding.control_id for finding in statement.findings} >= {"UNKNOWN_TENANT", "NO_SUBSCRIPTION"}


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="init"):
        Workspace(tmp_path)
    with Workspace.init(tmp_path) as workspace:
        with pytest.raises(NotFound, match="tallybook apply"):
            workspace.invoice("2026-10")
        assert workspace.usage("2026-10") == []
        assert workspace.verify() == []
        assert workspace.reconcile("2026-10").is_conserved


def test_the_whole_way_over_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    monkeypatch.setenv("TALLYBOOK_BOOKS_URL", postgres_url)
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        assert amounts(workspace.invoice("2026-10", final=True).invoices) == OCTOBER
        import_text(workspace, "late.csv", LATE)
        workspace.clock = FixedClock(DECEMBER)
        assert len(workspace.invoice("2026-11", final=True).invoices) == 2
        assert all(one.matches for one in workspace.verify())
        assert workspace.reconcile("2026-10").is_conserved


def test_a_clock_that_steps_back_gives_nothing_back(tmp_path: Path) -> None:
    """What was due once stays due: a close is never as of an instant before that of the close before."""
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        workspace.clock = FixedClock(NOVEMBER.replace(month=10, day=20))
        november = workspace.invoice("2026-11", final=True).invoices
        assert all(line.amount >= 0 for one in november for line in one.lines)
        with workspace.books.connect() as connection:
            instants = [close.as_of for close in read_closes(connection)]
        assert instants == sorted(instants)
