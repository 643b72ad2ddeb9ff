"""The conservation statement: each bucket by a small case, each way of losing something by a mutant."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from billing_adapters.errors import TotalOverflow
from billing_adapters.reconciliation import Bookings, Capture, as_json, conservation, in_flight_of, render
from billing_adapters.reconciliation.statement import (
    EQUATIONS,
    UNEXPLAINED,
    collection_rows,
    count_rows,
    money_rows,
    period_text,
)
from metering.lake import Lake
from metering.periods import parse_period
from metering.usage import Snapshot, open_evidence
from tests.billing_adapters.runs import no_bookings
from tests.billing_adapters.world import (
    AFTER,
    CATALOG,
    OCTOBER,
    World,
    event,
    figures,
    found,
    letter,
    statement_of,
    terms,
)
from tests.rated import terms_of

ONE = Decimal(1)


def test_every_row_is_in_exactly_one_bucket() -> None:
    world = World()
    world.write(event(), event(), letter(), letter("unknown_meter", "acme", "7"))
    world.write(event(key="k", quantity="2"), event(key="k", quantity="2"), event(day=30, month=9))
    world.write(event(quantity="5"), letter(), is_shipped=False)
    statement = statement_of(world)

    assert figures(statement, "recorded") == {
        "recorded": (9, Decimal(18)),
        "stored": (3, Decimal(4)),
        "duplicate": (1, Decimal(2)),
        "dead_lettered": (2, Decimal(7)),
        "in_flight": (2, Decimal(5)),
    } | {"recorded": (8, Decimal(18))}
    assert statement.verdict == "conserved"
    assert statement.unexplained.is_zero
    assert found(statement) == {
        ("DEAD_LETTER", None, None, "bad_quantity", 1),
        ("DEAD_LETTER", "acme", "calls", "unknown_meter", 1),
    }


def test_stored_usage_is_rated_or_says_why_not() -> None:
    world = World()
    world.write(
        event(),
        event("nobody", quantity="2"),
        event("late", quantity="3", day=9),
        event("late", quantity="4", day=10),
        event("idle", quantity="5"),
        event(meter="unsold", quantity="6"),
        event(meter="never heard of", quantity="7"),
        event(meter="tokens", quantity="8", attributes='{"model":"b"}'),
        event(meter="tokens", quantity="9", attributes='{"model":"a"}'),
    )
    statement = statement_of(world)

    assert figures(statement, "stored") == {
        "stored": (9, Decimal(45)),
        "rated": (3, Decimal(14)),
        "unknown_tenant": (1, Decimal(2)),
        "no_subscription": (2, Decimal(8)),
        "unpriced_meter": (3, Decimal(21)),
    }
    assert figures(statement, "stored", "tokens") == {
        "stored": (2, Decimal(17)),
        "rated": (1, Decimal(9)),
        "unpriced_meter": (1, Decimal(8)),
    }
    assert statement.verdict == "conserved"
    assert found(statement) == {
        ("UNKNOWN_TENANT", "nobody", "calls", "unknown_tenant", 1),
        ("NO_SUBSCRIPTION", "late", "calls", "no_subscription", 1),
        ("NO_SUBSCRIPTION", "idle", "calls", "no_subscription", 1),
        ("UNPRICED_METER", "acme", "unsold", "no_price", 1),
        ("UNPRICED_METER", "acme", "never heard of", "unknown_meter", 1),
        ("UNPRICED_METER", "acme", "tokens", "no_price", 1),
    }
    assert {finding.finding_class for finding in statement.findings} == {"AT_RISK"}


def test_figures_of_more_than_28_digits_add_up_to_the_last_one() -> None:
    # 12 million with all 21 decimals: a minus sign of Python's decimals would round it to 28 digits.
    amount, quantity = Decimal("12345678.123456789012345678901"), Decimal("12345678901234567890.123456789")
    rows = [
        *money_rows([("calls", "USD", "rated_value", amount), ("calls", "USD", "not_finalised", amount)]),
        *collection_rows("net", [("USD", "net", amount), ("USD", "invoiced", amount)]),
        *count_rows("stored", [("calls", "stored", 1, quantity), ("calls", "rated", 1, quantity)]),
    ]
    rests = [row for row in rows if row.bucket == UNEXPLAINED]
    assert len(rests) == 5
    assert [row for row in rests if row.rows or row.quantity or row.amount] == []


def test_one_key_with_two_payloads_is_a_finding() -> None:
    world = World()
    world.write(event(key="k"), event(key="k", quantity="9"), event(key="k"))
    statement = statement_of(world)
    assert found(statement) == {("DUPLICATE_CONFLICT", "acme", "calls", "other_payload", 1)}
    assert statement.verdict == "conserved"


def test_what_a_correction_names_is_voided_and_one_that_names_nothing_is_a_finding() -> None:
    world = World()
    void = {**event(quantity="0"), "correction": '{"key":"k","verb":"void"}'}
    lost = {**event(quantity="0"), "correction": '{"key":"mistyped","verb":"void"}'}
    world.write(event(key="k"), event(), void, lost)
    statement = statement_of(world)
    assert statement.verdict == "conserved"
    # The event that is named, and the two voids, which are no use by themselves.
    assert figures(statement, "stored")["voided"][0] == 3
    assert found(statement) == {("CORRECTION_UNMATCHED", "acme", "calls", "names_nothing", 1)}


@pytest.mark.parametrize(("before", "after", "refused"), [(0, None, 5), (None, 0, 20)])
def test_of_a_change_of_plan_each_plan_says_how_late_is_too_late(
    before: int | None, after: int | None, refused: int
) -> None:
    [sold] = CATALOG["plans"]
    plans = [
        {**sold, "version": version} | ({} if days is None else {"late_usage_days": str(days)})
        for version, days in (("1", before), ("2", after))
    ]
    [changed, *others] = CATALOG["subscriptions"]
    changes = [{"from": "2026-10-15", "version": "2"}]
    made = {**CATALOG, "plans": plans, "subscriptions": [{**changed, "changes": changes}, *others]}
    world = World()
    world.write(event(day=5), event(day=20))
    late = [{**row, "recorded_at": datetime(2026, 12, 1, tzinfo=UTC)} for row in world.stored()]

    statement = statement_of(world, stored=late, terms=terms_of(made))

    assert figures(statement, "stored") == {
        "stored": (2, Decimal(2)),
        "rated": (1, Decimal(1)),
        "late_usage_refused": (1, Decimal(1)),
    }
    [finding] = [row for row in statement.breaks.to_pylist() if row["control_id"] == "LATE_USAGE_REFUSED"]
    assert finding["occurred_at"] == datetime(2026, 10, refused, 12, tzinfo=UTC)


def test_dropped_events_are_lost_and_said_so() -> None:
    world = World()
    world.write(event())
    (trailer,) = world.trailers()
    statement = statement_of(world, trailers=[{**trailer, "dropped": 7}])
    assert found(statement) == {("DROPPED", None, None, "no_room", 7)}
    assert {finding.finding_class for finding in statement.findings} == {"LOST"}


def test_a_row_that_vanished_is_missing() -> None:
    world = World()
    world.write(event(), event(quantity="3"), event("late", quantity="5", day=12))
    statement = statement_of(world, stored=[row for row in world.stored() if row["quantity"] != 3])

    assert figures(statement, "recorded")["missing"] == (1, Decimal(3))
    assert statement.unexplained.is_zero
    assert statement.verdict == "breaks"
    assert found(statement) == {("SEQUENCE_GAP", "acme", "calls", "rows_missing", 1)}


def test_a_segment_that_vanished_whole_is_missing_by_the_chain_of_its_producer() -> None:
    world = World()
    world.write(event(), event())
    world.write(event(quantity="2"), event(quantity="3"), event(quantity="4"))
    world.write(event())
    statement = statement_of(
        world,
        stored=[row for row in world.stored() if row["segment"] != 2],
        trailers=[row for row in world.trailers() if row["segment"] != 2],
    )

    assert figures(statement, "recorded")["missing"] == (3, Decimal(0))
    assert figures(statement, "recorded", "") == {"recorded": (3, Decimal(0)), "missing": (3, Decimal(0))}
    assert statement.unexplained.is_zero
    assert statement.verdict == "breaks"
    assert found(statement) == {("SEQUENCE_GAP", None, None, "segment_absent", 3)}


@pytest.mark.parametrize("lost", [1, 2])
def test_the_first_and_the_last_segment_cannot_vanish_unseen(lost: int) -> None:
    world = World()
    world.write(event())
    world.write(event(), event())
    statement = statement_of(
        world,
        stored=[row for row in world.stored() if row["segment"] != lost],
        trailers=[row for row in world.trailers() if row["segment"] != lost],
    )
    assert statement.verdict == "breaks"
    rows = {1: 1, 2: None}[lost]
    assert found(statement) == {("SEQUENCE_GAP", None, None, "segment_absent", rows)}


def test_an_absent_segment_counts_only_where_it_may_have_been_recorded() -> None:
    world = World()
    for _ in range(3):
        world.write(event())
    trailers = [row for row in world.trailers() if row["segment"] != 2]
    stored = [row for row in world.stored() if row["segment"] != 2]
    assert statement_of(world, stored=stored, trailers=trailers).verdict == "breaks"
    for row in trailers:
        row["sealed_at"] = row["sealed_at"].replace(month=8)
        row["totals"] = [{**total, "event_date": total["event_date"].replace(month=8)} for total in row["totals"]]
    stored = [{**row, "event_time": row["event_time"].replace(month=8)} for row in stored]
    assert statement_of(world, stored=stored, trailers=trailers).verdict == "conserved"


def test_a_doubled_row_is_unexplained_and_hides_no_missing_one() -> None:
    world = World()
    world.write(event(quantity="2"), event(quantity="2"), event(quantity="2"))
    rows = world.stored()
    doubled = statement_of(world, stored=[*rows, rows[0]])
    assert (doubled.unexplained.rows, doubled.unexplained.quantity) == (1, Decimal(2))
    assert doubled.verdict == "breaks"

    swapped = statement_of(world, stored=[rows[0], rows[0], rows[2]])
    assert figures(swapped, "recorded")["missing"] == (1, Decimal(2))
    assert swapped.unexplained.rows == 1
    assert found(swapped) == {
        ("SEQUENCE_GAP", "acme", "calls", "rows_missing", 1),
        ("BATCH_TOTALS", "acme", "calls", "rows_not_promised", 1),
    }


def test_changed_quantities_do_not_cancel_out() -> None:
    world = World()
    world.write(event(quantity="5"), event("late", quantity="5", day=12))
    first, second = world.stored()
    altered = [{**first, "quantity": Decimal(6)}, {**second, "quantity": Decimal(4)}]
    statement = statement_of(world, stored=altered)
    assert statement.verdict == "breaks"
    assert found(statement) == {
        ("BATCH_TOTALS", "acme", "calls", "quantity_differs", 0),
        ("BATCH_TOTALS", "late", "calls", "quantity_differs", 0),
    }


def test_differences_of_two_meters_do_not_cancel_out() -> None:
    world = World()
    world.write(event(), event(meter="tokens", attributes='{"model":"a"}'))
    calls, _tokens = world.stored()
    statement = statement_of(world, stored=[{**calls, "quantity": Decimal(3)}, {**_tokens, "quantity": Decimal(-1)}])
    total = statement.row("recorded", UNEXPLAINED)
    assert total is not None
    assert total.quantity == 0
    assert statement.unexplained.quantity == 4
    assert statement.verdict == "breaks"


def test_a_trailer_that_contradicts_itself_breaks() -> None:
    world = World()
    world.write(event())
    world.write(event())
    first, second = world.trailers()
    assert statement_of(world, trailers=[{**first, "rows": 2}, {**second, "rows_before": 2}]).unexplained.rows == 1
    statement = statement_of(world, trailers=[first, {**second, "rows_before": 0}])
    assert statement.unexplained.rows == 1
    assert found(statement) == {("BATCH_TOTALS", None, None, "rows_overlap", -1)}


def test_a_trailer_that_the_next_segment_does_not_know_breaks_the_chain() -> None:
    world = World()
    for _ in range(3):
        world.write(event())
    first, second, third = world.trailers()
    assert statement_of(world).verdict != "breaks"
    changed = {**second, "trailer_sha256": "0" * 64}
    statement = statement_of(world, trailers=[first, changed, third])
    assert found(statement) == {("BATCH_TOTALS", None, None, "chain_broken", 0)}
    # Segments of earlier releases have no hash of their own: nobody can say.
    assert not found(statement_of(world, trailers=[first, {**second, "trailer_sha256": None}, third]))
    # A segment that never arrived is missing; nobody changed its neighbours.
    assert "chain_broken" not in {reason for *_, reason, _ in found(statement_of(world, trailers=[first, third]))}


def test_a_segment_that_was_shipped_while_the_journal_was_read_counts_once() -> None:
    world = World()
    batch = world.write(event(quantity="2"), letter())
    world.in_journal.append(batch)
    statement = statement_of(world)
    stored = {"stored": (1, Decimal(2)), "dead_lettered": (1, Decimal(0))}
    assert figures(statement, "recorded") == {"recorded": (2, Decimal(2)), **stored}
    # Its trailer may be there before its events are: an append that was cut short, to be repaired by the next one.
    ahead = statement_of(world, stored=[], snapshot=Snapshot(()))
    assert figures(ahead, "recorded") == {"recorded": (2, Decimal(2)), "in_flight": (2, Decimal(2))}
    assert statement.verdict == ahead.verdict == "conserved"


def test_an_empty_world_is_conserved() -> None:
    statement = statement_of(World())
    assert statement.verdict == "conserved"
    assert figures(statement, "recorded") == {}


def test_a_total_that_does_not_fit_is_a_named_error() -> None:
    world = World()
    for _ in range(2):
        world.write(event("nobody", quantity="9" * 29))
    with pytest.raises(TotalOverflow, match="29 digits"):
        statement_of(world)


# --- money -----------------------------------------------------------------------------------------------------------


def money(world: World, bookings: Bookings | None = None, meter: str | None = None) -> dict[str, Decimal]:
    statement = statement_of(world, bookings=bookings)
    return {
        row.bucket: row.amount
        for row in statement.rows
        if row.equation == "rated_value" and row.meter == meter and row.amount
    }


def book(world: World, position: int = 1, before: Bookings | None = None) -> Bookings:
    """Book what October is worth now, as a close does."""
    import pyarrow as pa

    from metering.usage import load_events
    from rating.rate import BOOKED_LINE_COLUMNS, rate, subtract_booked
    from rating.terms import billing_spans
    from tests.rated import engine

    earlier = before or Bookings(*no_bookings(), is_complete=False)
    asked = engine()
    load_events(asked, pa.concat_tables([batch.events for batch in world.shipped]))
    rate(asked, terms(), billing_spans(terms(), OCTOBER), AFTER)
    subtract_booked(asked, earlier.lines, earlier.charges, f"close-{position}")
    columns = ", ".join(BOOKED_LINE_COLUMNS)
    lines = asked.sql(f"SELECT {columns}, {position}::BIGINT AS booking FROM invoice_line").to_arrow_table()
    charges = asked.sql(
        "SELECT line.subscription_id, line.period_start, line.service_start, line.currency, line.price_id,"
        " line.group_key, charge.cell_key, charge.tier, charge.part, charge.unit_price, charge.quantity, charge.exact_amount"
        " FROM line_charge AS charge JOIN invoice_line AS line USING (line_id)"
    ).to_arrow_table()
    return Bookings(
        pa.concat_tables([earlier.lines, lines.cast(earlier.lines.schema)]),
        pa.concat_tables([earlier.charges, charges.cast(earlier.charges.schema)]),
        is_complete=True,
    )


def test_worth_is_not_finalised_then_invoiced_then_corrected() -> None:
    world = World()
    world.write(event(quantity="1234"))
    # A whole seat for acme, 22 of 31 days for late, and 1234 calls at 0.001.
    seats = Decimal("17.096774193548387096774")
    worth = seats + Decimal("1.234")
    assert money(world) == {"rated_value": worth, "not_finalised": worth}

    booked = book(world)
    carried = worth - Decimal("18.33")
    assert money(world, booked) == {"rated_value": worth, "invoiced": Decimal("18.33"), "carried": carried}

    world.write(event(quantity="1000"))
    late = money(world, booked)
    assert late["waiting_corrections"] == 1
    assert late["rated_value"] == worth + 1

    again = book(world, 2, booked)
    corrected = money(world, again)
    assert "waiting_corrections" not in corrected
    assert corrected["invoiced"] == Decimal("19.33")
    assert money(world, again, "calls") == {
        "rated_value": Decimal("2.234"),
        "invoiced": Decimal("2.23"),
        "carried": Decimal("0.004"),
    }


@pytest.mark.parametrize("column", ["amount", "exact_amount"])
def test_a_booked_line_that_was_edited_is_unexplained(column: str) -> None:
    import pyarrow as pa

    world = World()
    world.write(event(quantity="1234"))
    booked = book(world)
    rows = booked.lines.to_pylist()
    edited = [{**row, column: row[column] - ONE} if row["price_id"] == "calls" else row for row in rows]
    statement = statement_of(
        world, bookings=replace(booked, lines=pa.Table.from_pylist(edited, schema=booked.lines.schema))
    )
    assert statement.verdict == "breaks"
    assert found(statement) == {("ROUNDING_RESIDUAL", "acme", "calls", "booked_line_differs", 1)}
    assert statement.unexplained.amount != {"USD": 0} or column == "exact_amount"


# --- shape -----------------------------------------------------------------------------------------------------------


def test_json_has_every_bucket_with_numbers_as_text() -> None:
    world = World()
    world.write(event(quantity="1.500"), letter())
    body = as_json(statement_of(world))

    assert body["verdict"] == "conserved"
    assert body["period"] == "2026-10"
    assert body["unexplained"] == {"rows": "0", "quantity": "0", "amount": {"USD": "0"}}
    totals = [row for row in body["conservation"] if row["meter"] is None]
    assert [(row["equation"], row["bucket"]) for row in totals] == [
        (equation, bucket) for equation, buckets in EQUATIONS.items() for bucket in (equation, *buckets, UNEXPLAINED)
    ]
    assert totals[0] == {
        "equation": "recorded",
        "meter": None,
        "bucket": "recorded",
        "rows": "2",
        "quantity": "1.5",
        "amount": None,
        "currency": None,
    }
    assert body["findings"][0]["class"] == "AT_RISK"
    assert body == as_json(statement_of(world))


def test_the_terminal_shows_names_as_they_are() -> None:
    world = World()
    world.write(event(meter="[red]=1+1[/red]", quantity="1234.5"), event())
    statement = statement_of(world, stored=world.stored()[:1])
    file = io.StringIO()
    Console(file=file, width=160).print(render(statement))
    shown = file.getvalue()
    assert "breaks" in shown
    assert "[red]=1+1[/red]" in shown
    assert "1,234.5" in shown
    assert "MISSING" in shown
    assert "SEQUENCE_GAP" in shown


def test_the_terminal_rolls_up_what_many_tenants_share() -> None:
    world = World()
    world.write(*[event(f"nobody-{n}", quantity="2.5") for n in range(1000)])
    statement = statement_of(world)
    file = io.StringIO()
    Console(file=file, width=200).print(render(statement))

    assert len(statement.findings) == 1000
    assert file.getvalue().count("UNKNOWN_TENANT") == 1
    assert "1,000 tenants" in file.getvalue()
    assert "2,500" in file.getvalue()
    assert "first nobody-0" in file.getvalue()


@pytest.mark.parametrize("text", ["2026", "2026-10", "2026-10-05", "2026-10-05..2026-11-02"])
def test_a_period_is_written_as_it_is_read(text: str) -> None:
    assert period_text(parse_period(text)) == text


def test_a_real_lake_is_conserved_until_a_data_file_is_left_out(tmp_path: Path) -> None:
    world = World()
    world.write(event(day=5), event(day=6, quantity="7"), letter())
    world.write(event(day=6, quantity="2", key="k"), event(day=6, quantity="2", key="k"))
    lake = Lake(tmp_path / "lake")
    lake.append(world.shipped)
    snapshot = Snapshot.of(lake.cut())
    capture = Capture(snapshot, lake.segments(), lake.dead_letters(), in_flight_of([]))
    files = lake.data_files()
    bookings = Bookings(*no_bookings(), is_complete=False)

    def verdict(used: list[str]) -> tuple[str, dict[str, tuple[int, Decimal]]]:
        engine = open_evidence(used, snapshot)
        try:
            statement = conservation(engine, OCTOBER, capture, terms(), bookings, as_of=AFTER)
        finally:
            engine.close()
        return statement.verdict, figures(statement, "recorded")

    assert verdict([file.path for file in files])[0] == "conserved"
    fifth = [file.path for file in files if str(file.event_date) == "2026-10-05"]
    name, buckets = verdict(fifth)
    assert name == "breaks"
    assert buckets["missing"] == (3, Decimal(11))
