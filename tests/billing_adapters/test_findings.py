"""The life of findings: each step as a table, histories of runs and decisions as a property, both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from billing_adapters.books import control_runs as control_runs_table
from billing_adapters.books import finding_events, findings, reconciliations, waivers
from billing_adapters.errors import FindingNotOpen
from billing_adapters.finding_decisions import acknowledge, make_waiver, recover, reopen, review_run, waive
from billing_adapters.finding_life import (
    STATUSES,
    Cover,
    Facts,
    Standing,
    class_at,
    severity_of,
    steps,
    totals_by_status,
)
from billing_adapters.findings import Finding, list_findings, list_runs, list_waivers, record_run
from tallybook.books import metadata, open_books
from tests.billing_adapters.found import NOW, OCTOBER, break_row, breaks, control_runs, run_of
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)

TABLES = [waivers, findings, finding_events, reconciliations, control_runs_table]
DAY = timedelta(days=1)
CONTROL = "UNPRICED_METER"
BEFORE, AFTER = NOW - DAY, NOW + DAY


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    is_file = request.param == "sqlite"
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite" if is_file else request.getfixturevalue("postgres_url"))
    metadata.create_all(engine, tables=TABLES)
    yield engine
    engine.dispose()


def facts(amount: int = 40, control_class: str = "AT_RISK", recover_by: datetime | None = None) -> Facts:
    return Facts(
        CONTROL, "acme", "exports", "no_price", "key", OCTOBER, control_class, recover_by, Decimal(amount),
        Decimal(amount), "USD", Decimal(2000),
    )  # fmt: skip


def held(status: Any, finding_class: str = "AT_RISK", settled: int | None = None, **given: Any) -> Standing:
    waiver = "waiver-1" if status == "waived" else None
    return Standing(status, finding_class, facts(**given), waiver, None if settled is None else Decimal(settled))


COVERED = Cover("waiver-1")
OVER = Cover(None, "waiver-1 has expired")
# What is held, what the run says, whether it saw it, whether a waiver covers it; and the verbs, status, class of after.
LIFE: dict[str, tuple[Standing | None, Facts, Any, Cover, list[str], str, str]] = {
    "found": (None, facts(), "seen", Cover(), ["found"], "open", "AT_RISK"),
    "found too late": (
        None, facts(recover_by=BEFORE), "seen", Cover(), ["found", "expired"], "expired", "LOST"),
    "found and waived already": (None, facts(), "seen", COVERED, ["found", "waived"], "waived", "AT_RISK"),
    "seen again": (held("open"), facts(), "seen", Cover(), [], "open", "AT_RISK"),
    "grown": (held("acknowledged"), facts(50), "seen", Cover(), ["changed"], "acknowledged", "AT_RISK"),
    "gone": (held("open"), facts(), "absent", Cover(), ["cleared"], "cleared", "AT_RISK"),
    "gone though waived": (held("waived"), facts(), "absent", COVERED, ["cleared"], "cleared", "AT_RISK"),
    "gone after it was recovered": (held("recovered"), facts(), "absent", Cover(), [], "recovered", "AT_RISK"),
    "its control did not run": (held("open"), facts(), "unknown", Cover(), [], "open", "AT_RISK"),
    "back again": (held("cleared"), facts(), "seen", Cover(), ["reopened"], "open", "AT_RISK"),
    "still seen after it was recovered": (
        held("recovered", settled=40), facts(), "seen", Cover(), [], "recovered", "AT_RISK"),
    "more than was recovered": (
        held("recovered", settled=30), facts(), "seen", Cover(), ["reopened"], "open", "AT_RISK"),
    "waived": (held("open"), facts(), "seen", COVERED, ["waived"], "waived", "AT_RISK"),
    "the waiver ended": (held("waived"), facts(), "unknown", OVER, ["reopened"], "open", "AT_RISK"),
    "the waiver ended too late": (
        held("waived", recover_by=BEFORE), facts(recover_by=BEFORE), "seen", OVER,
        ["reopened", "expired"], "expired", "LOST"),
    "its deadline passed": (
        held("acknowledged"), facts(recover_by=NOW), "unknown", Cover(), ["expired"], "expired", "LOST"),
    "its deadline passed under a waiver": (
        held("waived"), facts(recover_by=NOW), "unknown", COVERED, ["changed"], "waived", "LOST"),
    "its deadline moved": (
        held("expired", "LOST"), facts(recover_by=AFTER), "seen", Cover(), ["reopened"], "open", "AT_RISK"),
    "timing overdue": (
        held("open", "TIMING", control_class="TIMING"), facts(control_class="TIMING", recover_by=BEFORE), "seen",
        Cover(), ["changed"], "open", "AT_RISK"),
    "over-billed for long": (
        held("open", "OVERBILL", control_class="OVERBILL"), facts(control_class="OVERBILL", recover_by=BEFORE),
        "seen", Cover(), [], "open", "OVERBILL"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIFE)
def test_each_step_of_a_finding(case: str) -> None:
    standing, seen, sighting, cover, verbs, status, finding_class = LIFE[case]
    made = steps(standing, seen, sighting, cover, NOW)
    assert [step.verb for step in made] == verbs
    after = made[-1].status if made else standing.status if standing else "open"
    assert after == status
    assert class_at(seen.control_class, seen.recover_by, NOW) == finding_class
    assert all(step.finding_class == finding_class for step in made)
    assert all(step.why for step in made if step.verb != "found")


def test_severity_follows_class_amount_and_hours_left() -> None:
    asked = [
        ("INFO", "99999", None),
        ("CONCESSION", "99999", None),
        ("DATA_QUALITY", None, None),
        ("AT_RISK", "12", None),
        ("AT_RISK", "100", None),
        ("AT_RISK", "12", NOW + timedelta(hours=3)),
        ("OVERBILL", "10000", None),
    ]
    said = [severity_of(one, None if amount is None else Decimal(amount), by, NOW) for one, amount, by in asked]
    assert said == ["info", "info", "low", "medium", "high", "critical", "critical"]


# --- in the books -----------------------------------------------------------------------------------------------------


def record(books: Engine, number: int, *rows: dict[str, Any], as_of: datetime = NOW, ran: Any = (CONTROL,)) -> Any:
    with books.begin() as connection:
        run = run_of(number, as_of)
        logged = control_runs(*({"control_id": one} for one in ran), run_id=run.run_id, as_of=as_of)
        return record_run(connection, run, breaks(*({**row, "run_id": run.run_id} for row in rows)), logged)


def read(books: Engine) -> dict[str, Finding]:
    with books.connect() as connection:
        return {one.finding_id: one for one in list_findings(connection, with_history=True)}


def test_a_finding_from_first_sight_to_recovery(books: Engine) -> None:
    row = break_row()
    assert record(books, 1, row).new == (row["finding_id"],)
    with books.begin() as connection:
        acknowledge(connection, row["finding_id"], who="ben", why="asked sales for a price", now=NOW)
    again = record(books, 2, break_row(amount="50.00"), as_of=AFTER)
    assert (again.new, again.cleared) == ((), ())
    with books.begin() as connection:
        recover(connection, row["finding_id"], who="ben", why="invoiced by hand", now=AFTER)
    (one,) = read(books).values()
    assert [event.verb for event in one.history] == ["found", "acknowledged", "changed", "recovered"]
    assert [event.by for event in one.history] == ["tallybook", "ben", "tallybook", "ben"]
    assert one.history[2].why == "2000 units, 40 USD became 2000 units, 50 USD"
    assert (one.first_seen, one.last_seen, one.run_id) == (NOW, AFTER, "run-2")
    assert (one.amount_likely, one.settled_amount, one.evidence_sample) == (50, 50, ("prod-1 #3 17",))
    assert (one.period_start, one.period_end, one.recover_by) == (*OCTOBER, None)
    more = record(books, 3, break_row(amount="60.00"), as_of=AFTER + DAY)
    assert more.reopened == (row["finding_id"],)
    assert record(books, 4, as_of=AFTER + 2 * DAY).cleared == (row["finding_id"],)
    assert record(books, 4, as_of=AFTER + 2 * DAY).was_there
    with books.connect() as connection:
        assert [run.run_id for run in list_runs(connection, OCTOBER)] == ["run-4", "run-3", "run-2", "run-1"]


def test_a_control_that_did_not_run_clears_nothing(books: Engine) -> None:
    row = break_row()
    record(books, 1, row)
    with books.begin() as connection:
        logged = control_runs(
            {"control_id": CONTROL, "result": "not_run", "explanation": "its SQL failed"}, run_id="run-2"
        )
        record_run(connection, run_of(2), breaks(), logged)
    assert read(books)[row["finding_id"]].status == "open"
    assert record(books, 3, ran=("SEQUENCE_GAP",)).cleared == ()


def test_rows_of_another_run_are_refused(books: Engine) -> None:
    with books.begin() as connection, pytest.raises(ValueError, match="of run-1, not of run-2"):
        record_run(connection, run_of(2), breaks(break_row()), control_runs(run_id="run-2"))


def test_a_waiver_covers_until_its_ceiling_and_its_end(books: Engine) -> None:
    small, large = break_row(amount="10.00"), break_row(tenant_id="globex", amount="5.00")
    with books.begin() as connection:
        make_waiver(
            connection, control_id=CONTROL, why="agreed pilot", created_by="ana", approved_by="ben", now=NOW,
            expires_at=NOW + 3 * DAY, amount_max=Decimal("15.00"), currency="USD",
        )  # fmt: skip
    record(books, 1, small, large)
    assert {one.status for one in read(books).values()} == {"waived"}
    grown = break_row(tenant_id="globex", amount="5.01")
    assert len(record(books, 2, small, grown, as_of=AFTER).reopened) == 2
    assert "covers 15 USD" in read(books)[small["finding_id"]].history[-1].why
    record(books, 3, small, large, as_of=AFTER + DAY)
    assert {one.status for one in read(books).values()} == {"waived"}
    # Nobody looks at it in this run; time alone ends the waiver.
    assert len(record(books, 4, as_of=NOW + 3 * DAY, ran=()).reopened) == 2
    assert read(books)[small["finding_id"]].history[-1].why.endswith("has expired")


def test_a_waiver_of_another_currency_covers_nothing(books: Engine) -> None:
    with books.begin() as connection:
        make_waiver(
            connection, control_id=CONTROL, why="pilot", created_by="ana", approved_by="ben", now=NOW,
            expires_at=AFTER, amount_max=Decimal(1000), currency="EUR",
        )  # fmt: skip
    row = break_row()
    record(books, 1, row)
    assert read(books)[row["finding_id"]].status == "open"


def test_what_is_waived_by_hand_may_not_grow_and_can_be_opened_again(books: Engine) -> None:
    row = break_row()
    record(books, 1, row)
    until = NOW + 9 * DAY
    with books.begin() as connection:
        one = waive(connection, row["finding_id"], who="ana", why="pilot", approved_by="ben", expires_at=until, now=NOW)
    assert one.status == "waived"
    record(books, 2, row, as_of=AFTER)
    assert read(books)[row["finding_id"]].status == "waived"
    assert record(books, 3, break_row(amount="40.01"), as_of=AFTER).reopened
    record(books, 4, row, as_of=AFTER)
    with books.begin() as connection:
        reopen(connection, row["finding_id"], who="eve", why="the pilot is over", now=AFTER)
        (waiver,) = list_waivers(connection)
    assert (waiver.ended_by, waiver.ended_why) == ("eve", "the pilot is over")
    record(books, 5, row, as_of=AFTER + DAY)
    assert read(books)[row["finding_id"]].status == "open"


def test_a_deadline_that_passes_makes_it_lost_though_nobody_looks(books: Engine) -> None:
    row = break_row(recover_by=NOW + timedelta(hours=1))
    record(books, 1, row)
    assert record(books, 2, as_of=AFTER, ran=()).expired == (row["finding_id"],)
    one = read(books)[row["finding_id"]]
    assert (one.status, one.finding_class, one.control_class) == ("expired", "LOST", "AT_RISK")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no reason": ({"why": " "}, "reason"),
    "nobody": ({"who": ""}, "somebody"),
    "approved by oneself": ({"approved_by": "Ana"}, "another person"),
    "for ever": ({"expires_at": NOW}, "future"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_waiver_that_nobody_stands_for_is_refused(books: Engine, case: str) -> None:
    changed, said = REFUSED[case]
    row = break_row()
    record(books, 1, row)
    words: Any = {"who": "ana", "why": "pilot", "approved_by": "ben", "expires_at": AFTER, "now": NOW, **changed}
    with books.begin() as connection, pytest.raises(ValueError, match=said):
        waive(connection, row["finding_id"], **words)
    assert read(books)[row["finding_id"]].status == "open"


def test_decisions_that_the_status_does_not_allow_are_refused(books: Engine) -> None:
    row = break_row()
    record(books, 1, row)
    words: Any = {"who": "ana", "why": "so", "now": NOW}
    with books.begin() as connection:
        with pytest.raises(FindingNotOpen, match="only what is"):
            reopen(connection, row["finding_id"], **words)
        recover(connection, row["finding_id"], **words)
        with pytest.raises(FindingNotOpen, match="is recovered"):
            acknowledge(connection, row["finding_id"], **words)
        with pytest.raises(FindingNotOpen, match="no finding"):
            acknowledge(connection, "find-nope", **words)


def test_a_reconciliation_is_reviewed_by_another(books: Engine) -> None:
    record(books, 1)
    with books.begin() as connection:
        with pytest.raises(ValueError, match="another person"):
            review_run(connection, "run-1", who="Ana", now=NOW)
        assert review_run(connection, "run-1", who="ben", now=NOW).reviewer == "ben"


# --- any history ------------------------------------------------------------------------------------------------------

TENANTS = ["acme", "globex", "initech"]
RUNS = st.tuples(
    st.just("run"),
    st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 30), max_size=3),
    st.booleans(),
)
DECIDED = st.tuples(
    st.sampled_from(["acknowledge", "recover", "waive", "reopen"]), st.sampled_from(TENANTS), st.integers(1, 5)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.one_of(RUNS, DECIDED), max_size=10))
def test_no_history_loses_a_finding_or_a_step(history: list[Any]) -> None:
    """Whatever runs and people do: steps are only appended, nothing found is lost, statuses add up, each status is told."""
    engine = open_books("sqlite://")
    metadata.create_all(engine, tables=TABLES)
    now, number, told, ever = NOW, 0, [], set()
    for verb, subject, size in history:
        now += timedelta(hours=7)
        if verb == "run":
            number += 1
            rows = [break_row(tenant_id=one, amount=amount, recover_by=NOW + DAY) for one, amount in subject.items()]
            ever |= {row["finding_id"] for row in rows}
            # A control that breaks has run; only where nothing was seen may it have failed.
            record(engine, number, *rows, as_of=now, ran=(CONTROL,) if rows or size else ())
        else:
            decide(engine, verb, subject, size, now)
        with engine.connect() as connection:
            lines = [tuple(row) for row in connection.execute(select(finding_events))]
        assert set(told) <= set(lines), "a step was changed or removed"
        told = lines
        found = read(engine)
        assert set(found) == ever
        assert sum(totals_by_status(one.status for one in found.values()).values()) == len(found)
        for one in found.values():
            assert [event.number for event in one.history] == list(range(1, len(one.history) + 1))
            assert (one.history[0].verb, one.history[-1].status) == ("found", one.status)
            assert (one.finding_class == "LOST") == (one.status == "expired") or one.status not in STATUSES[:2]
            assert one.first_seen <= one.last_seen <= now
            assert (one.waiver_id is not None) == (one.status == "waived")
    engine.dispose()


def decide(engine: Engine, verb: str, tenant: str, days: int, now: datetime) -> None:
    finding_id = break_row(tenant_id=tenant)["finding_id"]
    words: Any = {"who": "ana", "why": "so", "now": now}
    try:
        with engine.begin() as connection:
            match verb:
                case "acknowledge":
                    acknowledge(connection, finding_id, **words)
                case "recover":
                    recover(connection, finding_id, **words, amount=Decimal(days))
                case "waive":
                    waive(connection, finding_id, **words, approved_by="ben", expires_at=now + days * DAY / 4)
                case _:
                    reopen(connection, finding_id, **words)
    except FindingNotOpen:
        pass
