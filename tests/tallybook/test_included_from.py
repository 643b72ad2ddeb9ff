"""Overage that is charged for: what grants do not cover is on the invoice, explained, verified, corrected and reconciled."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from rating.errors import CatalogInvalid
from rating.whatif import change_of, whatif_over
from tallybook import Workspace
from tests.tallybook.shop import import_text

CATALOG = """
meters: [{name: tokens}, {name: disk, aggregation: max}]
accounts: [{id: a, name: A, tenants: [acme]}]
plans:
  - name: pro
    version: 1
    currency: USD
    prices: [{id: over, meter: tokens, type: unit, unit_price: 1, included_from: tokens}]
    entitlements: [{feature: tokens, type: metered, meter: tokens, quota: 100, overage: OVERAGE}]
subscriptions:
  - {id: s-acme, tenant: acme, plan: pro, version: 1, from: 2026-09-01}
grants:
  - {id: bought, tenant: acme, feature: tokens, amount: 40, effective: 2026-09-15}
"""
GIFT = "  - {id: gift, tenant: acme, feature: tokens, amount: 6, effective: 2026-10-01}\n"
HEAD = "tenant_id,meter,quantity,event_time\n"
USAGE = HEAD + "acme,tokens,90,2026-09-20T00:00:00Z\nacme,tokens,150,2026-10-05T00:00:00Z\n"
LATE = HEAD + "acme,tokens,40,2026-09-25T00:00:00Z\n"


def open_(root: Path, text: str) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(datetime(2026, 11, 2, tzinfo=UTC)))
    (root / "catalog" / "all.yaml").write_text(text, encoding="utf-8")
    workspace.apply()
    return workspace


def amounts(workspace: Workspace) -> list[Decimal]:
    return sorted(line.amount for invoice in workspace.invoices() for line in invoice.lines)


def test_what_grants_do_not_cover_is_charged_for_whatever_changes_later(tmp_path: Path) -> None:
    with open_(tmp_path, CATALOG.replace("OVERAGE", "allowed")) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        (invoice,) = workspace.invoice("2026-10", final=True).invoices
        # The quota covers September; October has 100 and the 40 that were bought.
        assert [(line.quantity, line.amount) for line in invoice.lines] == [(150, 10)]
        explained = workspace.explain(invoice.lines[0].line_id)
        included = next(step for step in explained.steps if step.step == "included")
        assert (included.quantity, included.text) == (-140, "covered by the grants of tokens")
        found = workspace.reconcile("2026-10")
        assert [one.control_id for one in found.findings if one.control_id == "ENTITLEMENT_OVERUSE"] == []

        # Six more are given for October: six less are owed.
        (tmp_path / "catalog" / "all.yaml").write_text(CATALOG.replace("OVERAGE", "allowed") + GIFT, encoding="utf-8")
        workspace.apply()
        workspace.correct()
        assert amounts(workspace) == [-6, 10]
        # September used more than was known, 30 of what was bought: October's grants cover 30 less.
        import_text(workspace, "late.csv", LATE)
        workspace.correct()
        assert amounts(workspace) == [-6, 10, 30]
        assert workspace.correct().invoices == []
        assert all(one.matches for one in workspace.verify())


@pytest.mark.parametrize("overage", ["allowed", "blocked"])
def test_what_slipped_through_is_charged_for_too(tmp_path: Path, overage: str) -> None:
    with open_(tmp_path, CATALOG.replace("OVERAGE", overage)) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        assert amounts(workspace) == [10]
        controls = {one.control_id for one in workspace.reconcile("2026-10").findings}
        assert "ENTITLEMENT_OVERUSE" not in controls


def test_a_plan_with_another_quota_is_asked_what_if(tmp_path: Path) -> None:
    with open_(tmp_path, CATALOG.replace("OVERAGE", "allowed")) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        terms = workspace.terms()
        (plan,) = terms.plans.values()
        (held,) = plan.entitlements
        larger = plan.model_copy(
            update={"version": 2, "entitlements": (held.model_copy(update={"quota": Decimal(105)}),)}
        )
        files, snapshot = workspace.evidence()
        wall = workspace.invoice("2026-10").close.wall
        (row,) = whatif_over(files, snapshot, change_of(terms, [larger]), wall).tenants.to_pylist()
        assert (row["old_amount"], row["new_amount"]) == (10, 5)


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ("included_from: tokens", "included_from: toks", "no metered entitlement to 'toks'"),
        ("meter: tokens, quota", "meter: disk, quota", "name one meter in both"),
        ("quota: 100", "quota: 100, reset: day", "begins anew with it"),
        ("quota: 100", "quota: 100, keep_overage: true", "taken from the next quota"),
        ("included_from: tokens", "included_from: tokens, included: 5", "remove included"),
        ("included_from: tokens", "included_from: tokens, where: {a: [b]}", "remove where"),
        ("from: 2026-09-01", "from: 2026-09-01, entitlements: [{feature: tokens, type: metered, meter: tokens, reset: day}]",
         "begins anew with it"),
    ],
)  # fmt: skip
def test_terms_that_contradict_each_other_are_refused(tmp_path: Path, find: str, put: str, said: str) -> None:
    text = CATALOG.replace("OVERAGE", "allowed")
    assert find in text
    with pytest.raises(CatalogInvalid, match=said):
        open_(tmp_path, text.replace(find, put))


def test_groups_of_a_ceiling_are_refused(tmp_path: Path) -> None:
    text = CATALOG.replace("OVERAGE", "allowed").replace(
        "meter: tokens, type: unit", "meter: disk, by: [a], type: unit"
    )
    with pytest.raises(CatalogInvalid, match="do not add up"):
        open_(tmp_path, text.replace("meter: tokens, quota", "meter: disk, quota"))
