"""A report to look at in tests: every class, two currencies, new and waived findings, a control that did not run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from billing_adapters.books import control_runs as control_runs_table
from billing_adapters.books import finding_events, findings, reconciliations, waivers
from billing_adapters.finding_decisions import acknowledge, recover, waive
from billing_adapters.findings import list_findings, list_waivers, record_run
from billing_adapters.reconciliation.report import Document, Report
from billing_adapters.reconciliation.statement import Statement, count_rows, money_rows
from metering.periods import parse_period
from tallybook.books import metadata, open_books
from tests.billing_adapters.found import NOW, OCTOBER, break_row, breaks, control_runs, run_of

TABLES = [waivers, findings, finding_events, reconciliations, control_runs_table]
DAY = timedelta(days=1)
EARLIER = NOW - 3 * DAY


@dataclass(frozen=True)
class Head:
    """What a report asks of a control's head."""

    compares: str = "what was used with what is priced"
    catches: str = "a <new> meter that no plan sells"
    act: str = "add a price to the plan"
    money: str = "E3"
    within: str | None = None
    finding_class: str = "AT_RISK"
    settings: tuple[Any, ...] = ()


def found_rows() -> list[dict[str, Any]]:
    """Return what the run found: lost 12.00, at risk 47.00, over-billed 15.00 USD and at risk 50.00 EUR, and more."""
    requests: dict[str, Any] = {"meter": "api_requests", "unit": "request"}
    nothing: dict[str, Any] = {"currency": None, "amount_low": None, "amount_likely": None, "amount_high": None}
    return [
        break_row(recover_by=NOW + timedelta(hours=30), detail='=cmd|"<script>alert(1)</script>'),
        break_row("SEQUENCE_GAP", "globex", **requests, reason="rows_missing", bucket="missing", amount="12.00",
                  quantity_difference=Decimal(1200), owner="ENG", estimate_basis="E1", **{"class": "LOST"}),
        break_row("UNKNOWN_TENANT", "acme-typo", **requests, reason="unknown_tenant", bucket="unknown_tenant",
                  amount="7.00", quantity_difference=Decimal(700), owner="OPS"),
        break_row("DELIVERY_DUPLICATE", "acme", **requests, reason="replayed", bucket="delivery_duplicate",
                  amount="15.00", owner="ENG", estimate_basis="EXACT", **{"class": "OVERBILL"}),
        break_row("DEDUPE_EXCESS", "acme", **requests, reason="other_payload", bucket="", amount="0.50",
                  amount_low=Decimal(0), owner="ENG"),
        break_row("BATCH_TOTALS", None, meter=None, reason="rows_overlap", bucket="batch_totals", owner="OPS",
                  estimate_basis="E4", quantity_difference=None, **nothing, **{"class": "DATA_QUALITY"}),
        break_row("DISCOUNT_EXPIRED", "initech", meter="tokens", reason="ended", bucket="discount_expired",
                  quantity_difference=None, amount="50.000000000000000000001", currency="EUR"),
        break_row("LATE_USAGE_REFUSED", "hooli", reason="late", bucket="late_usage_refused", amount="3.00"),
        break_row("NO_SUBSCRIPTION", "hooli", reason="ended", bucket="no_subscription", amount="900.00"),
    ]  # fmt: skip


def statement() -> Statement:
    """Return a statement with 1,200 missing usage events, and money in two currencies that adds up."""
    recorded = [
        ("api_requests", "recorded", 1_000_000, Decimal(1_000_000)),
        ("api_requests", "stored", 998_330, Decimal(998_330)),
        ("api_requests", "duplicate", 470, Decimal(470)),
        ("api_requests", "missing", 1200, Decimal(1200)),
        ("exports", "recorded", 20, Decimal(2000)),
        ("exports", "stored", 20, Decimal(2000)),
    ]
    stored = [
        ("api_requests", "stored", 998_330, Decimal(998_330)),
        ("api_requests", "rated", 997_630, Decimal(997_630)),
        ("api_requests", "unknown_tenant", 700, Decimal(700)),
        ("exports", "stored", 20, Decimal(2000)),
        ("exports", "unpriced_meter", 20, Decimal(2000)),
    ]
    money = [
        ("api_requests", "USD", "rated_value", Decimal("118432.1234")),
        ("api_requests", "USD", "invoiced", Decimal("118420.12")),
        ("api_requests", "USD", "carried", Decimal("0.0034")),
        ("api_requests", "USD", "waiting_corrections", Decimal("12.00")),
        ("", "EUR", "rated_value", Decimal(4100)),
        ("", "EUR", "invoiced", Decimal(4100)),
    ]
    rows = (*count_rows("recorded", recorded), *count_rows("stored", stored), *money_rows(money))
    return Statement(parse_period("2026-10"), rows, (), breaks(), control_runs())


