"""The questions of the command line: forms of the answers, exit codes, and that nothing is booked."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from rating.explanation import explanation_schema
from tallybook import Workspace
from tallybook.cli import app
from tallybook.cli_shell import report
from tests.tallybook.shop import USAGE, import_text, open_shop

NEW_PLAN = """
plans:
  - name: pro
    version: 2
    currency: USD
    prices:
      - {id: fee, type: flat, amount: "45.00"}
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: unit, unit_price: "0.01"}
      - {id: calls, meter: calls, type: package, package_size: "10", package_price: "0.50"}
"""
RANGE = ["--from", "2026-10", "--to", "2026-10"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with October final; the tests only ask."""
    root = tmp_path_factory.mktemp("shop")
    with open_shop(root) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
    (root / "new.yaml").write_text(NEW_PLAN, encoding="utf-8")
    return root


def ask(shop: Path, *words: str) -> str:
    answer = CliRunner().invoke(app, ["-w", str(shop), *words])
    assert answer.exit_code == 0, answer.exception
    return answer.stdout


def refused(shop: Path, *words: str) -> str:
    answer = CliRunner().invoke(app, ["-w", str(shop), *words])
    if isinstance(answer.exception, SystemExit):
        assert answer.exit_code == 2
        return answer.stderr
    assert isinstance(answer.exception, Exception)
    assert report(answer.exception) == 2
    return str(answer.exception)


def line_of(shop: Path, price: str) -> str:
    with Workspace(shop) as workspace:
        lines = [line for invoice in workspace.invoices("2026-10") for line in invoice.lines]
    return next(line.line_id for line in lines if line.price_id == price and line.tenant_id == "acme")


def test_an_explanation_is_text_json_and_arrow(shop: Path, tmp_path: Path) -> None:
    line = line_of(shop, "tokens_out")
    assert "tier 2, above 1,000" in ask(shop, "explain", line)
    steps = json.loads(ask(shop, "explain", line, "--as", "json"))["steps"]
    assert [step["step"] for step in steps] == ["aggregate", "price", "worth", "rounded", "booked_before", "amount"]
    file = tmp_path / "line.arrow"
    ask(shop, "explain", line, "--as", "arrow", "--out", str(file))
    with pa.OSFile(str(file)) as source:
        assert pa.ipc.open_file(source).read_all().schema == explanation_schema()


def test_what_if_as_text_says_who_pays_less_and_that_nothing_was_booked(shop: Path) -> None:
    said = ask(shop, "whatif", "--plan", str(shop / "new.yaml"), *RANGE)
    assert "pro version 1   pro version 2               2" in said
    # 49 + 6.25 + 0.50 before; 45 + 15 + 0.50 after.
    assert "acme     acme-inc   55.75     60.50        +4.75   +8.5   USD" in said
    assert "Nothing was booked" in said


def test_what_if_as_json_and_csv_say_the_same(shop: Path) -> None:
    words = ["whatif", "--plan", str(shop / "new.yaml"), *RANGE]
    answer = json.loads(ask(shop, *words, "--as", "json"))
    rows = list(csv.DictReader(io.StringIO(ask(shop, *words, "--as", "csv"))))
    assert rows == answer["tenants"]
    assert {row["tenant_id"]: row["difference"] for row in rows} == {"acme": "4.75", "globex": "1.95"}
    (plan,) = answer["plans"]
    assert (plan["tenants"], plan["tenants_paying_more"], plan["difference"]) == (2, 2, "6.70")


def test_what_if_as_arrow_has_the_lines(shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.arrow"
    ask(shop, "whatif", "--plan", str(shop / "new.yaml"), *RANGE, "--as", "arrow", "--rows", "line", "--out", str(file))
    with pa.OSFile(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.num_rows == 6
    assert table.schema.field("new_amount").type == pa.decimal128(38, 12)


def test_what_if_names_the_line_of_a_mistake(shop: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(NEW_PLAN.replace("meter: calls", "meter: cals"), encoding="utf-8")
    assert "bad.yaml:9: plans[0].prices[2].meter" in refused(shop, "whatif", "--plan", str(bad), *RANGE)
    bad.write_text("meters: [{name: x}]", encoding="utf-8")
    assert "only plans are read" in refused(shop, "whatif", "--plan", str(bad), *RANGE)
    bad.write_text("", encoding="utf-8")
    assert "no plan in the file" in refused(shop, "whatif", "--plan", str(bad), *RANGE)


def test_what_if_refuses_words_it_cannot_read(shop: Path) -> None:
    plan = ["whatif", "--plan", str(shop / "new.yaml")]
    assert "OLD=NEW" in refused(shop, *plan, *RANGE, "--replace", "pro")
    assert "before --from" in refused(shop, *plan, "--from", "2026-10", "--to", "2026-09")
    assert "nowhere.yaml" in refused(shop, "whatif", "--plan", "nowhere.yaml", *RANGE)
    assert "no plan is given" in refused(shop, "whatif", *RANGE)


def test_lint_reads_the_files_and_prices_what_it_finds(shop: Path) -> None:
    found = json.loads(ask(shop, "lint", *RANGE, "--json"))["findings"]
    (unpriced,) = found
    assert (unpriced["code"], unpriced["severity"], unpriced["tenants"]) == ("usage_unpriced", "warning", 1)
    assert unpriced["place"] == "catalog/shop.yaml:6"
    text = ask(shop, "lint", *RANGE)
    assert "0 errors, 1 warning, 0 infos" in text
    assert CliRunner().invoke(app, ["-w", str(shop), "lint", *RANGE, "--strict"]).exit_code == 1


def test_a_preview_shows_usage_and_the_draft(shop: Path) -> None:
    # The shop's books are asked today, when its October is long over; every month has its fee.
    text = ask(shop, "preview", "acme")
    assert "fee" in text
    found = json.loads(ask(shop, "preview", "acme", "--json"))
    assert found["account_id"] == "acme-inc"
    assert {row["price_id"] for row in found["usage"]} == {"fee", "tokens_out", "calls"}
    assert "no subscription" in refused(shop, "preview", "ghost")
