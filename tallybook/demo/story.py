"""The whole way on a made-up company: record, ship, rate, invoice, deliver, reconcile, explain, verify.

Enters: an empty folder. Leaves: a workspace in it to look around in, and a story on the terminal.
Refuses: to fake anything. Real producer processes record a month of usage, one is killed with SIGKILL in mid-flight and
another takes over; a partner's file brings duplicates, a stranger and a row that is no event; October is invoiced; late
events follow and become corrections of November's invoices. A gateway's count of requests shows
what was never metered. Every figure printed is read back from the result.
"""

from __future__ import annotations

import csv
import mmap
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console

from billing_adapters.reconciliation.report_files import write_whole
from billing_adapters.reconciliation.report_page import report_page, shown
from billing_adapters.reconciliation.report_terminal import report_table
from billing_adapters.reconciliation.witness import read_witness
from metering.clock import FixedClock
from rating.errors import AlreadyFinal
from rating.rounding import exact_sum
from tallybook import show
from tallybook.demo.leaks import REGION, SETTINGS, gateway_file, judge
from tallybook.demo.workload import COUNT, TENANTS, accounts_and_subscriptions, tenant_name
from tallybook.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from rating.invoice import Invoice, InvoiceLine
    from tallybook.demo.leaks import Leak

PRODUCERS = 4
KILLED = PRODUCERS - 1
REPEATED = 50
MARKER = ".tallybook-demo"
CLOSE_OCTOBER = datetime(2026, 11, 1, 6, tzinfo=UTC)
CLOSE_NOVEMBER = datetime(2026, 12, 1, 6, tzinfo=UTC)


@dataclass(slots=True)
class _Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.monotonic() - begun


def run_demo(folder: Path, *, events: int, out: Console) -> bool:
    """Run the demo in `folder` and tell its story. Return whether everything was conserved, verified and exact."""
    clock = FixedClock(CLOSE_OCTOBER)
    root = _fresh(folder)
    with Workspace.init(root, clock=clock):
        pass
    # Of what the settings say the page of reconciliation speaks.
    (root / "tallybook.toml").write_text(SETTINGS, encoding="utf-8")
    with Workspace(root, clock=clock) as workspace:
        _write_catalog(workspace)
        workspace.apply()
        story = _Story(workspace, clock, events, out)
        is_good = [
            story.capture(),
            story.invoice(),
            story.reconcile(),
            story.explain(),
            story.verify(),
        ]
        story.tell_times()
    return all(is_good)


