"""The slow, obvious burn-down: time is walked from one interesting instant to the next, and each is lived through in order.

It shares no code with `entitlements`: grants, usage and resets as plain dicts, one list of instants, one state that is
changed step by step. Written from the price models, section 8.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

Row = dict[str, Any]
ZERO = Decimal(0)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def ends(grant: Row) -> datetime:
    return min(grant.get("expires_at", NEVER), grant.get("voided_at", NEVER))


def active(grant: Row, at: datetime) -> bool:
    return bool(grant["from"] <= at < ends(grant))


def order(grant: Row) -> tuple[Any, ...]:
    return grant["priority"], grant.get("expires_at", NEVER), grant["created_at"] or NEVER, grant["id"]


def recurs(grant: Row, at: datetime) -> bool:
    """Is this instant one of anchor + n x days, while the grant is active?"""
    if at in grant.get("due", ()):
        return active(grant, at)
    if "every_days" not in grant or not active(grant, at):
        return False
    return (at - grant["anchor"]) % timedelta(days=grant["every_days"]) == timedelta(0)


def instants(grants: list[Row], start: datetime, until: datetime) -> set[datetime]:
    """Return every instant at which a grant begins, ends or recurs."""
    found = set()
    for grant in grants:
        found |= {grant["from"], ends(grant), *grant.get("due", ())}
        if "every_days" in grant:
            step = timedelta(days=grant["every_days"])
            first = grant["anchor"] + step * ((start - grant["anchor"]) // step)
            found |= {first + step * n for n in range((until - first) // step + 2)}
    return found


class Walk:
    """One state, changed step by step."""

    def __init__(self, grants: list[Row], start: Row) -> None:
        self.grants = sorted(grants, key=order)
        self.left = {grant["id"]: start["balances"].get(grant["id"], ZERO) for grant in grants}
        self.overage, self.usage, self.paid = start["overage"], start["usage"], start["paid"]
        # What became of each grant: put in, taken out by name.
        self.given = dict.fromkeys(self.left, ZERO)
        self.taken = {name: dict.fromkeys(self.left, ZERO) for name in ("used", "expired", "voided")}
        # All that was ever paid; at the end without what is due at that very instant, which pays for what comes after.
        self.paid_ever = self.paid_by_end = ZERO
        self.open_stretch()

    def open_stretch(self) -> None:
        """From here on nothing begins, ends or recurs until the next call: its use counts as a whole."""
        self.opened = dict(self.left), dict(self.taken["used"]), self.overage, self.paid, self.paid_ever
        self.used_in_it = ZERO

    def use(self, quantity: Decimal) -> None:
        """Burn down from the opening of the stretch again, with all that was used in it so far."""
        self.usage += quantity
        self.used_in_it += quantity
        left, used, overage, self.paid, self.paid_ever = self.opened
        self.left, self.taken["used"] = dict(left), dict(used)
        self.burn(overage + self.used_in_it)

    def burn(self, need: Decimal) -> None:
        for grant in self.grants:
            taken = max(ZERO, min(self.left[grant["id"]], need))
            self.left[grant["id"]] -= taken
            self.taken["used"][grant["id"]] += taken
            self.paid += taken
            self.paid_ever += taken
            need -= taken
        self.overage = need

    def end_grants(self, at: datetime) -> None:
        for grant in self.grants:
            if not active(grant, at):
                void = grant.get("voided_at", NEVER) <= grant.get("expires_at", NEVER)
                self.taken["voided" if void else "expired"][grant["id"]] += self.left[grant["id"]]
                self.left[grant["id"]] = ZERO

    def put(self, grant: Row, balance: Decimal) -> None:
        """A balance is set: more than there was is given, less is lost as what expires."""
        before = self.left[grant["id"]]
        self.given[grant["id"]] += max(balance - before, ZERO)
        self.taken["expired"][grant["id"]] += max(before - balance, ZERO)
        self.left[grant["id"]] = balance

    def reset(self, at: datetime, keep: bool) -> None:
        for grant in self.grants:
            if active(grant, at) and grant["from"] < at:
                self.put(grant, min(grant["max"], max(grant["min"], self.left[grant["id"]])))
        self.usage = self.paid = ZERO
        self.burn(self.overage if keep else ZERO)

    def begin_grants(self, at: datetime) -> None:
        for grant in self.grants:
            if active(grant, at) and grant["from"] == at:
                self.put(grant, grant["amount"])

    def refill_grants(self, at: datetime) -> bool:
        due = [grant for grant in self.grants if recurs(grant, at) and grant["from"] < at]
        for grant in due:
            self.put(grant, grant["amount"])
        return bool(due)


def walk(
    grants: list[Row],
    usage: list[tuple[datetime, Decimal]],
    start: Row,
    until: datetime,
    resets: list[datetime],
    keep: bool | list[datetime],
) -> Row:
    """Return the state at `until`: balances, overage, usage and what grants paid since the last reset."""
    state = walked(grants, usage, start, until, resets, keep)
    return {"balances": state.left, "overage": state.overage, "usage": state.usage, "paid": state.paid}


def walked(
    grants: list[Row],
    usage: list[tuple[datetime, Decimal]],
    start: Row,
    until: datetime,
    resets: list[datetime],
    keep: bool | list[datetime],
) -> Walk:
    state = Walk(grants, start)
    times = {start["at"], until, *resets, *(at for at, _ in usage), *instants(grants, start["at"], until)}
    for at in sorted(one for one in times if start["at"] <= one <= until < NEVER and until > start["at"]):
        before = state.paid_ever
        state.end_grants(at)
        if at in resets:
            state.reset(at, keep if isinstance(keep, bool) else at in keep)
        is_due = state.refill_grants(at) if at > start["at"] else False
        is_cut = is_due or at in resets or any(at in {grant["from"], ends(grant)} for grant in grants)
        if at == until:
            state.paid_by_end = before
            # What begins at the very end is there, and pays nothing before the next run.
            if is_due:
                state.burn(state.overage)
            state.begin_grants(at)
            break
        state.begin_grants(at)
        if is_cut or at == start["at"]:
            state.open_stretch()
        # What was over is asked again of whatever is there now.
        state.use(sum((quantity for when, quantity in usage if when == at), ZERO))
    return state
