"""A seeded quarter in which nobody looks: two schedulers over one workspace, and everything that happens to them.

Enters: a seed, when the schedulers wake, a folder. Leaves: the books and the fake Stripe after the quarter. On the way both are
down for days, the provider is away for one, schedulers die in the middle of a step or stand still there until another has
taken it over, one does what the other was about to begin, usage comes late, clocks change. No sleeps: time is a clock that is
told. What must be true at the end is in `breaks`, which adds up in plain Decimal what it recorded itself.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from billing_adapters.deliveries import list_deliveries
from billing_adapters.testing.contract import Crashed
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering import Recorder
from metering.clock import FixedClock, from_us
from rating.close import read_closes
from tallybook import Workspace
from tallybook.books import reading
from tallybook.due import Markers
from tallybook.run_books import Run, list_runs
from tallybook.runner import LEASE, Runner
from tallybook.steps import Step

BEGIN, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2027, 1, 3, 12, tzinfo=UTC)
MONTHS = ("2026-10", "2026-11", "2026-12")
FEE, UNIT_PRICE = Decimal("49.00"), Decimal("0.25")
ZONES = {"berlin": "Europe/Berlin", "angeles": "America/Los_Angeles", "utc": "UTC", "kiritimati": "Pacific/Kiritimati"}
PLAN = """
  - name: {name}
    version: 1
    currency: USD
    billing_period: {{every: month, anchor: calendar, timezone: {zone}}}
    prices:
      - {{id: fee, type: flat, amount: "49.00"}}
      - {{id: tokens, meter: tokens, type: unit, unit_price: "0.25"}}
