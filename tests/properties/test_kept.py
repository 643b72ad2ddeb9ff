"""What was kept gives the same lines as rating from nothing, whatever happened in between: byte for byte.

A history appends usage events (late ones, duplicates, voids), changes the catalog, moves tenants to another account, lets
time pass, books closes, and deletes or spoils what was kept. After each step both ways are asked.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

import metering.rollups
from metering.engine import fetch
from metering.lake import Lake
from metering.periods import parse_period
from metering.totals import control_totals
from metering.usage import Snapshot
from rating.ledger import CHARGE_BOOKING_COLUMNS, LINE_BOOKING_COLUMNS, booked_nothing
from rating.rate import BOOKED_LINE_COLUMNS, LINE_KEY, subtract_booked
from rating.run import rated_spans
from rating.terms import Terms, billing_spans
from tests import oracle
from tests.metering.lake_batches import segment_batch
from tests.properties.many_worlds import together
from tests.properties.mutated import mutate
from tests.properties.proof import holds
from tests.properties.strategies import Row, World, seeds, world_of
from tests.rated import AFTER_ALL, events_table, terms_of

STEPS = 3


class History:
    """A lake, a catalog, and what was booked; both ways of rating them."""

    def __init__(self, root: str, world: World, seed: int) -> None:
        self.lake = Lake(Path(root) / "lake")
        self.chance = Random(seed)
        self.catalog, self.events, self.month = copy.deepcopy(world.catalog), list(world.events), world.month
        self.as_of = AFTER_ALL
        self.booked = booked_nothing()
        self.segments = 0
        self.stored: list[Row] = []

    def append(self) -> None:
        """Store some of the events that are left, and perhaps one that voids an earlier one."""
        self.segments += 1
        count = self.chance.randint(0, 1 + len(self.events) // 2)
        taken, self.events = self.events[:count], self.events[count:]
        rows = [{**event, "producer_id": "p", "segment": self.segments, "row": at} for at, event in enumerate(taken)]
        if self.stored and self.chance.random() < 0.4:
            named = self.chance.choice(self.stored)
            origin = {name: named[name] for name in ("producer_id", "segment", "row")}
            void = {**named, "segment": self.segments, "row": len(rows), "idempotency_key": None}
            rows.append({**void, "correction": {"verb": "void", **origin}})
        self.store(rows)

    def store(self, rows: list[Row]) -> None:
        """Store usage events as the newest segment."""
        table = events_table(rows)
        batch = segment_batch("p", self.segments, rows=0)
        totals = control_totals(table, batch.dead_letters)
        self.lake.append([replace(batch, rows=len(rows), events=table, totals=totals)])
        self.stored += rows

    def change(self, what: str | None = None) -> None:
        """Change the catalog, let time pass, or do away with something that was kept."""
        subscriptions, plans = self.catalog["subscriptions"], self.catalog["plans"]
        what = what or self.chance.choice(
            ("price", "account", "end", "deal", "time", "forget", "spoil", "nothing", "late")
        )
        if what == "price":
            plan = self.chance.choice(plans)
            plan["prices"].append({"id": f"more-{len(plan['prices'])}", "type": "flat", "amount": "1.005"})
        elif what == "account" and "other" not in {row["id"] for row in self.catalog["accounts"]}:
            payer = self.catalog["accounts"][0]
            moved = [tenant for tenant in payer["tenants"] if self.chance.random() < 0.5]
            payer["tenants"] = [tenant for tenant in payer["tenants"] if tenant not in moved]
            self.catalog["accounts"].append({"id": "other", "name": "Other", "tenants": moved})
        elif what == "end" and len(subscriptions) > 1:
            subscriptions.pop(self.chance.randrange(len(subscriptions)))
        elif what == "deal":
            deal = {"id": f"deal-{self.segments}", "amount": "3.21", "currency": "USD"}
            self.chance.choice(self.catalog["accounts"]).setdefault("discounts", []).append(deal)
        elif what == "late":
            self.chance.choice(plans)["late_usage_days"] = self.chance.choice((0, 400))
        elif what == "time":
            edges = [period.end for _, _, period in oracle.rated_periods(self.catalog, self.month)]
            self.as_of = self.chance.choice([*edges, AFTER_ALL])
        elif what in {"forget", "spoil"}:
            self._lose(what)

    def _lose(self, what: str) -> None:
        derived = self.lake.root / "derived"
        files = sorted(path for path in derived.rglob("*") if path.is_file())
        if what == "forget" and files:
            shutil.rmtree(self.chance.choice((derived, derived / "worth")), ignore_errors=True)
        elif files:
            self.chance.choice(files).write_bytes(b"spoilt")

    def both(self) -> tuple[list[Any], list[Any]]:
        """Return all that is on paper, from what was kept and from nothing."""
        return self._paper(may_use_kept=True), self._paper(may_use_kept=False)

    @contextmanager
    def rated(self, *, may_use_kept: bool) -> Iterator[Any]:
        terms: Terms = terms_of(self.catalog)
        files = [file.path for file in self.lake.data_files()]
        spans = billing_spans(terms, parse_period(self.month))
        snapshot = Snapshot.of(self.lake.cut())
        with rated_spans(files, snapshot, terms, spans, self.as_of, may_use_kept=may_use_kept) as engine:
            subtract_booked(engine, *self.booked, f"close-{self.segments}")
            yield engine

    def _paper(self, *, may_use_kept: bool) -> list[Any]:
        with self.rated(may_use_kept=may_use_kept) as engine:
            lines = fetch(engine, "SELECT * EXCLUDE (line_number) FROM invoice_line ORDER BY invoice_id, position")
            parts = fetch(engine, "SELECT * EXCLUDE (line_number) FROM line_charge ORDER BY line_id, position")
            worth = fetch(engine, "SELECT * FROM worth ORDER BY span_id, price_id, group_key")
            return [*lines.to_pylist(), *parts.to_pylist(), *worth.to_pylist()]

    def close(self) -> None:
        """Book what is on paper."""
        with self.rated(may_use_kept=True) as engine:
            names = ", ".join(BOOKED_LINE_COLUMNS)
            lines = engine.sql(f"SELECT {names}, {self.segments}::BIGINT AS booking FROM invoice_line").to_arrow_table()
            keys = ", ".join(f"invoice_line.{name}" for name in LINE_KEY)
            parts = ", ".join(f"charge.{name}" for name in CHARGE_BOOKING_COLUMNS[len(LINE_KEY) :])
            charges = engine.sql(
                f"SELECT {keys}, {parts} FROM line_charge AS charge JOIN invoice_line USING (line_id)"
            ).to_arrow_table()
        before = zip(self.booked, (lines.select(LINE_BOOKING_COLUMNS), charges), strict=True)
        self.booked = tuple(pa.concat_tables([old, new.cast(old.schema)]) for old, new in before)  # type: ignore[assignment]


@contextmanager
def keeping_all() -> Iterator[None]:
    """Keep what is derived also from the smallest of lakes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metering.rollups, "SCAN_BYTES_MAX", 0)
        yield