def documents() -> tuple[Document, ...]:
    usd = {"currency": "USD", "document_type": "invoice", "issued_at": NOW}
    made = [
        Document("inv-1", "INV-1", account_id="acme-inc", total=Decimal(90_000), amount_of_period=Decimal(90_000),
                 delivery="delivered", adapters=("stripe",), payment="paid", paid=Decimal(90_000), **usd),
        Document("inv-2", "INV-2", account_id="globex", total=Decimal("27940.12"), payment="open", paid=Decimal(0),
                 amount_of_period=Decimal("27940.12"), delivery="delivered", adapters=("stripe",), **usd),
        Document("inv-3", "INV-3", account_id="initech", total=Decimal(480), amount_of_period=Decimal(480),
                 delivery="parked", adapters=("stripe",), **usd),
        Document("inv-4", "INV-4", "invoice", "umbrella", "EUR", Decimal(4100), Decimal(4100), NOW, "unsent"),
    ]  # fmt: skip
    return tuple(made)


def made_report() -> Report:
    """Return the report of the second run of October. The first saw three findings, and one that is gone since."""
    rows = found_rows()
    gone = break_row("ZERO_RATED", "globex", reason="free", bucket="zero_rated", amount="1.00")
    engine = open_books("sqlite://")
    metadata.create_all(engine, tables=TABLES)
    logged: list[dict[str, Any]] = [
        {"control_id": one, "result": "breaks", "breaks": 1, "findings": 1}
        for one in sorted({row["control_id"] for row in rows})
    ]
    read = {"name": "usage_event", "rows": 1_000_000, "content_hash": "ab" * 32, "newest": NOW, "is_stale": False}
    logged[0]["inputs"] = [{**read, "age_max_s": None}]
    logged += [
        {"control_id": "ZERO_RATED", "parameters": '{"share_max":"0.1"}'},
        {"control_id": "WITNESS_RATIO", "result": "not_possible", "explanation": "give a witness"},
        {"control_id": "PROVIDER_QUANTITY", "result": "not_run", "explanation": "its input is too old"},
    ]
    with engine.begin() as connection:
        first = breaks(*rows[:3], gone)
        record_run(connection, run_of(1, EARLIER), first, control_runs(*logged, run_id="run-1", as_of=EARLIER))
        acknowledge(connection, rows[0]["finding_id"], who="ben", why="asked product for a price", now=EARLIER + DAY)
    run = run_of(2, verdict="breaks")
    with engine.begin() as connection:
        seen = breaks(*({**row, "run_id": "run-2"} for row in rows))
        runs = control_runs(*logged, run_id="run-2")
        recorded = record_run(connection, run, seen, runs)
        words: Any = {"who": "ana", "now": NOW}
        until = NOW + 60 * DAY
        waive(connection, rows[7]["finding_id"], why="pilot", approved_by="ben", expires_at=until, **words)
        recover(connection, rows[8]["finding_id"], why="invoiced by hand", amount=Decimal("899.50"), **words)
        found = tuple(list_findings(connection, period=OCTOBER, with_history=True))
        waived = tuple(list_waivers(connection))
    engine.dispose()
    return Report(
        run=run, period="2026-10", statement=statement(), findings=found, runs=tuple(runs.to_pylist()),
        heads={"UNPRICED_METER": Head(), "DEDUPE_EXCESS": Head(within="DUPLICATE_CONFLICT")},
        new=recorded.new, cleared=recorded.cleared, reopened=recorded.reopened, before=run_of(1, EARLIER),
        found_before={"UNPRICED_METER": 1, "ZERO_RATED": 1}, waivers=waived, documents=documents(),
        list_values={
            ("USD", "list_value"): Decimal("120000.1234"),
            ("USD", "discounts"): Decimal(-2000),
            ("USD", "commitments"): Decimal(432),
        },
        billed={("acme", "USD"): Decimal(90_000), ("globex", "USD"): Decimal("27940.12")},
    )  # fmt: skip
