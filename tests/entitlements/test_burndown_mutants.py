"""Every rule of the burn-down broken on purpose: the slow walk through time, or a run in pieces, tells each.

A mutant is the module with one text replaced. It is asked of some hundred small histories in which instants meet.
"""

from __future__ import annotations

import inspect
import sys
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from random import Random
from types import ModuleType
from typing import Any

import pytest

from entitlements import burndown
from metering.periods import BillingCycle
from tests.entitlements.test_burndown import day
from tests.oracle_grants import Row, Walk, walked

NOTHING: Row = {"at": day(0), "balances": {}, "overage": Decimal(0), "usage": Decimal(0), "paid": Decimal(0)}


def at(chance: Random, first: int = 0, last: int = 12) -> datetime:
    return day(chance.randint(first, last) / 4)


def grant_of(chance: Random, name: str) -> Row:
    low, high = sorted(chance.choices(range(15), k=2)) if chance.random() < 0.8 else (9, 4)
    grant: Row = {
        "id": name, "amount": Decimal(chance.randint(0, 20)), "priority": chance.randint(0, 1), "from": at(chance, -2, 8),
        "min": Decimal(low), "max": Decimal(high), "created_at": chance.choice([None, day(0), day(1)]),
    }  # fmt: skip
    for end in ("expires_at", "voided_at"):
        if chance.random() < 0.4:
            grant[end] = grant["from"] + timedelta(days=chance.randint(0, 10) / 4)
    if chance.random() < 0.5:
        grant |= {"every_days": chance.randint(1, 2), "anchor": at(chance, 0, 7)}
    return grant


def history_of(seed: int) -> dict[str, Any]:
    chance = Random(seed)
    grants = [grant_of(chance, name) for name in chance.sample("abcd", chance.choice((1, 1, 2, 3)))]
    usage = [(at(chance), Decimal(chance.randint(-12, 25))) for _ in range(chance.randint(1, 6))]
    until = at(chance, 4)
    resets = [reset for reset in {at(chance) for _ in range(chance.randint(0, 2))} if day(0) < reset <= until]
    keep = chance.choice([True, False, resets[:1]])
    # Somebody looks at it on the way, often where something happens.
    happens = [*resets, *(one["from"] for one in grants)]
    cut = chance.choice(happens) if chance.random() < 0.4 else at(chance)
    usage.sort(key=lambda one: one[0])
    return {"grants": grants, "usage": usage, "until": until, "resets": resets, "keep": keep,
            "cut": max(day(0), min(cut, until))}  # fmt: skip


@cache
def histories() -> list[tuple[dict[str, Any], Walk]]:
    made = [history_of(seed) for seed in range(1000)]
    return [
        (one, walked(one["grants"], one["usage"], NOTHING, one["until"], one["resets"], one["keep"])) for one in made
    ]


def made(module: ModuleType, row: Row) -> Any:
    cycle = None
    if "every_days" in row:
        cycle = BillingCycle("day", row["anchor"].replace(tzinfo=None), "UTC", row["every_days"])
    return module.Grant(
        row["id"], row["amount"], row["from"], row["priority"], row.get("expires_at"), row.get("voided_at"),
        row["created_at"], cycle, row["min"], row["max"],
    )  # fmt: skip


def is_right(module: ModuleType, one: dict[str, Any], slow: Walk) -> bool:
    grants = [made(module, row) for row in one["grants"]]
    usage = [module.Used(at, quantity) for at, quantity in one["usage"]]

    def run(start: Any, until: datetime) -> Any:
        resets = [reset for reset in one["resets"] if start.at < reset <= until]
        return module.burn_down(grants, usage, start, until, resets=resets, keep_overage=one["keep"])

    begin = module.State(day(0))
    whole = run(begin, one["until"])
    state, accounts = whole.state, whole.accounts
    if run(run(begin, one["cut"]).state, one["until"]).state != state:
        return False
    if (state.balances, state.overage, state.usage, state.granted_usage) != (
        slow.left, slow.overage, slow.usage, slow.paid,
    ):  # fmt: skip
        return False
    told = {name: (it.given, it.used, it.expired, it.voided, it.remaining, it.brought) for name, it in accounts.items()}
    lost = slow.taken
    return told == {
        name: (slow.given[name], *(lost[what][name] for what in ("used", "expired", "voided")), slow.left[name], 0)
        for name in told
    }


def is_caught(module: ModuleType) -> bool:
    try:
        return not all(is_right(module, *one) for one in histories())
    except (ValueError, KeyError, IndexError):
        return True


def test_what_is_not_broken_is_right() -> None:
    assert not is_caught(burndown)


