"""Views that follow what changed, against views that are made anew: the same, whatever happened in between."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from metering.clock import FixedClock, iso_utc
from metering.recorder import Recorder
from metering.usage import Snapshot
from tallybook import Workspace
from tallybook.entitlement_views import LiveView, WorkspaceSource
from tallybook.entitlements import Entitlements

METERS = ("tokens", "calls", "disk", "level", "users", "load")
TENANTS = [f"t{number}" for number in range(12)]
OTHERS = ["e0", "f0", "l0", "o0", "m0", "m1"]
Row = dict[str, Any]


def metered(feature: str, quota: int | None = None, **more: object) -> Row:
    limited = {} if quota is None else {"quota": quota}
    return {"feature": feature, "type": "metered", "meter": feature, **limited, **more}


def on(subscription: str, tenant: str, plan: str, start: str, **more: object) -> Row:
    return {"id": subscription, "tenant": tenant, "plan": plan, "version": 1, "from": start, **more}


def catalog() -> Row:
    """Return a catalog of all that changes by itself: resets, beginnings, ends, overrides, grants, levels over time."""
    plans = {
        "pro": [
            {"feature": "sso", "type": "boolean"},
            metered("tokens", 100, overage="blocked"),
            metered("calls", 5, reset="day"),
            metered("disk", 50),
        ],
        "more": [metered("tokens", 70, rollover_max=20), metered("users", 3), metered("load", 3), metered("calls")],
        "levels": [metered("level", 30)],
    }
    dated = {"more": {"billing_period": {"anchor": "subscription", "timezone": "Europe/Paris"}}}
    until, override = "2026-03-31T10:00:00Z", metered("tokens", 7, **{"from": "2026-03-31", "to": "2026-04-02"})
    return {
        "meters": [
            {"name": "tokens", "negative_allowed": True},
            {"name": "calls", "aggregation": "count"},
            {"name": "disk", "aggregation": "max"},
            {"name": "level", "aggregation": "time_weighted_sum"},
            {"name": "users", "aggregation": "unique_count", "unique_attribute": "user"},
            {"name": "load", "aggregation": "average"},
        ],
        "accounts": [{"id": "a", "name": "A", "tenants": [*TENANTS, *OTHERS]}],
        "plans": [
            {"name": name, "version": 1, "currency": "USD", "entitlements": held, **dated.get(name, {})}
            for name, held in plans.items()
        ],
        "grants": [
            {"id": "g1", "tenant": "t1", "feature": "tokens", "amount": 40, "effective": "2026-03-29T12:00:00Z",
             "expires": "2026-04-02T01:00:00Z"},
            {"id": "g2", "tenant": "t2", "feature": "tokens", "amount": 9, "effective": "2026-03-01", "recurs": "day"},
        ],
        "subscriptions": [
            on("e", "e0", "pro", "2026-01-01", to=until),
            on("f", "f0", "pro", "2026-03-30T06:00:00Z"),
            on("l", "l0", "levels", "2026-01-01"),
            on("l2", "t3", "more", "2026-03-30T18:00:00Z"),
            on("o", "o0", "pro", "2026-01-01", entitlements=[override]),
            *(on(f"s-{name}", name, "pro", "2026-01-01") for name in TENANTS),
            *(on(f"s-{name}", name, "more", "2026-01-31") for name in ("m0", "m1")),
        ],
    }  # fmt: skip


def write(root: Path, said: Row) -> None:
    (root / "catalog" / "all.yaml").write_text(json.dumps(said), encoding="utf-8")


def open_(root: Path) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(datetime(2026, 3, 29, tzinfo=UTC)))
    write(root, catalog())
    workspace.apply()
    return workspace


def use(usage: Recorder, chance: random.Random, now: datetime) -> None:
    """Record a few events, late ones, some dated ahead, some twice, and take some back."""
    for _ in range(chance.randint(0, 6)):
        tenant, meter = chance.choice([*TENANTS, *OTHERS, "nobody"]), chance.choice(METERS)
        at = now + timedelta(hours=chance.choice([0, 0, 0, -1, -30, -800, 5, 40]))
        key = chance.choice([None, None, f"k{chance.randint(0, 9)}"])
        quantity = chance.randint(1, 40) if meter != "tokens" else chance.randint(-10, 60)
        user = {"user": chance.choice("abc")} if meter == "users" else {}
        usage.record(meter, tenant=tenant, quantity=quantity, event_time=at, key=key, **user)
    if chance.random() < 0.3:
        usage.void("tokens", tenant=chance.choice(TENANTS), key=f"k{chance.randint(0, 9)}")


def change(said: Row, what: str, tenant: str, now: datetime) -> None:
    """Change a tenant's terms from now on: its plan, an override, its end, or a grant that is put on top."""
    text = iso_utc(now)
    held = next(one for one in said["subscriptions"] if one["id"] == f"s-{tenant}")
    number = len(said["subscriptions"]) + len(said["grants"])
    if what == "grant":
        said["grants"].append(
            {"id": f"g-{number}", "tenant": tenant, "feature": "tokens", "amount": 25, "effective": text}
        )
    elif what == "switch":
        held.setdefault("changes", []).append({"from": text, "plan": "more", "version": 1})
    elif what == "override":
        held.setdefault("entitlements", []).append(metered("tokens", 500 + number, **{"from": text}))
    elif "to" not in held:
        held["to"] = text
        if what == "plan":
            said["subscriptions"].append(on(f"n-{tenant}", tenant, "more", text))


