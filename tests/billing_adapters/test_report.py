"""The report: its figures by hand, each form against the JSON, no script, the same bytes, cells with real types."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openpyxl import load_workbook

from billing_adapters.reconciliation.report import (
    Bar,
    Report,
    ages,
    by_control,
    coverage,
    time_left,
    top,
    totals,
    waterfall_of_events,
    waterfall_of_money,
)
from billing_adapters.reconciliation.report_files import tables, write_report_workbook, write_tables
from billing_adapters.reconciliation.report_json import report_json
from billing_adapters.reconciliation.report_page import report_page
from billing_adapters.reconciliation.words import BUCKETS
from tests.billing_adapters.found import NOW
from tests.billing_adapters.reports import made_report

report = cache(made_report)


def workbook(of: Report) -> bytes:
    file = io.BytesIO()
    write_report_workbook(of, file)
    return file.getvalue()


def test_three_numbers_per_currency_never_netted_and_never_twice() -> None:
    usd, eur = totals(report())["USD"], totals(report())["EUR"]
    # DEDUPE_EXCESS, 0.50, looks at units that another control counts.
    assert (usd.lost, usd.at_risk, usd.over_billed) == (12, 47, 15)
    assert (usd.waived, usd.recovered) == (3, Decimal("899.50"))
    assert (eur.lost, eur.at_risk, eur.over_billed) == (0, Decimal("50.000000000000000000001"), 0)
    assert usd.recover_by is not None
    assert (usd.recover_by - NOW).total_seconds() == 30 * 3600
    assert eur.recover_by is None


def test_the_waterfall_goes_from_recorded_to_collected() -> None:
    money = waterfall_of_money(report(), "USD").bars
    assert [(bar.bucket, bar.kind, bar.figure) for bar in money] == [
        ("list_value", "level", Decimal("120000.1234")),
        ("commitments", "explained", Decimal(-432)),
        ("discounts", "explained", Decimal(2000)),
        ("rated_value", "level", Decimal("118432.1234")),
        ("carried", "explained", Decimal("0.0034")),
        ("waiting_corrections", "explained", Decimal(12)),
        ("invoiced", "level", Decimal("118420.12")),
        ("parked", "finding", Decimal(480)),
        ("delivered", "level", Decimal("117940.12")),
        ("unpaid", "explained", Decimal("27940.12")),
        ("collected", "level", Decimal(90_000)),
    ]
    events = waterfall_of_events(report()).bars
    assert [(bar.bucket, bar.kind, bar.figure) for bar in events] == [
        ("recorded", "level", 1_000_020),
        ("duplicate", "explained", 470),
        ("missing", "unexplained", 1200),
        ("stored", "level", 998_350),
        ("unknown_tenant", "finding", 700),
        ("unpriced_meter", "finding", 20),
        ("rated", "level", 997_630),
    ]


@pytest.mark.parametrize("currency", ["USD", "EUR"])
def test_between_two_levels_everything_that_leaves_adds_up(currency: str) -> None:
    running = None
    for bar in (*waterfall_of_money(report(), currency).bars, *waterfall_of_events(report()).bars):
        if running is None or bar.bucket == "recorded" or (currency, bar.bucket) == ("EUR", "rated_value"):
            running = bar.figure
        elif bar.kind == "level":
            assert bar.figure == running
        else:
            running -= bar.figure
        assert bar.bucket in BUCKETS


def test_a_document_that_vanished_is_unexplained() -> None:
    fewer = replace(report(), documents=report().documents[1:])
    assert Bar("unexplained", "unexplained", Decimal(90_000)) in waterfall_of_money(fewer, "USD").bars


def test_ages_deadlines_and_tops_are_of_what_nobody_dealt_with() -> None:
    assert [row for row in ages(report(), "USD") if row[1]] == [
        ("0-1 day", 1, Decimal(15)),
        ("2-7 days", 3, Decimal(59)),
    ]
    assert [row for row in time_left(report(), "USD") if row[1]] == [
        ("under 7 days", 1, Decimal(40)),
        ("no deadline known", 2, Decimal(19)),
    ]
    assert top(report(), "USD", "tenant_id") == [("acme", 1, 40), ("globex", 1, 12), ("acme-typo", 1, 7)]
    assert top(report(), "USD", "meter") == [("exports", 1, 40), ("api_requests", 2, 19)]
    lines = {line.control_id: line for line in by_control(report())}
    assert (lines["UNPRICED_METER"].before, lines["SEQUENCE_GAP"].before) == (1, 0)
    assert lines["DEDUPE_EXCESS"].is_within
    assert (coverage(report()).due, coverage(report()).not_run, coverage(report()).not_possible) == (11, 1, 1)
    # What a control found before is not said of one of its lines, where it has two.
    [one] = [one for one in report().findings if one.control_id == "UNPRICED_METER"]
    two = replace(report(), findings=(one, replace(one, currency="EUR")))
    assert [(line.currency, line.before) for line in by_control(two)] == [("EUR", None), ("USD", None)]


def test_json_keeps_its_contract() -> None:
    body = json.loads(json.dumps(report_json(report())))
    assert body["verdict"] == "breaks"
    wanted = {
        "finding_id", "control_id", "class", "tenant_id", "meter", "quantity_difference", "amount_low",
        "amount_likely", "amount_high", "currency", "estimate_basis", "recover_by", "status",
    }  # fmt: skip
    assert all(wanted <= one.keys() for one in body["findings"])
    assert all({"control_id", "result"} <= one.keys() for one in body["controls"])
    assert sum(body["findings_by_status"].values()) == len(body["findings"]) == 10
    (one,) = (one for one in body["findings"] if one["currency"] == "EUR")
    assert (one["amount_likely"], one["status"]) == ("50.000000000000000000001", "open")
    assert [event["verb"] for event in body["findings"][0]["history"]] == ["found", "acknowledged"]
    assert (len(body["new"]), len(body["cleared"]), body["reopened"]) == (6, 1, [])


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds: tags, values of figures, texts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.figures: set[str] = set()
        self.addresses: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if (tag, name) == ("data", "value") or name == "data-value":
                self.figures.add(str(value))
            if name in {"href", "src"}:
                self.addresses.append(str(value))


def test_the_page_has_no_script_and_leads_nowhere_else() -> None:
    page = report_page(report())
    read = Page(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(read.tags)
    assert all(address.startswith("#") for address in read.addresses)
    assert "<script>alert" not in page.decode()
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", page.decode())
    assert len(page) < 200_000


def test_links_on_the_page_lead_to_something_on_it() -> None:
    page = report_page(report()).decode()
    for target in set(re.findall(r'href="#([^"]+)"', page)):
        assert f'id="{target}"' in page, target


def figures_of(value: Any) -> set[str]:
    """Return every number that a JSON document has."""
    if isinstance(value, dict):
        return set().union(*map(figures_of, value.values()), {str(len(value))})
    if isinstance(value, list):
        return set().union(*map(figures_of, value), {str(len(value))})
    return set() if isinstance(value, bool) or value is None else {str(value)}


def test_every_figure_of_the_page_is_one_of_the_json() -> None:
    body = report_json(report())
    known = figures_of(body)
    # Two counts of the head are sums of counts that JSON has.
    by_status = body["findings_by_status"]
    known.add(str(by_status["open"] + by_status["acknowledged"] + by_status["expired"]))
    known.add(str(body["coverage"]["passed"] + body["coverage"]["breaks"]))
    figures = Page(report_page(report())).figures
    assert len(figures) > 35
    assert figures <= known, sorted(figures - known)


def test_every_finding_is_on_the_page_down_to_its_evidence() -> None:
    page = report_page(report()).decode()
    for one in report().findings:
        assert f'id="{one.finding_id}"' in page
    for said in ("Does not balance: 1,200 usage events are missing; 1 control that was due did not run.",
                 "give a witness", "its input is too old", "asked product for a price", "prod-1 #3 17",
                 "approved by ben", "a &lt;new&gt; meter", "add a price to the plan", "3 Nov 2026 12:00 UTC"):  # fmt: skip
        assert said in page, said


# --- bytes and cells --------------------------------------------------------------------------------------------------


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    again = made_report()
    assert report_page(report()) == report_page(again)
    assert workbook(report()) == workbook(again)
    for folder, of in ((tmp_path / "a", report()), (tmp_path / "b", again)):
        write_tables(of, folder, "csv")
        write_tables(of, folder, "parquet")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 8
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_workbook_has_numbers_and_dates_as_such_and_text_that_is_no_formula() -> None:
    book = load_workbook(io.BytesIO(workbook(report())))
    assert book.sheetnames == ["Summary", "Waterfall", "Findings", "History", "Tie-outs", "Invoice register",
                               "Roll-forwards", "Control log", "Parameters"]  # fmt: skip
    header, *rows = book["Findings"].iter_rows(values_only=True)
    lines = [dict(zip(header, row, strict=True)) for row in rows]
    of = {line["finding_id"]: line for line in lines}
    one = next(one for one in report().findings if one.control_id == "UNPRICED_METER")
    line = of[one.finding_id]
    assert (line["amount_likely"], line["quantity_difference"]) == (40, 2000)
    assert line["recover_by (UTC)"] == datetime(2026, 11, 3, 12, tzinfo=UTC).replace(tzinfo=None)
    assert (line["period_start"].date(), line["period_end"].date()) == (one.period_start, one.period_end)
    (cell,) = (cell for row in book["Findings"].iter_rows() for cell in row if str(cell.value).startswith("=cmd"))
    assert cell.data_type == "s"
    # More digits than a cell can hold stay text, all of them.
    assert {line["amount_likely"] for line in lines if line["currency"] == "EUR"} == {"50.000000000000000000001"}
    summary = {row[0]: row for row in book["Summary"].iter_rows(values_only=True) if row[0] in {"USD", "EUR"}}
    assert summary["USD"][:4] == ("USD", 12, 47, 15)
    ties = list(book["Tie-outs"].iter_rows(values_only=True))
    assert all(row[-1] == 0 for row in ties[1:])


def test_csv_and_parquet_hold_every_finding_with_every_digit(tmp_path: Path) -> None:
    write_tables(report(), tmp_path, "csv")
    write_tables(report(), tmp_path, "parquet")
    with (tmp_path / "findings.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["finding_id"]: line for line in csv.DictReader(file)}
    stored = {row["finding_id"]: row for row in pq.read_table(tmp_path / "findings.parquet").to_pylist()}
    assert lines.keys() == stored.keys() == {one.finding_id for one in report().findings}
    for one in report().findings:
        assert stored[one.finding_id]["amount_likely"] == one.amount_likely
        text = lines[one.finding_id]["amount_likely"]
        assert (Decimal(text) if text else None) == one.amount_likely
        assert lines[one.finding_id]["detail"] == (f"'{one.detail}" if one.detail.startswith("=") else one.detail)
    assert tables(report())["Roll-forwards"]["unbilled"].to_pylist() == [0, 12]