ORDER = "(grant.priority, grant.expires_at or FOREVER, grant.created_at or FOREVER, grant.id)"
LAST = "        # What a reset takes for what was over before is not given back.\n        self._burned = {}\n"
RESET = "        burned = self._burn(self._overage if keep_overage else ZERO)\n"
ROLLED = "min(self.rollover_max, max(self.rollover_min, balance))"
THERE = "self.effective_at <= at < self.ends_at"
DUE = "            if self.effective_at < at and self.is_active(at):\n"
BEGINS = "        if not is_end:\n            self._begin_grants(start)"
MUTANTS = {
    "a grant is there one instant too late": (THERE, THERE.replace("<= at", "< at")),
    "a grant is there one instant too long": (THERE, THERE.replace("< self", "<= self")),
    "a void ends nothing": ("self.voided_at or FOREVER)", "FOREVER)"),
    "nothing expires": ("min(self.expires_at or FOREVER, self", "min(FOREVER, self"),
    "rollover without a maximum": (ROLLED, "max(self.rollover_min, balance)"),
    "rollover without a minimum": (ROLLED, "min(self.rollover_max, balance)"),
    "the minimum of a rollover wins": (ROLLED, "max(self.rollover_min, min(self.rollover_max, balance))"),
    "expiry does not matter": (ORDER, ORDER.replace("grant.expires_at or FOREVER, ", "")),
    "priority does not matter": (ORDER, ORDER.replace("grant.priority, ", "")),
    "a void is ordered as an expiry": (ORDER, ORDER.replace("grant.expires_at or FOREVER", "grant.ends_at")),
    "age does not matter": (ORDER, ORDER.replace("grant.created_at or FOREVER, ", "")),
    "higher priority burns first": (ORDER, ORDER.replace("grant.priority", "-grant.priority")),
    "the id does not matter": (ORDER, ORDER.replace("grant.id", "0")),
    "a recurrence at the end is forgotten": ("if at < end or is_last:", "if at < end:"),
    "a recurrence at the start is taken again": ("number_at(after) + 1", "number_at(after)"),
    "a grant recurs before it begins": (DUE, "            if at < self.ends_at:\n"),
    "a grant recurs after it ended": (DUE, "            if self.effective_at < at:\n"),
    "a recurrence at a reset is forgotten": ("if self._begins_with_reset and grant", "if False and grant"),
    "a start is a reset": ("if self._begins_with_reset and grant", "if grant"),
    "beginnings cut nothing": ("in (grant.effective_at, grant.ends_at) if", "in (grant.ends_at,) if"),
    "ends cut nothing": ("in (grant.effective_at, grant.ends_at) if", "in (grant.effective_at,) if"),
    "recurrences cut nothing": ("        cuts |= {at for at in recurring if self._at < at < end}\n", ""),
    "what is due at the end waits": ("if is_last and end in recurring and starts != [end]:", "if False:"),
    "what ended at the end is still there": ("        self._end_grants(end)\n        if is_last", "        if is_last"),
    "what begins at the end is not there": ("if is_last:\n            self._begin", "if False:\n            self._begin"),
    "what begins at the very end pays": (BEGINS, "        self._begin_grants(start)"),
    "what begins is not there": (BEGINS, "        pass"),
    "use at the end counts": ("bisect_left(self._times, end)", "bisect_right(self._times, end)"),
    "use at the start does not count": ("bisect_left(self._times, start),", "bisect_right(self._times, start),"),
    "overage is not carried": ("self._burn(used + self._overage)  # (4)", "self._burn(used)"),
    "use that is taken back pays for nothing": ("self._burn(used + self._overage)", "self._burn(used + max(0, self._overage))"),
    "use that is taken back gives back nothing": ("need += sum(before.values(), ZERO)", "before = {}"),
    "a segment never ends": ("            if at > starts[0]:\n                self._burned = {}\n", ""),
    "a segment goes on where a grant begins or ends": ("if starts[-1] < end and any(", "if False and any("),
    "a segment is over at every end": ("if starts[-1] < end and any(", "if True or any("),
    "a segment of no length is over": ("if starts[-1] < end and any(", "if any("),
    "a reset gives back": (LAST, ""),
    "what was burned outlives a reset": ("        self._burned = {}\n" + RESET, RESET),
    "what begins at a reset rolls over": ("grant.is_active(at) and grant.effective_at < at", "grant.is_active(at)"),
    "all resets keep what is over": (RESET, RESET.replace(" if keep_overage else ZERO", "")),
    "no reset keeps what is over": (RESET, RESET.replace("self._overage if keep_overage else ZERO", "ZERO")),
    "use is not counted anew": ("self._used = self._granted = ZERO", "self._granted = ZERO"),
    "what grants paid is not counted anew": ("self._used = self._granted = ZERO", "self._used = ZERO"),
    "a void is an expiry": ('"voided" if is_voided else "expired"', '"expired"'),
    "an expiry is a void": ("grant.voided_at == grant.ends_at", "True"),
    "what is lost was given": ('"given" if change > 0 else lost', '"given"'),
    "the last reset comes first": ("sorted(set(resets))", "sorted(set(resets), reverse=True)"),
}  # fmt: skip


@cache
def source() -> str:
    return inspect.getsource(burndown).replace("import bisect_left", "import bisect_left, bisect_right")


@pytest.mark.parametrize(("number", "mutant"), list(enumerate(MUTANTS.values())), ids=MUTANTS)
def test_a_mutant_is_caught(number: int, mutant: tuple[str, str]) -> None:
    find, put = mutant
    assert source().count(find) == 1, "the mutant has to be rewritten with the module"
    name = f"entitlements.burndown_{number}"
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        exec(compile(source().replace(find, put), name, "exec"), module.__dict__)
        assert is_caught(module)
    finally:
        del sys.modules[name]
