"""Contracts of a provider in the catalog: usage of the lake is netted per licence, dimension and term."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metering.clock import FixedClock
from rating.errors import CatalogInvalid
from tallybook import Workspace
from tallybook.cli import app

CATALOG = """
meters: [{name: tokens}, {name: disk, aggregation: max}]
accounts: [{id: a, name: A, tenants: [acme]}]
contracts:
  - {id: c1, tenant: acme, licence: l-1, dimension: tok, meter: tokens, included: 1000, from: 2026-01-01, to: 2026-02-01}
"""
SECOND = "  - {id: c2, tenant: acme, licence: l-1, dimension: tok, meter: tokens, included: 500, from: 2026-03-01}\n"
USAGE = """tenant_id,meter,quantity,event_time
acme,tokens,400,2026-01-05T00:00:00Z
acme,tokens,700,2026-01-20T00:00:00Z
acme,tokens,30,2026-02-01T00:00:00Z
acme,tokens,200,2026-03-05T00:00:00Z
"""


def open_(root: Path, more: str = SECOND) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(datetime(2026, 3, 20, tzinfo=UTC)))
    (root / "catalog" / "all.yaml").write_text(CATALOG + more, encoding="utf-8")
    workspace.apply()
    path = root / "usage.csv"
    path.write_text(USAGE, encoding="utf-8")
    workspace.import_files([path])
    return workspace


def test_usage_is_netted_per_term_and_what_none_covers_is_shown(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        states = workspace.contracts()
    found = [(one.contract_id, one.used, one.net, one.remaining) for one in states]
    assert found == [
        ("c1", Decimal(1100), Decimal(100), Decimal(0)),
        (None, Decimal(30), Decimal(30), Decimal(0)),
        ("c2", Decimal(200), Decimal(0), Decimal(300)),
    ]
    shown = CliRunner().invoke(app, ["-w", str(tmp_path), "contracts", "--json"])
    assert [one["contract"] for one in json.loads(shown.stdout)["contracts"]] == ["c1", None, "c2"]
    assert "no contract" in CliRunner().invoke(app, ["-w", str(tmp_path), "contracts"]).stdout


def test_the_answer_of_aws_becomes_entries_that_the_catalog_takes(tmp_path: Path) -> None:
    arn = "arn:aws:license-manager::1:license:l-9"
    entries = [
        {
            "LicenseArn": arn,
            "Dimension": "tok",
            "Value": {"DoubleValue": 0.1},
            "ExpirationDate": "2027-01-01T00:00:00Z",
        },
        {"LicenseArn": arn, "Dimension": "tokens", "Value": {"IntegerValue": 9}, "ExpirationDate": 1798761600},
        {"LicenseArn": arn, "Dimension": "sso", "Value": {"BooleanValue": True}},
    ]
    path = tmp_path / "aws.json"
    path.write_text(json.dumps({"Entitlements": entries}), encoding="utf-8")
    command = ["contracts", "--aws", str(path), "--tenant", "acme", "--from", "2026-01-01", "--meter", "tok=tokens"]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    workspace = Workspace.init(tmp_path, clock=FixedClock(datetime(2026, 3, 20, tzinfo=UTC)))
    (workspace.layout.catalog / "all.yaml").write_text(CATALOG, encoding="utf-8")
    (workspace.layout.catalog / "aws.yaml").write_text(printed.stdout, encoding="utf-8")
    workspace.apply()
    added = [one for one in workspace.catalog().contracts if one.id != "c1"]
    assert [(one.dimension, one.meter, one.included) for one in added] == [
        ("tok", "tokens", Decimal("0.1")),
        ("tokens", "tokens", Decimal(9)),
    ]
    assert {one.contract.ends_at for one in added} == {datetime(2027, 1, 1, tzinfo=UTC)}
    assert CliRunner().invoke(app, command[:3]).exit_code == 2


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (SECOND.replace("2026-03-01", "2026-01-15"), "includes the same dimension"),
        (SECOND.replace("meter: tokens", "meter: disk"), "does not add up"),
        (SECOND.replace("meter: tokens", "meter: toks"), "is not declared under meters"),
        (SECOND.replace("from: 2026-03-01", "from: 2026-03-01, to: 2026-02-01"), "over before it begins"),
    ],
)
def test_a_contract_that_cannot_be_netted_is_refused(tmp_path: Path, more: str, what: str) -> None:
    with pytest.raises(CatalogInvalid, match=what):
        open_(tmp_path, more)