"""
# Both schedulers are down: over a month's end for days, and for some hours of a night.
DOWN = ((datetime(2026, 10, 30, 9, tzinfo=UTC), datetime(2026, 11, 4, 7, tzinfo=UTC)),
        (datetime(2026, 12, 10, 1, tzinfo=UTC), datetime(2026, 12, 10, 9, tzinfo=UTC)))  # fmt: skip
# The provider is away for the day after November's invoices are made.
AWAY = (datetime(2026, 12, 1, 8, tzinfo=UTC), datetime(2026, 12, 2, 14, tzinfo=UTC))
# Nothing is recorded for a month that is closed, but this: it comes late, and is booked with the next month.
GRACE = timedelta(minutes=180)
# What compares each control point with its neighbour.
NEIGHBOURS = frozenset(
    {
        "SEQUENCE_GAP", "BATCH_TOTALS", "STORED_ATTRIBUTED", "ATTRIBUTED_RATED", "RATED_INVOICED", "CLOSE_REWRITTEN",
        "INVOICE_NOT_DELIVERED", "INVOICED_DELIVERED", "DELIVERED_HELD", "HELD_COLLECTED",
    }
)  # fmt: skip
LATE_AT = datetime(2026, 12, 5, tzinfo=UTC)
SETTINGS = """
[books]
url = "{books}"
[delivery.stripe]
from = 2026-10-01
address = "{address}"
[run]
from = 2026-10-01
timezone = "Europe/Berlin"
[run.steps]
ship = "every 1 hours"
maintain = "{maintain}"
rate = "{daily}"
reconcile_open = "{daily}"
deliver = "every 1 hours"
alerts = "off"
thresholds = "off"
[files]
formats = ["csv"]
"""


def dense() -> list[datetime]:
    """Return every sixth hour of the quarter, and all that `sparse` returns."""
    every = [BEGIN + number * timedelta(hours=6) for number in range((END - BEGIN) // timedelta(hours=6))]
    return sorted({*every, *sparse()})


def sparse() -> list[datetime]:
    """Return the hours of the quarter at which something happens: edges of months in all zones, of outages, and some between."""
    edges = [*(at for span in (*DOWN, AWAY) for at in span), LATE_AT, datetime(2026, 10, 25, 1, tzinfo=UTC)]
    for month in (
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    ):
        edges += [month + timedelta(hours=hours) for hours in (-14, 0, 2, 12)]
        # Just before and after the month ends in Berlin and in Los Angeles, whose clocks were changed since it began; and when
        # its grace is over by UTC, and Los Angeles still has hours of it.
        edges += [month + timedelta(hours=hours) for hours in (-1.5, -0.5, 4, 6.5, 7.5, 8.5)]
    edges += [BEGIN, END, *(AWAY[0] + timedelta(hours=hours) for hours in (8, 16))]
    return sorted(set(edges))


class Interrupted(Workspace):
    """A workspace whose steps tell a story before and after they do their work."""

    moment: Callable[[str], object] = staticmethod(lambda _what: None)

    def _told(self, what: str, work: Callable[[], Any]) -> Any:
        self.moment(f"before {what}")
        done = work()
        self.moment(f"after {what}")
        return done

    def ship(self) -> Any:
        return self._told("ship", super().ship)

    def close_period(self, period: str) -> Any:
        return self._told("close", lambda: super(Interrupted, self).close_period(period))

    def invoice(self, period: str, *, final: bool = False) -> Any:
        return self._told("invoice", lambda: super(Interrupted, self).invoice(period, final=final))

    def deliver(self, *names: Any, **options: Any) -> Any:
        options["wait"] = lambda _seconds: None
        return self._told("deliver", lambda: super(Interrupted, self).deliver(*names, **options))

    def report(self, period: str, **options: Any) -> Any:
        return self._told("reconcile", lambda: super(Interrupted, self).report(period, **options))


class Racing(Runner):
    """A runner that tells a story between its look at the markers and its claim."""

    story: Callable[[str], object] = staticmethod(lambda _grain: None)

    def _once(self, step: Step, place: str, as_of: datetime, markers: Markers) -> list[Run]:
        if (step.name, place) in markers and self._standing(step, place, markers, as_of).obstacle is None:
            self.story(step.grain)
        return super()._once(step, place, as_of, markers)


class Quarter:
    """One seed's quarter. `told` counts what happened, so that a test can show that everything did."""

    def __init__(
        self,
        root: Path,
        seed: int,
        *,
        wakes: Sequence[datetime],
        books: str = "sqlite:///books.sqlite",
        is_whole: bool = False,
    ) -> None:
        self.root, self.seed, self.wakes, self.books, self.is_whole = root, seed, wakes, books, is_whole
        self.chance = random.Random(seed)
        self.clock = FixedClock(BEGIN)
        self.fake = StripeFake(self.clock, fault=self._fault)
        self.told: Counter[str] = Counter()
        self.used: defaultdict[str, list[tuple[datetime, int]]] = defaultdict(list)
        self.depth = 0

    @property
    def now(self) -> datetime:
        return from_us(self.clock.now_us())

    def _fault(self, _method: str, _path: str) -> str | None:
        if AWAY[0] <= self.now < AWAY[1]:
            self.told["the provider is away"] += 1
            return "away"
        return "lost" if self.chance.random() < 0.02 else None

    # --- the story ----------------------------------------------------------------------------------------------------

    def play(self) -> Quarter:
        with serve(self.fake) as address:
            self._found(address)
            self.runners = [self._runner(number) for number in (1, 2)]
            self.recorder = Recorder(self.root, ship="none", clock=self.clock)
            for at in self.wakes:
                # A step that stood still took its time.
                self.clock.advance(max(at - self.now, timedelta(0)))
                self._use()
                if not any(start <= at < end for start, end in DOWN):
                    self._wake()
            self.recorder.close()
            # The quarter is over, and so are the storms: what still waits is done within two days.
            self.is_calm = True
            for _ in range(3):
                self.clock.advance(timedelta(hours=13))
                self._wake()
            for runner in self.runners:
                runner.workspace.close()
        return self

    is_calm = False

    def _found(self, address: str) -> None:
        with Workspace.init(self.root, clock=self.clock) as made:
            plans = "".join(PLAN.format(name=name, zone=zone) for name, zone in ZONES.items())
            accounts = "".join(f"  - {{id: {name}-inc, name: {name}, tenants: [{name}]}}\n" for name in ZONES)
            held = "".join(
                f'  - {{id: sub-{name}, tenant: {name}, plan: {name}, version: 1, from: "2026-10-01"}}\n'
                for name in ZONES
            )
            text = f"meters: [{{name: tokens}}]\nplans:{plans}accounts:\n{accounts}subscriptions:\n{held}"
            (made.layout.catalog / "all.yaml").write_text(text, encoding="utf-8")
            maintain, daily = ("hourly at :40", "daily at 02:30") if self.is_whole else ("off", "off")
            settings = SETTINGS.format(books=self.books, address=address, maintain=maintain, daily=daily)
            made.layout.settings_file.write_text(settings, encoding="utf-8")
        with Workspace(self.root, clock=self.clock) as again:
            again.apply()

    def _runner(self, number: int) -> Runner:
        workspace = Interrupted(self.root, clock=self.clock)
        workspace.moment = self._moment  # type: ignore[method-assign]
        made = Racing(workspace, holder=f"scheduler-{number}", chance=self.chance.random, on_run=self._ran)
        made.story = self._overtake  # type: ignore[method-assign]
        return made

    def _overtake(self, grain: str) -> None:
        """Let another do all that is due after this one has seen that it is, and before it claims it."""
        if not self.is_calm and self.depth == 0 and self.chance.random() < (0.3 if grain == "month" else 0.02):
            self.told["the other was faster"] += 1
            self._other_runs()

    def _other_runs(self) -> None:
        self.depth += 1
        runner = self._runner(1000 + sum(self.told.values()))
        runner.run_due()
        runner.workspace.close()
        self.depth -= 1

    def _ran(self, run: Run) -> None:
        # Counted as they end: of passes the books keep five weeks.
        self.told[f"{run.step} was {run.outcome}"] += 1

    def _use(self) -> None:
        """Record usage of now; at the edges of months and of clocks, of these very instants."""
        for name in ZONES:
            quantity = self.chance.randint(1, 400)
            self.recorder.record("tokens", tenant=name, quantity=quantity)
            self.used[name].append((self.now, quantity))
        if self.now >= LATE_AT and not self.told["usage comes late"]:
            for name in ZONES:
                late = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
                self.recorder.record("tokens", tenant=name, quantity=1000, event_time=late)
                self.used[name].append((late, 1000))
                self.told["usage comes late"] += 1
        self.recorder.flush()
        self.recorder.seal()

    def _wake(self) -> None:
        for runner in self.chance.sample(self.runners, 2):
            try:
                runner.run_due()
            except Crashed:
                # Its place is taken by a process with another name.
                self.told["a scheduler died"] += 1
                at = self.runners.index(runner)
                runner.workspace.close()
                self.runners[at] = self._runner(100 + self.told["a scheduler died"])

    def _moment(self, what: str) -> None:
        """In the middle of a step the process may die, or stand still while the other runs, for longer than its lease too."""
        if self.is_calm or self.depth > 0:
            return
        rare = what.endswith(("close", "invoice", "reconcile"))
        chance = self.chance.random()
        if chance < (0.25 if rare else 0.01):
            raise Crashed(what)
        if chance < (0.6 if rare else 0.03):
            is_long = self.chance.random() < 0.6
            if is_long:
                self.clock.advance(LEASE + timedelta(seconds=1))
            self.told["overtaken in the middle" if is_long else "the other looks in the middle"] += 1
            self._other_runs()

    # --- what must be true --------------------------------------------------------------------------------------------

    def breaks(self) -> list[str]:
        """Return what is not as it must be; each a sentence."""
        with Workspace(self.root, clock=self.clock) as workspace:
            with reading(workspace.books) as connection:
                runs, closes = list_runs(connection), [one for one in read_closes(connection) if not one.is_draft]
                deliveries = list_deliveries(connection)
            invoices = [one for one in workspace.invoices() if one.status == "final"]
            found = [*self._broken_runs(runs), *self._broken_money(invoices)]
            found += [f"{one.invoice_id} is not what its close says" for one in workspace.verify() if not one.matches]
            found += self._broken_between(workspace)
        complete = Counter(f"{close.period_start:%Y-%m}" for close in closes)
        if complete != Counter(MONTHS) or not all(one.is_complete for one in closes):
            found.append(f"closes: {complete}")
        for close in closes:
            over = max(_month(f"{close.period_start:%Y-%m}", zone)[1] for zone in ZONES.values())
            if close.as_of < over + GRACE:
                found.append(
                    f"{close.period_start:%Y-%m} was closed at {close.as_of}, and is over everywhere at {over}"
                )
        if {one.state for one in deliveries} != {"delivered"} or len(deliveries) != len(invoices):
            found.append(f"deliveries: {Counter(one.state for one in deliveries)} of {len(invoices)} invoices")
        ours = {one.number: int(one.amount_due * 100) for one in invoices}
        theirs = [(one["number"], one["total"], one["status"]) for one in self.fake.store.all("invoice")]
        if sorted(theirs) != sorted((number, total, "open") for number, total in ours.items()):
            found.append(f"the provider has {sorted(theirs)}, and we {sorted(ours.items())}")
        return found

    def _broken_between(self, workspace: Workspace) -> list[str]:
        """Whatever crashed and came late: every month is conserved, and nothing changed between two control points."""
        found = []
        for month in MONTHS:
            statement = workspace.reconcile(month)
            if not statement.is_conserved:
                found.append(f"{month} is not conserved: {statement.unexplained}")
            between = [one for one in statement.findings if one.control_id in NEIGHBOURS]
            found += [f"{month}: {one.control_id} {one.reason} {one.detail}" for one in between]
        return found

    def _broken_runs(self, runs: list[Run]) -> list[str]:
        found = []
        for step in ("close", "invoice", "reconcile"):
            done = [one.period for one in reversed(runs) if one.step == step and one.outcome in {"done", "finding"}]
            if done != list(MONTHS):
                found.append(f"{step} was done for {done}")
            if any(one.outcome == "finding" for one in runs if one.step == step):
                found.append(f"{step} found {[one.detail for one in runs if one.step == step]}")
        strange = {one.outcome for one in runs} - {"done", "interrupted", "overtaken", "failed", "finding"}
        found += [f"a run ended {outcome}" for outcome in strange]
        self.told.update(f"a run ended {one.outcome}" for one in runs)
        return found

    def _broken_money(self, invoices: list[Any]) -> list[str]:
        found = []
        for name, zone in ZONES.items():
            lines = [line for one in invoices if one.account_id == f"{name}-inc" for line in one.lines]
            for month in MONTHS:
                begin, end = _month(month, zone)
                due = FEE + UNIT_PRICE * sum(quantity for at, quantity in self.used[name] if begin <= at < end)
                # What came late stands on a later invoice, and belongs to this month all the same.
                ours = sum((line.amount for line in lines if line.period_start == begin), Decimal(0))
                if ours != due:
                    found.append(f"{name} was invoiced {ours} for {due} of {month}")
            if sum((one.total for one in invoices if one.account_id == f"{name}-inc"), Decimal(0)) != sum(
                (line.amount for line in lines), Decimal(0)
            ):
                found.append(f"the invoices of {name} are not the sum of their lines")
        return found


def _month(month: str, zone: str) -> tuple[datetime, datetime]:
    """Return when a month begins and ends in a zone."""
    year, number = (int(part) for part in month.split("-"))
    begin = datetime(year, number, 1, tzinfo=ZoneInfo(zone))
    return begin, datetime(year + number // 12, number % 12 + 1, 1, tzinfo=ZoneInfo(zone))