def some_together(seed: int, plans: int, prices: int, events: int) -> World:
    """Return a few worlds of one month as one: a step is two ratings, and these cost the same for many tenants."""
    first = world_of(seed, plans, prices, events)
    others = (world_of(other, plans, prices, events) for other in range(seed + 1, seed + 12))
    return together([first, *(world for world in others if world.month == first.month)])


joined_worlds = st.builds(some_together, seeds(), st.integers(1, 3), st.integers(1, 4), st.integers(0, 25))


@holds(2, world=joined_worlds, seed=st.integers(0, 1000))
def TestKeptIsFromNothing(world: World, seed: int) -> None:
    with keeping_all(), tempfile.TemporaryDirectory() as root:
        history = History(root, world, seed)
        for _ in range(STEPS):
            history.append()
            history.change()
            kept, from_nothing = history.both()
            assert kept == from_nothing
            if history.chance.random() < 0.3:
                history.close()


def test_only_tenants_that_changed_are_rated(tmp_path: Path) -> None:
    with keeping_all():
        history = one_history(tmp_path)
        with history.rated(may_use_kept=True) as engine:
            assert len(tenants_rated(engine)) == 3
        history.stored, history.events = [], [event for event in history.events if event["tenant_id"] == "t1"][:1]
        history.chance = Random(1)
        while history.events:
            history.append()
        with history.rated(may_use_kept=True) as engine:
            assert tenants_rated(engine) == {"t1"}
        assert len(set(map(len, history.both()))) == 1
        with history.rated(may_use_kept=True) as engine:
            assert tenants_rated(engine) == set()


