"""What names the worth that was kept, broken on purpose: fingerprints that forget some of the terms, usage that is not seen.

Each mutant is the module rating.kept with some of its text replaced, and a small change of the catalog, of the time or of the
usage that it does not see: what was kept is then given for what is rated from nothing. The module as it is sees all of them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import rating.kept
from tests.properties.strategies import World
from tests.properties.test_kept import History, keeping_all
from tests.rated import AFTER_ALL

pytestmark = pytest.mark.timeout(900)

Row = dict[str, Any]
Step = Callable[[History], object]
SUBSCRIPTION = ("more.append(subscribed[subscription].model_dump_json(by_alias=True))", "pass")
PLAN_TERMS = ("            plan.model_dump_json(by_alias=True),\n", "")


def the_world() -> World:
    """Return two tenants of one account on the first of two versions of a plan, and some use of both in a month."""
    prices = [
        {"id": "fee", "type": "flat", "amount": "10", "when": "in_arrears"},
        {"id": "tokens", "type": "unit", "meter": "tokens", "unit_price": "0.5"},
    ]
    quota = {"feature": "calls", "type": "metered", "meter": "calls", "quota": "1"}
    plans = [
        {
            "name": "pro",
            "version": version,
            "currency": "USD",
            "entitlements": [quota],
            "prices": [dict(one) for one in prices],
        }
        for version in (1, 2)
    ]
    plans[1]["prices"][0]["amount"] = "20"
    catalog = {
        "meters": [{"name": "tokens"}, {"name": "calls"}],
        "plans": plans,
        "accounts": [{"id": "payer", "name": "P", "tenants": ["a", "b"]}],
        "subscriptions": [
            {"id": f"sub-{tenant}", "tenant": tenant, "plan": "pro", "version": 1, "from": "2026-01-01"} for tenant in "ab"
        ],
        "grants": [{"id": "gift", "tenant": "a", "feature": "calls", "amount": "1", "effective": "2026-03-01"}],
    }  # fmt: skip
    return World(catalog, [], "2026-03")


def use(history: History, days: tuple[int, ...]) -> None:
    """Store use of the first tenant in a segment of its own; of both in the first one."""
    history.segments += 1
    tenants = "ab" if history.segments == 1 else "a"
    told = [(tenant, meter, day) for tenant in tenants for meter in ("tokens", "calls") for day in days]
    history.store([event(history.segments, at, *one) for at, one in enumerate(told)])


def event(segment: int, row: int, tenant: str, meter: str, day: int) -> Row:
    at = datetime(2026, 3, day, 12, tzinfo=UTC)
    return {
        "tenant_id": tenant, "meter": meter, "quantity": "3.3", "event_time": at, "recorded_at": at, "producer_id": "p",
        "segment": segment, "row": row, "idempotency_key": None, "attributes": {},
    }  # fmt: skip


def sold(**said: Any) -> Step:
    """Return what says something of every subscription."""
    return lambda history: [row.update(said) for row in history.catalog["subscriptions"]]


def priced(price_id: str, **said: Any) -> Step:
    """Return what says something of a price of every plan, and adds it where it is not."""

    def change(history: History) -> None:
        for plan in history.catalog["plans"]:
            there = [price for price in plan["prices"] if price["id"] == price_id]
            plan["prices"] += [] if there else [{"id": price_id, **said}]
            for price in there:
                price.update(said)

    return change


def told(kind: str, **said: Any) -> Step:
    """Return what says something of the first entry of a kind."""
    return lambda history: history.catalog[kind][0].update(said)


def at(text: str) -> Step:
    return lambda history: setattr(history, "as_of", datetime.fromisoformat(text).replace(tzinfo=UTC))


def nothing(_history: History) -> None:
    """The world is as it is."""


class Mutant(NamedTuple):
    before: Step
    change: Step
    replaced: tuple[tuple[str, str], ...]


PER_SEAT = {"type": "flat", "amount": "7", "per_unit_of": "seat"}
MUTANTS = {
    "the plan version": Mutant(
        nothing, sold(version=2), (("stretch.plan_key, str(stretch.side)", "str(stretch.side)"), PLAN_TERMS)
    ),
    "the terms of a plan": Mutant(nothing, priced("tokens", unit_price="0.7"), (PLAN_TERMS,)),
    "an override": Mutant(
        sold(overrides={"tokens": {"unit_price": "0.25"}}),
        sold(overrides={"tokens": {"unit_price": "0.75"}}),
        (
            SUBSCRIPTION,
            (
                "plan = terms.plans[stretch.plan_key]\n    meters",
                "plan = terms.plans[plan_key(stretch.plan, stretch.plan_version)]\n    meters",
            ),
        ),
    ),
    "the discount of an account": Mutant(
        told("accounts", discounts=[{"id": "deal", "percent": "10"}]),
        told("accounts", discounts=[{"id": "deal", "percent": "20"}]),
        (("more += [one.model_dump_json(by_alias=True) for one in discounted[account].discounts]", "pass"),),
    ),
    "the discount of a subscription": Mutant(
        sold(discounts=[{"id": "deal", "percent": "10"}]), sold(discounts=[{"id": "deal", "percent": "20"}]), (SUBSCRIPTION,)
    ),
    "how many units are held": Mutant(
        lambda history: (priced("seats", **PER_SEAT)(history), sold(quantities={"seat": "2"})(history)),
        sold(quantities={"seat": "3"}),
        (SUBSCRIPTION,),
    ),
    "a grant": Mutant(
        priced("over", type="unit", meter="calls", unit_price="2", included_from="calls"),
        told("grants", amount="2"),
        (("found.setdefault(grant.tenant, []).append(grant.model_dump_json(by_alias=True))", "pass"),),
    ),
    "how a meter counts": Mutant(
        nothing,
        told("meters", aggregation="max"),
        (("*(terms.meters[name].model_dump_json(by_alias=True) for name in meters),", ""),),
    ),
    "that a period is over": Mutant(at("2026-03-20"), at("2026-04-02"), (("str(due), ", ""),)),
    "which parts of a flat amount are due": Mutant(
        lambda history: (
            priced("seats", **PER_SEAT, when="in_advance")(history),
            sold(quantities={"seat": "2"}, changes=[{"from": "2026-03-20", "quantities": {"seat": "5"}}])(history),
            at("2026-03-10")(history),
        ),
        at("2026-03-25"),
        (("str(due_at),", ""),),
    ),
    "when a subscription ends": Mutant(sold(to="2026-03-20"), sold(to="2026-03-08"), (("*map(str, times), ", ""),)),
    "the snapshot": Mutant(
        nothing,
        lambda history: use(history, (25,)),
        (('dirty |= changed_tenants(evidence.files, Snapshot.from_json(found["cut"]), evidence.snapshot)', "pass"),),
    ),
    "who shares a discount": Mutant(
        told("accounts", discounts=[{"id": "deal", "amount": "5", "currency": "USD"}]),
        lambda history: use(history, (25,)),
        (("while reached := [group for group in groups if dirty & group and not group <= dirty]:", "while reached := []:"),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_what_a_fingerprint_forgets_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_the_same(mutant), "the module as it is gives something else"
    broken = module_with(mutant.replaced, monkeypatch)
    monkeypatch.setattr("rating.run.rate_what_changed", broken.rate_what_changed)
    assert not is_the_same(mutant)


def is_the_same(mutant: Mutant) -> bool:
    """Return whether what was kept before a change gives what is rated from nothing after it."""
    with keeping_all(), tempfile.TemporaryDirectory() as root:
        history = History(root, the_world(), 0)
        history.as_of = AFTER_ALL
        use(history, (3, 9, 21))
        mutant.before(history)
        with history.rated(may_use_kept=True):
            pass
        mutant.change(history)
        kept, from_nothing = history.both()
        assert from_nothing
        return kept == from_nothing


def module_with(replaced: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return rating.kept with texts replaced, each of which stands in it exactly once."""
    source = Path(rating.kept.__file__).read_text(encoding="utf-8")
    for find, replace in replaced:
        assert source.count(find) == 1, f"the mutant has to be rewritten with rating/kept.py: {find}"
        source = source.replace(find, replace)
    module = ModuleType("rating.kept_mutant")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    return module
