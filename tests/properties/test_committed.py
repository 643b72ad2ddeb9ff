"""The SQL engine against the oracle, over commitments of one billing period and of several.

Which lines a commitment is used up by changes no sum; a period is worth the same by itself, beside those before it, and
from what was kept.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from metering.engine import fetch
from metering.periods import parse_period
from metering.usage import Snapshot, load_events
from rating.rate import rate
from rating.run import rated_spans
from rating.terms import billing_spans
from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.checks import check_pieces, check_same_lines, lines_differ
from tests.properties.committed_worlds import committed_world_of, committed_worlds, event, nested_world_of
from tests.properties.mutated import RATING, USAGE, mutate
from tests.properties.proof import holds
from tests.properties.strategies import World
from tests.properties.test_kept import History, keeping_all
from tests.properties.test_rating import CUTS
from tests.rated import AFTER_ALL, engine, engine_lines, events_table, terms_of

# The worlds of a file are made by the first test that needs them; on a crowded machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

# Each line of one commitment rounds its part to 21 places.
TINY = Fraction(1, 10**18)
WORLDS = 48


@holds(12, world=committed_worlds())
def TestEngineIsOracle(world: World) -> None:
    check_same_lines(world)


@holds(3, world=committed_worlds(), cuts=CUTS)
def TestPiecesAreTheWhole(world: World, cuts: list[tuple[float, float]]) -> None:
    check_pieces(world, cuts)


@holds(8, world=committed_worlds())
def TestAPeriodAloneIsWorthWhatItIsBesideOthers(world: World) -> None:
    terms, month = terms_of(world.catalog), parse_period(world.month)
    # How late is too late is also said by the spans that are asked for.
    assume(not any("late_usage_days" in plan for plan in world.catalog["plans"]))

    def worth(*earlier: str) -> list[Any]:
        load_events(engine(), events_table(world.events))
        rate(engine(), terms, billing_spans(terms, month, [parse_period(one) for one in earlier]), AFTER_ALL)
        asked = "SELECT * EXCLUDE (span_id) FROM worth WHERE is_current ORDER BY ALL"
        return fetch(engine(), asked).to_pylist()

    alone = worth()
    assert alone == worth("2026-02") == worth("2025-12", "2026-01", "2026-02")


@holds(1, world=committed_worlds(), seed=st.integers(0, 1000))
def TestKeptIsFromNothing(world: World, seed: int) -> None:
    with keeping_all(), tempfile.TemporaryDirectory() as root:
        history = History(root, world, seed)
        for _ in range(3):
            history.append()
            history.change()
            kept, from_nothing = history.both()
            assert kept == from_nothing


@pytest.mark.parametrize("what", ["use", "terms"])
def test_what_was_kept_follows_a_neighbour_whose_periods_are_over(tmp_path: Path, what: str) -> None:
    """Two tenants share 60 off in January. What the other used then, or paid, moves what is left of the pot in March."""
    fee = {"id": "fee", "type": "flat", "amount": "10"}
    calls = {"id": "calls", "meter": "calls", "type": "unit", "unit_price": "1"}
    pot = {"id": "pot", "amount": "100", "overage_factor": "2", "periods": "plan_life", "prorate": False}
    other = {"id": "s2", "tenant": "t2", "plan": "p", "version": 1, "from": "2026-01-01", "until": "2026-02-01"}
    catalog = {
        "meters": [{"name": "calls"}],
        "plans": [{"name": "p", "version": 1, "currency": "USD", "prices": [fee, calls], "commitments": [pot]}],
        "accounts": [
            {"id": "payer", "name": "P", "tenants": ["t1", "t2"],
             "discounts": [{"id": "deal", "amount": "60", "currency": "USD"}]}
        ],
        "subscriptions": [{"id": "s1", "tenant": "t1", "plan": "p", "version": 1, "from": "2026-01-01"}, other],
    }  # fmt: skip
    used = [{**event(0, at, ["t1"]), "meter": "calls", "quantity": "90"} for at in range(2)]
    used[0]["event_time"], used[1]["event_time"] = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC)
    with keeping_all():
        history = History(str(tmp_path), World(catalog, [], "2026-03"), 1)
        history.segments += 1
        history.store([{**one, "producer_id": "p", "segment": 1, "row": at} for at, one in enumerate(used)])
        before, _ = history.both()
        if what == "use":
            history.segments += 1
            history.store([{**used[0], "tenant_id": "t2", "producer_id": "p", "segment": 2, "row": 0}])
        else:
            history.catalog["subscriptions"][1]["overrides"] = {"fee": {"amount": "500"}}
        kept, from_nothing = history.both()
        assert kept == from_nothing != before
        # A preview or an explanation reads the use of its own tenants, and of those whose use counts.
        terms, files = terms_of(history.catalog), [file.path for file in history.lake.data_files()]
        asked, snapshot = billing_spans(terms, parse_period("2026-03")), Snapshot.of(history.lake.cut())
        with rated_spans(files, snapshot, terms, asked, AFTER_ALL, tenants={"t1"}) as rated:
            assert fetch(rated, "SELECT * FROM worth ORDER BY span_id, price_id, group_key").to_pylist() == kept[-2:]


@holds(8, world=committed_worlds())
def TestTheShareChangesNoSum(world: World) -> None:
    """One commitment that is not rounded on the way: its lines add up to the same, in order or in proportion."""

    def sums(share: str) -> dict[Any, Fraction]:
        plans = [
            {
                **plan,
                "switches": {},
                "commitments": [{**one, "share": share, "true_up": False} for one in plan["commitments"][:1]],
            }
            for plan in world.catalog["plans"]
        ]
        found: dict[Any, Fraction] = {}
        for key, line in engine_lines({**world.catalog, "plans": plans}, world.events, world.month).items():
            if key[2].startswith("p0-") or key[2].startswith("p1-"):
                found[key[:2]] = found.get(key[:2], Fraction(0)) + Fraction(line.exact)
        return found

    in_order, pro_rata = sums("in_order"), sums("pro_rata")
    assert in_order.keys() == pro_rata.keys()
    assert all(abs(in_order[key] - pro_rata[key]) <= TINY for key in in_order)


class Mutant(NamedTuple):
    package: str
    file: str
    find: str
    replace: str


BASE = "adjust_excess_base"
MUTANTS = {
    "what is shared in proportion is taken in order too": Mutant(
        "rating", "adjust_excess", " AND NOT is_pro_rata", ""
    ),
    "what is in order is shared in proportion too": Mutant("rating", BASE, " AND is_pro_rata", ""),
    "what pays back bears what is beyond": Mutant(
        "rating", BASE, "sign(net.exact_amount) = sign(added.added_amount) AND ", "net.exact_amount <> 0 AND "
    ),
    "all that is used is beyond": Mutant(
        "rating", BASE, "greatest(net_after - amount, 0)", "greatest(net_after, 0)"
    ),
    "what is not used is given back": Mutant(
        "rating", BASE, "greatest(net_after - amount, 0)", "(net_after - amount)"
    ),
    "what is beyond is shared over the gross": Mutant(
        "rating", "commitment_net", "JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'discount:%') AS charge USING (span_id)",
    ),
    "nothing was used before": Mutant(
        "rating", "adjust_excess", "used_before + sum(exact_amount)", "sum(exact_amount)"
    ),
    "nothing was used before of what is shared": Mutant(
        "rating", BASE, "used_before + sum(net_amount)", "sum(net_amount)"
    ),
    "each period of a pot is rated as the first": Mutant(
        "rating", "adjust_excess", "PARTITION BY pot_id ORDER BY place", "PARTITION BY span_id ORDER BY place"
    ),
    "each period of a shared pot is rated as the first": Mutant(
        "rating", BASE, "PARTITION BY pot_id", "PARTITION BY span_id"
    ),
    "a pot also counts what comes after it": Mutant(
        "rating", "pot_spent", "commitment.turn < pot_member.turn", "commitment.turn >= pot_member.turn"
    ),
    "a pot counts what it added itself": Mutant(
        "rating", "pot_spent", "commitment.turn < pot_member.turn", "commitment.turn <= pot_member.turn"
    ),
    "a pot does not see narrower ones": Mutant(
        "rating", "pot_spent", "IS NULL OR commitment.turn < pot_member.turn", "IS NULL"
    ),
    "a pot begins with its own period": Mutant(
        "rating", "pot_spent", "pot_member.place < pot_asked.place", "pot_member.place <= pot_asked.place"
    ),
    "a pot covers every line of before": Mutant(
        "rating", "pot_spent", "pot_member.scope_id AND adjust_scope.price_id = charge.price_id", "pot_member.scope_id"
    ),
    "true-ups of before were not paid": Mutant("rating", "pot_spent", "pot_member.paid_scope_id", "pot_member.scope_id"),
    "what was paid before is owed again": Mutant("rating", "true_up", " - minimum.paid_before", ""),
    "an inner pot owes what it was paid before": Mutant(
        "rating", "true_up", "earlier.place < member.place", "earlier.place > member.place"
    ),
    "a shared commitment covers every line": Mutant(
        "rating", "commitment_net", " AND adjust_scope.price_id = charge.price_id", ""
    ),
    "equal remainders go to the last line": Mutant("rating", BASE, "net.position, net.group_key\n", "net.position DESC\n"),
    "a part of a commitment is lost": Mutant(
        "rating", "adjust_excess_shared", "excess_share.exact_amount <> 0", "excess_share.exact_amount > 1"
    ),
}  # fmt: skip


@cache
def small_worlds() -> list[tuple[World, dict[LineKey, Line]]]:
    """Return worlds with the oracle's lines; made once for all mutants."""
    made = (nested_world_of(seed) if seed % 2 else committed_world_of(seed, 2, 4, 24) for seed in count())
    lines = ((world, oracle.lines(*world)) for world in made)
    return list(islice(((world, found) for world, found in lines if len(found) > 2), WORLDS))


def is_caught() -> bool:
    return lines_differ(small_worlds())


def test_without_a_mutant_nothing_is_caught() -> None:
    assert not is_caught()


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, *mutant, (*USAGE, *RATING, "rating.pots"))
    assert is_caught()
