"""The checker: "may this tenant use this?", answered from memory, and "use it" as one act.

Enters: views from a `Source` (read in the background), and a recorder. Leaves: Decisions; usage events for what was let
through. Refuses: to guess silently. While the source is away the last view holds for `stale_after_s`; then each
entitlement answers as it declares (`on_outage`), and every such answer is counted.

A check is one look-up of an entry that was compiled when it was first asked for, and whole numbers. An entry belongs to one
view; a new view brings a new, empty table of entries, so nothing is ever invalidated. Rejected: compiling all entries of
all tenants at each refresh, which costs most for those who never ask.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from entitlements.decisions import BILLIONTHS, Decision, Standing, to_billionths
from entitlements.unshipped import Own, Unshipped, since_of
from entitlements.view import Rule, View

if TYPE_CHECKING:
    from entitlements.decisions import Reason
    from entitlements.view import Source
    from metering.bound import Bound
    from metering.recorder import Recorder

Quantity = int | Decimal
Record = Callable[[Quantity], object]

# More than any quantity: what is not limited is never beyond its limit.
ENDLESS = 1 << 200

_checkers: weakref.WeakSet[Checker] = weakref.WeakSet()


class HardQuotas(Protocol):
    """Who decides about hard limits, for all processes together (entitlements.leases). Safe for all threads."""

    def check(self, tenant: str, feature: str, quantity: Quantity) -> Decision:
        """Return whether so much could be had now, taking nothing."""
        ...

    def consume(self, tenant: str, feature: str, quantity: Quantity, record: Record) -> Decision:
        """Take so much, and record it, as one act; or nothing of both."""
        ...

    def close(self) -> None:
        """Return what this process holds and does not need."""
        ...


@dataclass(frozen=True, slots=True)
class CheckerHealth:
    """How a checker is doing. `age_s` is the age of its view, None before the first; `error` why the last read failed.

    `answered_open` and `answered_closed` count the answers that were given because nothing fresh was known.
    """

    is_away: bool
    age_s: float | None
    reads: int
    failures: int
    error: BaseException | None
    answered_open: int
    answered_closed: int


class _Entry:
    """One (tenant, feature) of one view, ready to answer. `within` holds for whole quantities from 1 to `most`."""

    __slots__ = ("adds", "bound", "most", "own", "rule", "seen", "standing", "within")

    def __init__(self, rule: Rule | None, standing: Standing, own: Own, within: Decision, most: int) -> None:
        self.rule = rule
        self.standing = standing
        self.own = own
        self.within = within
        self.most = most
        self.seen = own.turn
        self.bound: Bound | None = None
        # Whether whole quantities may be taken off `most` one after the other; endless stays as good as endless.
        self.adds = rule is not None and rule.fold == "adds" and not rule.is_hard


class Checker:
    """Answer checks from a view in memory. One per process is enough; safe for all threads, tasks, and after a fork.

    Nothing is read before the first check (or `start`), so that a server may make it before it forks. The view is read
    again every `refresh_interval_s`, in a thread. `on_unknown` is the answer while there never was a view. Hard limits
    need `hard`; without it they are judged shut, never from memory. `on_close` gives back what the source holds.

    >>> entitled = Checker(source, recorder)                                    # doctest: +SKIP
    >>> entitled.check("acme", "sso").allowed                                   # doctest: +SKIP
    >>> entitled.consume("acme", "tokens", 512).remaining                       # doctest: +SKIP
    """

    def __init__(
        self,
        source: Source,
        recorder: Recorder | None = None,
        *,
        hard: HardQuotas | None = None,
        refresh_interval_s: float = 5,
        stale_after_s: float = 60,
        on_unknown: Literal["open", "closed"] = "closed",
        on_close: Callable[[], object] | None = None,
    ) -> None:
        if not 0 < refresh_interval_s <= stale_after_s or on_unknown not in {"open", "closed"}:
            raise ValueError(
                f"refresh_interval_s ({refresh_interval_s}) is above 0 and at most stale_after_s ({stale_after_s}), and "
                f'on_unknown is "open" or "closed", not {on_unknown!r}'
            )
        self._source = source
        self._recorder = recorder
        self._hard = hard
        self._on_close = on_close
        self._refresh_interval_s = refresh_interval_s
        self._stale_after_s = stale_after_s
        self._opens_unknown = on_unknown == "open"
        self._view: View | None = None
        self._read_at_s = -math.inf
        self._reads = self._failures = self._answered_open = self._answered_closed = 0
        self._error: BaseException | None = None
        self._is_closed = False
        self._be_new()
        _checkers.add(self)

    def _be_new(self) -> None:
        """Begin in this process: at first, and in the child of a fork, whose parent ships what the parent used."""
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._home = os.getpid()
        self._unshipped = Unshipped()
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._is_away = False
        # Until then nothing needs to be looked after. A check compares the clock with it, so that neither a thread that
        # died nor a fork that nobody noticed can make an old view last.
        self._due_s = -math.inf

    def start(self) -> Self:
        """Read the first view now, and begin to refresh. The first check does it otherwise. Never raises for the source."""
        self._look_after()
        return self

    def check(self, tenant: str, feature: str, quantity: Quantity = 1) -> Decision:
        """Return whether a tenant may use so much of a feature now. Records nothing, reads nothing, blocks nothing.

        `quantity` is in units of the meter; boolean and static entitlements do not look at it. Zero asks whether anything
        is left. Raises TypeError and ValueError for a quantity that is no exact number.
        """
        if time.monotonic() < self._due_s:
            try:
                entry = self._entries[tenant, feature]
            except KeyError:
                pass
            else:
                if type(quantity) is int and 0 < quantity <= entry.most and entry.seen == entry.own.turn:
                    return entry.within
        return self._check_slowly(tenant, feature, quantity)

    def consume(
        self, tenant: str, feature: str, quantity: Quantity = 1, *, key: str | None = None, **attributes: Any
    ) -> Decision:
        """Check and record as one act: what is let through is a usage event when this returns; what is not, is not.

        The decision says what is left afterwards. `key` and `attributes` are those of the event, as in `Recorder.record`,
        with its errors. Features without a meter are only checked. A retry with the same key is one event; until the
        next view but one it may count twice here.
        """
        if time.monotonic() >= self._due_s:
            self._look_after()
        with self._lock:
            entry = self._entry_now(tenant, feature)
            # `key` and `attributes` are rare, and so is what does not fit.
            is_plain = key is None and not attributes and type(quantity) is int
            if is_plain and 0 < quantity <= entry.most and entry.bound and entry.adds and entry.seen == entry.own.turn:
                return self._consume_quickly(entry, entry.bound, quantity)
            rule = entry.rule
            if rule is None or not rule.is_hard or self._hard is None:
                units = quantity * BILLIONTHS if type(quantity) is int else to_billionths(quantity)
                decision = self._decide(entry, units)
                if not decision.allowed or rule is None or rule.meter is None:
                    return decision
                self._record(entry, tenant, rule.meter, quantity, key, attributes)
                entry.own.take(units, rule.fold, self._unshipped.mark)
                self._renew(entry)
                after = entry.within
                if decision.reason == after.reason:
                    return after
                return Decision(True, decision.reason, entry.standing, after.since)
        # A lease may have to be fetched from the books: nobody else waits for that.
        return self._consume_hard(self._hard, entry, quantity, key, attributes)

    def _consume_quickly(self, entry: _Entry, bound: Bound, quantity: Any) -> Decision:
        """Consume a whole quantity that is known to fit, of a meter that adds up. Needs the lock."""
        own = entry.own
        bound.add(quantity)
        own.total += quantity * BILLIONTHS
        own.changed = self._unshipped.mark
        # First the turn and last `seen`: a check without the lock takes the long way in between.
        own.turn += 1
        decision = entry.within = Decision(True, entry.within.reason, entry.standing, own.total)
        entry.most -= quantity
        entry.seen = own.turn
        return decision

    async def check_async(self, tenant: str, feature: str, quantity: Quantity = 1) -> Decision:
        """Return what `check` returns, without ever holding up the event loop."""
        if self._must_wait(tenant, feature):
            import asyncio

            return await asyncio.to_thread(self.check, tenant, feature, quantity)
        return self.check(tenant, feature, quantity)

    async def consume_async(
        self, tenant: str, feature: str, quantity: Quantity = 1, *, key: str | None = None, **attributes: Any
    ) -> Decision:
        """Check and record as `consume` does, without ever holding up the event loop."""
        if self._must_wait(tenant, feature):
            import asyncio

            return await asyncio.to_thread(self.consume, tenant, feature, quantity, key=key, **attributes)
        return self.consume(tenant, feature, quantity, key=key, **attributes)

    def refresh(self) -> bool:
        """Read the view now; return whether it could be read. Never raises for the source; see `health`."""
        with self._reading:
            with self._lock:
                totals = self._unshipped.totals()
            # After the totals: whatever they hold is at this position at the latest.
            position = None if self._recorder is None else self._recorder.position()
            with self._lock:
                self._unshipped.note(totals, position)
            try:
                view = self._source.read()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as away:  # noqa: BLE001 - pyo3's panics are no Exceptions; kept, counted, shown in health
                self._failures += 1
                self._error = away
                return False
            with self._lock:
                self._unshipped.drop_shipped(view.cut)
                self._view, self._entries, self._is_away = view, {}, False
                self._read_at_s, self._error = time.monotonic(), None
                self._reads += 1
            return True

    def health(self) -> CheckerHealth:
        """Return how this checker is doing. Never raises, reads nothing."""
        age = None if self._view is None else time.monotonic() - self._read_at_s
        return CheckerHealth(
            self._is_away, age, self._reads, self._failures, self._error, self._answered_open, self._answered_closed
        )

    def close(self) -> None:
        """End the refreshing, and return the leases. Checks go on from the last view, until it is too old.

        Raises what the books raise while they are away: what is not returned counts as spent.
        """
        self._is_closed = True
        self._wake.set()
        try:
            if self._hard is not None:
                self._hard.close()
        finally:
            # A read that is under way ends first.
            with self._reading:
                if self._on_close is not None:
                    self._on_close()

    @property
    def view(self) -> View | None:
        """Return the view that answers now. None: none was read yet."""
        return self._view

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _check_slowly(self, tenant: str, feature: str, quantity: Quantity) -> Decision:
        units = to_billionths(quantity)
        if time.monotonic() >= self._due_s:
            self._look_after()
        with self._lock:
            entry = self._entry_now(tenant, feature)
            if entry.rule is None or not entry.rule.is_hard or self._hard is None:
                return self._decide(entry, units)
            counts = entry.rule.fold == "counts"
        return self._hard.check(tenant, feature, 1 if counts else quantity)

    def _entry_now(self, tenant: str, feature: str) -> _Entry:
        """Return the entry of the view that holds now, compiled if nobody asked for it before. Needs the lock."""
        entry = self._entries.get((tenant, feature))
        if entry is None:
            entry = self._compile(tenant, feature)
            # An entry without a rule is rebuilt each time, so that names from outside cannot fill the memory.
            if entry.rule is not None and not self._is_away:
                self._entries[tenant, feature] = entry
        return entry

    def _compile(self, tenant: str, feature: str) -> _Entry:
        view = self._view
        held = None if view is None else view.held(tenant)
        rule = None if held is None else held.rules.get(feature)
        if held is None or rule is None:
            standing = Standing(tenant, feature)
            reason: Reason = "not_effective" if held is not None and feature in held.elsewhen else "no_entitlement"
            return _Entry(None, standing, Own(), Decision(False, reason, standing), 0)
        standing = held.standing(tenant, rule)
        own = Own() if rule.meter is None else self._unshipped.cell(tenant, rule.meter, rule.fold)
        entry = _Entry(rule, standing, own, Decision(True, "granted", standing), 0)
        if not self._is_away:
            self._renew(entry)
        return entry

    def _renew(self, entry: _Entry) -> None:
        """Work out the answer for whole quantities and how far it reaches, from this process's use as it is now."""
        rule, standing, own = entry.rule, entry.standing, entry.own
        seen = own.turn
        if rule is None or rule.is_hard or not rule.is_on:
            entry.most, entry.seen = 0, seen
            return
        if standing.limit is None:
            # What is used of it changes nothing, but is told.
            since = 0 if rule.meter is None else since_of(own, rule.fold, standing.used)
            entry.within, most = Decision(True, "granted", standing, since), ENDLESS
        else:
            since = since_of(own, rule.fold, standing.used)
            entry.within, most = Decision(True, "within_quota", standing, since), _most(rule, standing, since)
        # In this order: a check without the lock compares `seen` last.
        entry.most, entry.seen = most // BILLIONTHS, seen

    def _decide(self, entry: _Entry, units: int) -> Decision:
        """Return the answer for a quantity in billionths. Needs the lock."""
        rule, standing = entry.rule, entry.standing
        if rule is None:
            return self._unknown(standing) if self._view is None else entry.within
        if not rule.is_on:
            return Decision(False, "switched_off", standing)
        if rule.is_hard:
            # Who decides about hard limits is not here; see `HardQuotas`.
            return Decision(False, "lease_refused", standing)
        if self._is_away:
            return self._away(rule.opens_on_outage, standing)
        if entry.seen != entry.own.turn:
            self._renew(entry)
        if standing.limit is None or units < 0:
            return entry.within
        since = entry.within.since
        most = _most(rule, standing, since)
        if units <= most if units else most > 0:
            return entry.within
        return Decision(not rule.stops, "quota_exhausted" if rule.stops else "soft_limit_exceeded", standing, since)

    def _unknown(self, standing: Standing) -> Decision:
        return self._away(self._opens_unknown, standing)

    def _away(self, opens: bool, standing: Standing) -> Decision:
        if opens:
            self._answered_open += 1
            return Decision(True, "books_away_open", standing)
        self._answered_closed += 1
        return Decision(False, "books_away_closed", standing)

    def _record(
        self, entry: _Entry, tenant: str, meter: str, quantity: Quantity, key: str | None, attributes: dict[str, Any]
    ) -> None:
        recorder = self._recorder
        if recorder is None:
            raise ValueError("this checker has no recorder to consume with; make it with Checker(source, recorder)")
        if key is None and not attributes:
            bound = entry.bound
            if bound is None:
                bound = entry.bound = recorder.bind(meter, tenant=tenant)
            bound.add(quantity)
        else:
            recorder.record(meter, tenant=tenant, quantity=quantity, key=key, **attributes)

    def _consume_hard(
        self, hard: HardQuotas, entry: _Entry, quantity: Quantity, key: str | None, attributes: dict[str, Any]
    ) -> Decision:
        tenant, meter = entry.standing.tenant, None if entry.rule is None else entry.rule.meter

        def record(taken: Quantity) -> None:
            if meter is not None:
                self._record(entry, tenant, meter, taken, key, attributes)

        rule, recorded = entry.rule, quantity
        if rule is not None and rule.fold == "counts":
            # Each event counts once, whatever its quantity.
            return hard.consume(tenant, entry.standing.feature, 1, lambda _one: record(recorded))
        return hard.consume(tenant, entry.standing.feature, quantity, record)

    def _must_wait(self, tenant: str, feature: str) -> bool:
        """Return whether an answer may have to wait for a disk or the books."""
        if self._view is None:
            return True
        rule = self._view.held(tenant).rules.get(feature)
        return rule is not None and rule.is_hard

    def _look_after(self) -> None:
        """See to it that the view is refreshed, and is given up when it is too old."""
        if os.getpid() != self._home:
            self._be_new()
        # The first is read here, once: whoever asks before there is any view waits for it.
        if self._view is None and self._reads + self._failures == 0:
            self.refresh()
        with self._lock:
            now = time.monotonic()
            if not self._is_closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(
                    target=_keep_fresh,
                    args=(weakref.ref(self), self._wake, self._refresh_interval_s),
                    name="entitlements-refresh",
                    daemon=True,
                )
                self._thread.start()
            stale_s = self._read_at_s + self._stale_after_s
            if now >= stale_s and self._view is not None and not self._is_away:
                self._is_away, self._entries = True, {}
            self._due_s = (
                min(now + self._refresh_interval_s, stale_s) if now < stale_s else now + self._refresh_interval_s
            )


def _most(rule: Rule, standing: Standing, since: int) -> int:
    """Return the largest quantity, in billionths, that still fits."""
    left, limit = standing.remaining - since, standing.limit or 0
    if rule.fold == "adds":
        return left
    if rule.fold == "counts":
        return ENDLESS if left >= BILLIONTHS else 0
    if rule.fold == "raises":
        return limit if left >= 0 else 0
    if rule.fold == "sets":
        return limit
    # A ceiling whose next value only the lake can tell: it holds until it is reached.
    return ENDLESS if left > 0 else 0


def _keep_fresh(checker: weakref.ref[Checker], wake: threading.Event, interval_s: float) -> None:
    while not wake.wait(interval_s):
        one = checker()
        if one is None:
            return
        one.refresh()
        del one


def _after_fork() -> None:
    for checker in list(_checkers):
        checker._be_new()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_after_fork)