@dataclass(slots=True)
class _Story:
    """The chapters of the demo. Each does one step, prints what came of it, and returns whether it is as it must be."""

    workspace: Workspace
    clock: FixedClock
    events: int
    out: Console
    watch: _Stopwatch = field(default_factory=_Stopwatch)
    october: list[Invoice] = field(default_factory=list)

    def capture(self) -> bool:
        """Record, import and ship; count what survived."""
        root = self.workspace.layout.root
        self._chapter("record")
        with self.watch.time("record"):
            acknowledged = _record(root, self.events, self.out)
        with self.watch.time("import"):
            partner = self.workspace.import_files([_partner_file(root)])[0]
        self.out.print(
            f"A partner's file: {partner.stored:,} usage events, {partner.dead_letters} row that is no event."
        )
        self._chapter("ship")
        with self.watch.time("ship"):
            shipped = self.workspace.ship()
        survived = _recorded_by_processes(self.workspace)
        self.out.print(
            f"{shipped.rows:,} rows in {shipped.segments:,} segments. Of {acknowledged:,} acknowledged events "
            f"{survived.kept:,} are in the lake: {acknowledged - survived.kept} lost, none counted twice; "
            f"{survived.duplicates} were recorded again by the successor and count once."
        )
        return survived.kept == acknowledged and survived.duplicates >= REPEATED

    def invoice(self) -> bool:
        """Invoice October, publish its files, receive late events, invoice November."""
        self._chapter("invoice October")
        with self.watch.time("invoice"):
            self.october = self.workspace.invoice("2026-10", final=True).invoices
        with self.watch.time("files"):
            published = self.workspace.publish("2026-10")
        self.out.print(show.invoices(sorted(self.october, key=lambda one: -one.total)[:5], of=len(self.october)))
        self.out.print(f"All: {_summary(self.october)}")
        self.out.print(f"Files: {published}", highlight=False, soft_wrap=True)
        self._chapter("late events, and November")
        self.clock.advance(CLOSE_NOVEMBER - CLOSE_OCTOBER)
        with self.watch.time("import"):
            late = self.workspace.import_files([_late_file(self.workspace.layout.root)])[0]
        with self.watch.time("invoice"):
            november = self.workspace.invoice("2026-11", final=True).invoices
        corrections = [line for one in november for line in one.lines if line.kind == "correction"]
        self.out.print(
            f"{late.stored} events of October came after its invoices were final. "
            f"November's invoices carry them as {len(corrections)} correction lines: {_sums(corrections)}."
        )
        return bool(corrections)

    def reconcile(self) -> bool:
        """Reconcile October, keep what is found, write the page that finance opens."""
        self._chapter("reconcile October")
        root = self.workspace.layout.root
        with self.watch.time("witness"):
            others = [(row[0], datetime.fromisoformat(row[3])) for row in _partner_rows() if row[1] == "api_requests"]
            seen = read_witness(gateway_file(root / "gateway.csv", self.events, others))
        self.out.print(
            f"A gateway counted {seen.counted:,} requests of {len(REGION)} tenants by the hour. Some of them were never metered."
        )
        with self.watch.time("reconcile"):
            report = self.workspace.report("2026-10", witness=seen, preparer="demo")
            page = root / "reconciliation-2026-10.html"
            write_whole(page, lambda file: file.write(report_page(report)))
        self.out.print(report_table(report))
        leaks = judge(report)
        self.out.print(_leaks_table(leaks))
        self.out.print(f"The report that finance opens: {page}", highlight=False, soft_wrap=True)
        return report.statement.is_conserved and all(one.is_found for one in leaks)

    def explain(self) -> bool:
        """Explain the line that has the most to explain."""
        self._chapter("explain one line")
        with self.watch.time("explain"):
            explanation = self.workspace.explain(_line_to_explain(self.october).line_id)
        self.out.print(show.explanation(explanation))
        return explanation.event_count > 0

    def verify(self) -> bool:
        """Recompute every final invoice."""
        self._chapter("verify")
        with self.watch.time("verify"):
            verdicts = self.workspace.verify()
        self.out.print(show.verified(verdicts))
        return all(one.matches for one in verdicts)

    def tell_times(self) -> None:
        """Print where the time went."""
        self._chapter("where the time went")
        rows = [(step, f"{seconds:.1f} s") for step, seconds in self.watch.seconds.items()]
        whole = sum(self.watch.seconds.values())
        self.out.print(show.table("", [("step", "left"), ("time", "right")], [*rows, ("all", f"{whole:.1f} s")]))
        self.out.print(
            f"Look around: tallybook -w {self.workspace.layout.root} invoices --period 2026-10 --lines",
            highlight=False,
            soft_wrap=True,
        )

    def _chapter(self, title: str) -> None:
        self.out.rule(f"[bold]{title}[/bold]", align="left")