def test_where_nothing_is_new_nothing_is_read_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with keeping_all():
        history = one_history(tmp_path)
        before, from_nothing = history.both()
        assert before == from_nothing
        kept = files_of(tmp_path)
        monkeypatch.setattr("metering.rollups.Rollups.load_states", None)
        # A newer segment without an event: the cut moves, and nobody has used anything.
        history.segments += 1
        history.store([])
        history.segments -= 1
        assert history._paper(may_use_kept=True) == before
        assert files_of(tmp_path) == kept


def files_of(root: Path) -> set[str]:
    return {str(path) for path in (root / "lake" / "derived" / "worth").rglob("*.parquet")}


def test_who_leaves_an_account_leaves_its_discount_to_the_others(tmp_path: Path) -> None:
    with keeping_all():
        history = one_history(tmp_path)
        history.change("deal")
        for what in ("price", "end", "account", "account"):
            kept, from_nothing = history.both()
            assert kept == from_nothing
            history.change(what)
        kept, from_nothing = history.both()
        assert kept == from_nothing


def test_a_full_disk_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: object) -> None:
        raise OSError("no space left")

    with keeping_all():
        history = one_history(tmp_path)
        monkeypatch.setattr("rating.kept._write", is_full)
        kept, from_nothing = history.both()
        assert kept == from_nothing


def one_history(root: Path) -> History:
    """Return a history of three tenants of whom none shares an account's discount, with some events stored."""
    seed = next(seed for seed in range(1000) if is_apart(world_of(seed, 3, 4, 40)))
    history = History(str(root), world_of(seed, 3, 4, 40), 1)
    events, history.events = (
        history.events,
        [event for event in history.events if event["idempotency_key"] is None][:20],
    )
    while history.events:
        history.append()
    history.events = events[20:]
    return history


def is_apart(world: World) -> bool:
    subscriptions, accounts = world.catalog["subscriptions"], world.catalog["accounts"]
    spans = billing_spans(terms_of(world.catalog), parse_period(world.month))
    later = [event for event in world.events[20:] if event["tenant_id"] == "t1"]
    tenants = {row["tenant"] for row in subscriptions} & set(spans.tenants)
    return len(tenants) == 3 and bool(later) and not accounts[0]["discounts"]


def tenants_rated(engine: Any) -> set[str]:
    found = engine.execute(
        "SELECT DISTINCT tenant_id FROM dirty_tenant SEMI JOIN asked_span USING (tenant_id)"
    ).fetchall()
    return {tenant for (tenant,) in found}


MUTANTS = {
    "other terms are the same": ("kept_match", "AND kept.terms = asked.terms", ""),
    "who is gone changes nothing": ("kept_dirty", "WHERE span_id IS NULL OR slot IS NULL", "WHERE false"),
    "what was kept comes beside what is new": (
        "kept_slot",
        "ANTI JOIN dirty_tenant USING (tenant_id)",
        "WHERE slot >= 0",
    ),
}


# Whole histories until one of them shows the mistake: a minute of work, for `make prove`.
@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    file, find, put = mutant
    mutate(monkeypatch, "rating", file, find, put, ("rating.kept",))
    assert any(is_caught(seed) for seed in range(12))


def is_caught(seed: int) -> bool:
    with keeping_all(), tempfile.TemporaryDirectory() as root:
        history = History(root, world_of(seed, 3, 4, 20), seed)
        for what in ("account", "price", "end", "price"):
            history.append()
            history.change(what)
            kept, from_nothing = history.both()
            if kept != from_nothing:
                return True
    return False