class Walk:
    """Some days of a workspace, with a source of views that follows what changed and one that makes them anew."""

    def __init__(self, root: Path, seed: int) -> None:
        self.chance, self.seed, self.root = random.Random(seed), seed, root
        self.said = catalog()
        self.workspace = open_(root)
        self.source = WorkspaceSource(root, clock=self.workspace.clock)
        self.usage = Recorder(root, ship="none", clock=self.workspace.clock)
        # How many tenants were worked out each time.
        self.worked_out: list[int] = []

    def step(self, changes: Sequence[str]) -> None:
        chance, clock = self.chance, self.workspace.clock
        assert isinstance(clock, FixedClock)
        use(self.usage, chance, self.workspace.now)
        if chance.random() < 0.7:
            self.usage.seal()
            self.workspace.ship()
        if chance.random() < 0.1:
            self.workspace.maintain()
        for what in changes:
            # One who is on the other plan already cannot be put on it again.
            free = [name for name in TENANTS if name != "t3" or what not in {"plan", "switch"}]
            change(self.said, what, chance.choice(free), self.workspace.now)
        if changes:
            write(self.root, self.said)
            self.workspace.apply()
        clock.advance(timedelta(minutes=chance.choice([0, 1, 1, 30, 200, 700])))
        self.compare()

    def compare(self) -> None:
        found, anew = self.source.read(), Entitlements(self.workspace).view()
        assert self.source._live is not None
        self.worked_out.append(self.source._live[1].worked_out)
        assert (found.cut, found.as_of) == (anew.cut, anew.as_of)
        for name in sorted({*found.tenants, *anew.tenants}):
            assert found.held(name) == anew.held(name), (
                f"seed {self.seed}, read {len(self.worked_out)}, {self.workspace.now}, {name}"
            )

    def close(self) -> None:
        self.usage.close()
        self.workspace.close()


CHANGES = ("plan", "switch", "override", "cancel", "grant")


def test_following_what_changed_is_making_anew(tmp_path: Path) -> None:
    """Of the lake, and of the catalog: another plan, an override, an end, a grant."""
    walk = Walk(tmp_path, seed=5)
    for changes in ((), (), CHANGES):
        walk.step(changes)
    walk.close()
    assert walk.worked_out == [18, 1, 18], "the second read looked at one tenant; another catalog is read anew"


@pytest.mark.prove
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(10))
def test_following_what_changed_is_making_anew_at_length(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path, seed)
    for _ in range(40):
        walk.step([walk.chance.choice(CHANGES)] if walk.chance.random() < 0.2 else ())
    walk.close()


def test_the_view_in_use_stays_as_it_is(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace, Recorder(tmp_path, ship="none", clock=workspace.clock) as usage:
        live = LiveView(workspace, workspace.catalog())
        first = live.read()
        before = dict(first.tenants)
        usage.record("tokens", tenant="t5", quantity=5)
        usage.seal()
        workspace.ship()
        workspace.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]
        second = live.read()
        assert live.worked_out == 2, "t5, and the level that goes on by itself"
        assert first.tenants == before
        assert second.held("t5") != first.held("t5")
        assert second.held("t6") is first.held("t6")


PLAIN_CATALOG = """
meters: [{name: calls, aggregation: count}]
accounts: [{id: a, name: A, tenants: [%s]}]
plans:
  - {name: p, version: 1, currency: USD, entitlements: [{feature: calls, type: metered, meter: calls, quota: 5, reset: day}]}
subscriptions:
"""


class Torn(Workspace):
    """A workspace of which a data file is gone between being listed and being read, as long as `is_torn`."""

    is_torn = False

    def evidence(self, snapshot: Snapshot | None = None) -> tuple[list[str], Snapshot]:
        files, cut = super().evidence(snapshot)
        return ([file + ".gone" for file in files] if self.is_torn else files), cut


def test_a_read_that_fails_is_made_up_for(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 3, 29, tzinfo=UTC))
    names = [f"t{number}" for number in range(12)]
    text = PLAIN_CATALOG % ", ".join(names)
    for number, name in enumerate(names):
        start = "2026-03-30T12:00:00Z" if number == 0 else "2026-01-01"
        text += f"  - {{id: s-{name}, tenant: {name}, plan: p, version: 1, from: {start}}}\n"
    Workspace.init(tmp_path, clock=clock).close()
    (tmp_path / "catalog" / "all.yaml").write_text(text, encoding="utf-8")
    with Torn(tmp_path, clock=clock) as workspace, Recorder(tmp_path, ship="none", clock=clock) as usage:
        workspace.apply()
        # One in the future, used just after its instant and not at it.
        usage.record("calls", tenant="t1", event_time=datetime(2026, 3, 30, 12, tzinfo=UTC))
        usage.seal()
        workspace.ship()
        live = LiveView(workspace, workspace.catalog())
        clock.advance(timedelta(days=1))
        first = live.read()
        assert not first.held("t0").rules
        assert first.held("t1").figures[0].used == 0
        clock.advance(timedelta(hours=12))
        workspace.is_torn = True
        with pytest.raises((duckdb.Error, OSError)):
            live.read()
        workspace.is_torn = False
        second = live.read()
        assert live.worked_out == 1, "the one whose subscription began"
        assert second.held("t0").rules is second.held("t2").rules, "what tenants share is held once"
        assert second.held("t1").figures[0].used == 0
        clock.advance(timedelta(microseconds=1))
        assert live.read().held("t1").figures[0].used == 1_000_000_000
        assert live.worked_out == 1
        clock.advance(timedelta(hours=12))
        assert live.read() == Entitlements(workspace).view(), "all are reset"
        assert live.worked_out == 12