def _fresh(folder: Path) -> Path:
    """Return an empty folder; a demo of before is removed, anything else is left alone."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise AlreadyFinal(f"{folder} holds something that is not a demo; choose another with --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder.absolute()


def _write_catalog(workspace: Workspace) -> None:
    terms = resources.files("tallybook.demo").joinpath("catalog.yaml").read_text(encoding="utf-8")
    (workspace.layout.catalog / "plans.yaml").write_text(terms, encoding="utf-8")
    parties = yaml.safe_dump(accounts_and_subscriptions(), sort_keys=False)
    (workspace.layout.catalog / "accounts.yaml").write_text(parties, encoding="utf-8")


def _record(root: Path, events: int, out: Console) -> int:
    """Let the producers record, kill one, let a successor finish. Return how many distinct events were acknowledged."""
    pages = [_page(root / f"acknowledged-{number}") for number in range(PRODUCERS)]
    running = [_producer(root, number, events, 0) for number in range(PRODUCERS)]
    part = len(range(KILLED, events, PRODUCERS))
    while COUNT.unpack_from(pages[KILLED])[0] < part * 6 // 10:
        if running[KILLED].poll() is not None:
            raise RuntimeError(f"producer {KILLED} ended by itself with exit code {running[KILLED].returncode}")
        time.sleep(0.01)
    running[KILLED].kill()
    running[KILLED].wait()
    killed_at = COUNT.unpack_from(pages[KILLED])[0]
    out.print(
        f"{PRODUCERS} processes record {events:,} usage events of {TENANTS} tenants. Process {KILLED} is killed (SIGKILL) "
        f"after {killed_at:,} acknowledged events; its successor repeats the last {REPEATED}, to be safe."
    )
    running[KILLED] = _producer(root, KILLED, events, killed_at - REPEATED)
    for process in running:
        if process.wait() != 0:
            raise RuntimeError(f"a producer ended with exit code {process.returncode}")
    return sum(COUNT.unpack_from(page)[0] for page in pages)


def _page(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(COUNT.size))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), COUNT.size)


def _producer(root: Path, number: int, events: int, start: int) -> subprocess.Popen[bytes]:
    arguments = [str(root), str(number), str(PRODUCERS), str(events), str(start), str(root / f"acknowledged-{number}")]
    return subprocess.Popen([sys.executable, "-m", "tallybook.demo.producer", *arguments])


@dataclass(frozen=True, slots=True)
class _Survived:
    kept: int
    duplicates: int


def _recorded_by_processes(workspace: Workspace) -> _Survived:
    """Count what the lake holds of the processes' events (not of the partner's file): distinct ones, and repeats."""
    from metering.usage import open_evidence

    engine = open_evidence(*workspace.evidence())
    try:
        count = "SELECT count(*) FROM {} WHERE producer_id NOT LIKE 'file-%'"
        kept = engine.execute(count.format("usage_event")).fetchall()[0][0]
        duplicates = engine.execute(count.format("duplicate")).fetchall()[0][0]
    finally:
        engine.close()
    return _Survived(kept, duplicates)


def _partner_file(root: Path) -> Path:
    """Write a partner's export: 400 events, 20 of them twice, one of a tenant nobody knows, one with a quantity of NaN."""
    rows = _partner_rows()
    rows += rows[:20]
    rows.append(["tenant-of-nobody", "api_requests", "1", "2026-10-20T09:00:00Z", "partner-stranger", "/v1/search"])
    rows.append([tenant_name(3), "build_minutes", "NaN", "2026-10-21T09:00:00Z", "partner-broken", ""])
    return _write_rows(root / "partner.csv", rows)


def _partner_rows() -> list[list[str]]:
    """Return what a partner passed on, each request once."""
    return [
        [
            tenant_name(number * 7 % 300),
            "api_requests",
            "1",
            f"2026-10-{1 + number % 28:02}T12:00:00Z",
            f"partner-{number}",
            "/v1/search",
        ]
        for number in range(400)
    ]


def _leaks_table(leaks: Sequence[Leak]) -> RenderableType:
    """Return what was planted beside what was found of it."""
    columns = [
        ("planted", "left"),
        ("found by", "left"),
        ("units", "right"),
        ("found", "right"),
        ("worth, USD", "right"),
    ]
    rows = [
        (
            one.what,
            one.control_id if one.is_found else f"NOT FOUND by {one.control_id}",
            f"{one.planted:,.0f}",
            f"{one.found:,.0f}",
            "" if one.amount is None else shown(one.amount, "USD"),
        )
        for one in leaks
    ]
    return show.table("", columns, rows)


def _late_file(root: Path) -> Path:
    """Write 300 events of October that nobody had recorded in time."""
    rows = [
        [
            tenant_name(number * 3 % 120),
            "build_minutes",
            "95",
            f"2026-10-{14 + number % 15:02}T23:30:00Z",
            f"late-{number}",
            "",
        ]
        for number in range(300)
    ]
    return _write_rows(root / "late-october.csv", rows)


def _write_rows(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tenant_id", "meter", "quantity", "event_time", "idempotency_key", "endpoint"])
        writer.writerows(rows)
    return path


def _line_to_explain(invoices: Sequence[Invoice]) -> InvoiceLine:
    """Return the greatest of the lines that reached the most tiers; it has the most to explain."""
    lines = [line for one in invoices for line in one.lines]
    return max(lines, key=lambda line: (len({charge.tier for charge in line.charges}), line.amount, line.line_id))


def _summary(invoices: Sequence[Invoice]) -> str:
    lines = [line for one in invoices for line in one.lines]
    return f"{len(invoices)} invoices with {len(lines):,} lines: {_sums(lines)}"


def _sums(lines: Sequence[InvoiceLine]) -> str:
    sums: dict[str, list[InvoiceLine]] = {}
    for line in lines:
        sums.setdefault(line.currency, []).append(line)
    return ", ".join(
        f"{show.money(exact_sum([line.amount for line in members]))} {currency}"
        for currency, members in sorted(sums.items())
    )
