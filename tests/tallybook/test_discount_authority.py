"""Who approved what is given away: discounts and overrides beyond a limit are found, on real books, to the cent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from rating.errors import CatalogInvalid, PlanVersionChanged
from tallybook import Workspace
from tests.tallybook.shop import CATALOG, NOVEMBER, USAGE, import_text, open_shop

AUTHORITY = """
[discount_authority]
percent_max = "10"
amount_max = {USD = "5"}
[discount_authority.approvers.ana]
percent_max = "30"
amount_max = {USD = "20"}
[discount_authority.approvers.bob]
percent_max = "100"
"""
ON_ACME = 'plan: pro, version: 1, from: "2026-01-01"'
SIGNED = 'approved_by: ana, reason: "pilot of a year"'


# By what stands at a subscription, what is found of it. Its tenant uses what makes 49.00 for the fee, 6.25 for 500 tokens beyond
# the first thousand, and 0.50 for a package of calls: 55.75.
CASES: dict[str, tuple[str, str, str] | None] = {
    'discounts: [{id: d, percent: "10"}]': None,
    'discounts: [{id: d, percent: "10.0001"}]': ("d", "no_approval", "5.57505575"),
    f'discounts: [{{id: d, percent: "30", {SIGNED}}}]': None,
    f'discounts: [{{id: d, percent: "40", {SIGNED}}}]': ("d", "beyond_authority", "22.3"),
    'discounts: [{id: d, percent: "40", approved_by: eve, reason: r}]': ("d", "not_an_approver", "22.3"),
    'discounts: [{id: d, amount: "5.00"}]': None,
    'discounts: [{id: d, amount: "5.01"}]': ("d", "no_approval", "5.01"),
    f'discounts: [{{id: d, amount: "20.00", {SIGNED}}}]': None,
    f'discounts: [{{id: d, amount: "20.01", {SIGNED}}}]': ("d", "beyond_authority", "20.01"),
    # A limit of percent says nothing of money.
    'discounts: [{id: d, amount: "6.00", approved_by: bob, reason: r}]': ("d", "beyond_authority", "6"),
    # A tenth of 49.00 is 4.90, and ana may approve 14.70; a tier of 0.01 instead of 0.0125 is a fifth of 6.25.
    'overrides: {fee: {amount: "44.10"}}': None,
    'overrides: {fee: {amount: "44.09"}}': ("fee", "no_approval", "4.91"),
    f'overrides: {{fee: {{amount: "34.30", {SIGNED}}}}}': None,
    f'overrides: {{fee: {{amount: "34.29", {SIGNED}}}}}': ("fee", "beyond_authority", "14.71"),
    'overrides: {tokens_out: {tiers: [{up_to: "1000", unit_price: "0"}, {unit_price: "0.01"}]}}': (
        "tokens_out", "no_approval", "1.25",
    ),
    'overrides: {calls: {package_price: "0"}}': ("calls", "no_approval", "0.5"),
    # A dearer price gives nothing away.
    'overrides: {fee: {amount: "60.00"}}': None,
}  # fmt: skip


def test_what_is_given_away_is_compared_with_who_may_approve_it(tmp_path: Path) -> None:
    tenants = [f"c{number:02}" for number in range(len(CASES))]
    with open_shop(tmp_path) as workspace:
        said = [
            f"  - {{id: sub-{name}, tenant: {name}, {ON_ACME}, {case}}}\n"
            for name, case in zip(tenants, CASES, strict=True)
        ]
        text = CATALOG.replace("tenants: [acme]", f"tenants: [acme, {', '.join(tenants)}]") + "".join(said)
        (workspace.layout.catalog / "shop.yaml").write_text(text, encoding="utf-8")
        workspace.layout.settings_file.write_text(AUTHORITY, encoding="utf-8")
    with Workspace(tmp_path, clock=FixedClock(NOVEMBER)) as workspace:
        workspace.apply()
        head, *rows = USAGE.splitlines()
        used = [row.replace("acme", name) for name in tenants for row in rows if row.startswith("acme")]
        import_text(workspace, "usage.csv", "\n".join([head, *used]) + "\n")
        statement = workspace.reconcile("2026-10")
    found = {
        one.tenant_id: (one.subject, one.reason, one.amount_likely)
        for one in statement.findings
        if one.control_id == "DISCOUNT_UNAPPROVED" and one.currency == "USD"
    }
    wanted = {
        name: (f"sub-{name} {case[0]}", case[1], Decimal(case[2]))
        for name, case in zip(tenants, CASES.values(), strict=True)
        if case is not None
    }
    assert found == wanted


def test_without_an_authority_nobody_is_compared(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        runs = {row["control_id"]: row for row in workspace.reconcile("2026-10").runs.to_pylist()}
        assert runs["DISCOUNT_UNAPPROVED"]["result"] == "not_possible"
        assert "[discount_authority]" in runs["DISCOUNT_UNAPPROVED"]["explanation"]


def test_an_approval_may_come_later_and_changes_no_terms(tmp_path: Path) -> None:
    with Workspace.init(tmp_path / "shop", clock=FixedClock(NOVEMBER)) as workspace:

        def offer(plan_discount: str, override: str) -> None:
            text = CATALOG.replace("currency: USD\n", f"currency: USD\n    discounts: [{{id: d, {plan_discount}}}]\n")
            text = text.replace(ON_ACME, f"{ON_ACME}, overrides: {{fee: {{{override}}}}}")
            (workspace.layout.catalog / "shop.yaml").write_text(text, encoding="utf-8")
            workspace.apply()

        offer('percent: "20"', 'amount: "44.00"')
        workspace.invoice("2026-10", final=True)
        offer(f'percent: "20", {SIGNED}', f'amount: "44.00", {SIGNED}')
        assert all(one.matches for one in workspace.verify())
        with pytest.raises(PlanVersionChanged, match="is in use"):
            offer(f'percent: "21", {SIGNED}', 'amount: "44.00"')


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('discounts: [{id: d, percent: "20", approved_by: ana}]', "write the reason"),
        ("overrides: {fee: {amount: 44, approved_by: ana}}", "write the reason"),
        ("overrides: {fee: {approved_by: ana, reason: r}}", "write the fields of this price that differ"),
        ("overrides: {fee: {amount: 44, approved_by: [ana], reason: r}}", "write a name"),
    ],
)
def test_an_approval_that_is_none_is_refused(tmp_path: Path, entry: str, said: str) -> None:
    with open_shop(tmp_path) as workspace:
        (workspace.layout.catalog / "shop.yaml").write_text(CATALOG.replace(ON_ACME, f"{ON_ACME}, {entry}"))
        with pytest.raises(CatalogInvalid, match=said):
            workspace.apply()
