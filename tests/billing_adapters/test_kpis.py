"""The figures by which a reconciliation is judged: each by hand, the same in every form, and none of nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from decimal import Decimal
from functools import cache

import pytest
from openpyxl import load_workbook
from rich.console import Console

from billing_adapters.reconciliation.kpis import Kpi, kpis
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
    assert {name for name, _ in found} | {"delivery completeness"} == set(KPIS)


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
