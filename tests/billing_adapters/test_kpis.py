"""The figures by which a reconciliation is judged: each by hand, the same in every form, and none of nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache

import pytest
from openpyxl import load_workbook
from rich.console import Console

from billing_adapters.reconciliation.kpis import Kpi, detection_lag, kpis
from billing_adapters.reconciliation.report_files import write_report_workbook
from billing_adapters.reconciliation.report_json import report_json
from billing_adapters.reconciliation.report_page import report_page
from billing_adapters.reconciliation.report_terminal import report_table
from billing_adapters.reconciliation.statement import collection_rows
from billing_adapters.reconciliation.words import KPIS
from tests.billing_adapters.reports import made_report

report = cache(made_report)

BY_HAND = {
    # 1,200 of 1,000,020 usage events; no dead letter; 997,630 of 998,350 are rated; 10 of 11 controls that were due ran.
    ("loss rate", None): ("1200", "1000020", "0.12 %"),
    ("reject rate", None): ("0", "1000020", "0.00 %"),
    ("rating yield", None): ("997630", "998350", "99.93 %"),
    ("control coverage", None): ("10", "11", "90.91 %"),
    # 12.00 lost and 47.00 at risk beside 118,420.12 invoiced; over-billing is not netted, what is waived or recovered is no leak.
    ("leakage", "USD"): ("59.00", "118479.12", "0.05 %"),
    ("recovered", "USD"): ("899.50", "118420.12", "0.76 %"),
    ("recoverable", "USD"): ("47.00", "118420.12", "0.04 %"),
    ("realisation", "USD"): ("118420.12", "120000.1234", "98.68 %"),
    ("collection rate", "USD"): ("90000", "117940.12", "76.31 %"),
    ("leakage", "EUR"): ("50.000000000000000000001", "4150.000000000000000000001", "1.20 %"),
    ("recovered", "EUR"): ("0", "4100", "0.00 %"),
    ("recoverable", "EUR"): ("50.000000000000000000001", "4100", "1.22 %"),
}


def test_every_figure_is_the_one_by_hand() -> None:
    found = {(one.name, one.currency): (one.part, one.whole, one.percent) for one in kpis(report())}
    assert found == {key: (Decimal(part), Decimal(whole), said) for key, (part, whole, said) in BY_HAND.items()}
    elsewhere = {"delivery completeness", "capture rate", "unbilled rate", "late usage share", "statements verified"}
    assert {name for name, _ in found} | elsewhere == set(KPIS)


def test_what_is_counted_in_tables_is_said_as_it_was_counted() -> None:
    counted = {
        ("capture rate", None): (Decimal("3499.5"), Decimal(4000)),
        ("unbilled rate", None): (Decimal(1), Decimal(300)),
        ("late usage share", "USD"): (Decimal("0.000000000000000000001"), Decimal(7)),
        ("late usage share", "EUR"): (Decimal(0), Decimal(0)),
    }
    found = {(one.name, one.currency): one.percent for one in kpis(replace(report(), shares=counted))}
    assert found["capture rate", None] == "87.49 %"
    assert found["unbilled rate", None] == "0.33 %"
    assert found["late usage share", "USD"] == "under 0.01 %"
    assert ("late usage share", "EUR") not in found


def test_a_statement_is_verified_when_it_was_read_and_nothing_is_left_to_settle() -> None:
    [open_one, waived] = [
        next(one for one in report().findings if one.status == status) for status in ("open", "waived")
    ]
    findings = (replace(open_one, adapter="aws"), replace(waived, adapter="stripe"))
    told = replace(report(), findings=findings, statements={"aws": True, "files": False, "stripe": True})
    # Of aws something is open, the list of files was not read; what two people waived at stripe is settled.
    [one] = [one for one in kpis(told) if one.name == "statements verified"]
    assert (one.part, one.whole, one.percent) == (1, 3, "33.33 %")
    assert not [one for one in kpis(report()) if one.name == "statements verified"]


@pytest.mark.parametrize(
    ("lags_us", "median_s", "most_s", "said"),
    [
        ([90_000_000], "90", "90", ("1.5 minutes", "1.5 minutes")),
        # An even number of them: half of one microsecond is not lost.
        ([1, 2], "3/2000000", "1/500000", ("0.0 seconds", "0.0 seconds")),
        # Of twenty the nineteenth; of twenty-one the twentieth.
        ([hour * 3_600_000_000 for hour in range(1, 21)], "37800", "68400", ("10.5 hours", "19.0 hours")),
        ([hour * 3_600_000_000 for hour in range(1, 22)], "39600", "72000", ("11.0 hours", "20.0 hours")),
        # Ahead of our clock: found at once, not before.
        ([-5_000_000, 259_200_000_000, 259_200_000_000], "259200", "259200", ("3.0 days", "3.0 days")),
    ],
)
def test_how_long_findings_took(lags_us: list[int], median_s: str, most_s: str, said: tuple[str, str]) -> None:
    one = report().findings[0]
    found = [replace(one, occurred_at=one.first_seen - timedelta(microseconds=lag)) for lag in lags_us]
    told = replace(report(), findings=(*found, replace(one, occurred_at=None)))
    lag = detection_lag(told)
    assert lag is not None
    assert (lag.findings, lag.median_s, lag.most_s) == (len(lags_us), Fraction(median_s), Fraction(most_s))
    assert lag.in_words == said
    assert report_json(told)["detection_lag"] == {
        "findings": str(len(lags_us)), "median_s": median_s, "most_s": most_s, "median": said[0], "most": said[1],
    }  # fmt: skip
    assert f"took {said[0]} at the most, 95 of 100 {said[1]}" in report_page(told).decode()
    file = io.BytesIO()
    write_report_workbook(told, file)
    texts = [cell.value for row in load_workbook(file)["Summary"].iter_rows() for cell in row]
    assert f"half of {len(lags_us)} findings took {said[0]} at the most, 95 of 100 {said[1]}" in texts
    out = Console(file=io.StringIO(), width=160)
    out.print(report_table(told))
    assert f"etection lag {said[0]} (median)" in out.file.getvalue()  # type: ignore[attr-defined]


def test_without_a_time_there_is_no_lag() -> None:
    assert detection_lag(report()) is None
    assert report_json(report())["detection_lag"] is None
    assert "Detection lag" not in report_page(report()).decode()


def test_delivery_is_complete_where_the_provider_confirmed() -> None:
    summed = [("USD", "invoiced", Decimal(200)), ("USD", "confirmed", Decimal(150)), ("USD", "pending", Decimal(50))]
    rows = (*report().statement.rows, *collection_rows("invoiced", summed, "stripe"))
    sent = replace(report(), statement=replace(report().statement, rows=rows))
    [one] = [one for one in kpis(sent) if one.name == "delivery completeness"]
    assert (one.part, one.whole, one.percent, one.currency) == (150, 200, "75.00 %", "USD")


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        ("0.01", "100000", "under 0.01 %"),
        ("99999.99", "100000", "over 99.99 %"),
        ("100000", "100000", "100.00 %"),
        ("0", "7", "0.00 %"),
        ("1", "3", "33.33 %"),
        ("21", "20", "105.00 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(part: str, whole: str, said: str) -> None:
    assert Kpi("leakage", Decimal(part), Decimal(whole), "USD").percent == said


def test_there_is_no_share_of_nothing() -> None:
    nothing = replace(report(), findings=(), runs=(), documents=(), list_values={})
    nothing = replace(nothing, statement=replace(nothing.statement, rows=()))
    assert kpis(nothing) == []


def test_every_form_says_the_same_figures() -> None:
    told = kpis(report())
    said = report_json(report())["kpis"]
    assert [(one["name"], one["currency"], one["percent"]) for one in said] == [
        (one.name, one.currency, one.percent) for one in told
    ]
    page = report_page(report()).decode()
    file = io.BytesIO()
    write_report_workbook(report(), file)
    cells = [[cell.value or None for cell in row] for row in load_workbook(file)["Summary"].iter_rows()]
    for one in told:
        assert f'<th scope="row">{one.name.capitalize()}</th><td class="num">{one.percent}</td>' in page
        assert any(row[:3] == [one.name, one.currency, one.percent] for row in cells)
    out = Console(file=io.StringIO(), width=160)
    out.print(report_table(report()))
    assert "0.05 %" in out.file.getvalue()  # type: ignore[attr-defined]


def test_use_that_is_included_is_said_where_the_amounts_begin() -> None:
    included = {
        ("USD", "api_requests"): Decimal(1_000_000),
        ("USD", "<b>"): Decimal("0.5"),
        ("EUR", "exports"): Decimal(7),
    }
    page = report_page(replace(report(), included=included)).decode()
    [eur, usd] = [part for part in page.split('<p class="legend">') if part.startswith("Not in these amounts")]
    assert '<data value="1000000">1,000,000</data> of api_requests' in usd
    assert "of &lt;b&gt;" in usd
    assert "worth 0 USD" in usd
    assert '<data value="7">7</data> of exports' in eur
    assert "Not in these amounts" not in report_page(report()).decode()
    listed = report_json(replace(report(), included=included))["included_use"]
    assert {"currency": "EUR", "meter": "exports", "quantity": "7"} in listed
