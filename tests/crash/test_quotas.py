"""Hard quotas drawn on by a crowd that is killed, on books that fail: never more granted than there is, and metered as spent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from entitlements.books import leases, quotas
from entitlements.decisions import to_billionths
from metering.clock import FixedClock, SystemClock, from_us
from metering.lake import Lake
from metering.layout import Layout
from tallybook import Workspace
from tallybook.books import migrate, open_books
from tests.crash.quota_children import size_of
from tests.crash.workspace import REPOSITORY, ship_all
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, fast_disk: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{fast_disk}/books.sqlite"
    found: str = request.getfixturevalue("postgres_url")
    return found


def draw_on(url: str, root: Path, processes: int, runs: int, seed: int) -> dict[str, int]:
    """Let the crowd draw; then demand of every run what must hold. Return what happened, in numbers."""
    engine = open_books(url)
    migrate(engine)
    command = [sys.executable, "-m", "tests.crash.quota_children", url, root, processes, runs, seed]
    engine.dispose()
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, timeout=1700)
    told = json.loads(done.stdout)
    shipped = ship_all(root)
    # Who was killed while its folder was being made left one without a row, which stays for a while (`remove_unborn`).
    assert (shipped.refused, shipped.quarantined, list((root / "journal").glob("p-*"))) == ((), (), [])
    metered = billionths_metered(root)
    open_leases = 0
    with engine.connect() as connection:
        held: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for lease in connection.execute(select(leases)):
            held[lease.tenant_id].append((lease.state, to_billionths(lease.quantity)))
        found = connection.execute(select(quotas)).all()
    engine.dispose()
    assert len(found) == runs
    for quota in found:
        run = quota.tenant_id.removeprefix("run-")
        granted = to_billionths(quota.granted)
        assert quota.quota == size_of(int(run), seed)
        assert granted <= to_billionths(quota.quota), f"seed {seed}, run {run}: over-granted"
        assert granted == sum(size for _, size in held[quota.tenant_id]), (
            f"seed {seed}, run {run}: leases do not add up"
        )
        # What was metered is what was said to be consumed, but for what was under way when somebody was killed.
        said, under_way = told["spent"].get(run, 0), told["unknown"].get(run, 0)
        assert said <= metered[quota.tenant_id] <= said + under_way, f"seed {seed}, run {run}: metered is not consumed"
        # And it is what the leases say: exactly what the settled ones spent, at most what the dead ones held.
        settled = sum(size for state, size in held[quota.tenant_id] if state == "settled")
        assert settled <= metered[quota.tenant_id] <= granted, f"seed {seed}, run {run}: metered is not spent"
        open_leases += sum(state == "open" for state, _ in held[quota.tenant_id])
    account_for(url, root, runs, metered, open_leases)
    return {"runs": runs, "kills": told["kills"], "refused": told["refused"], "leases of the dead": open_leases}


def account_for(url: str, root: Path, runs: int, metered: Counter[str], open_leases: int) -> None:
    """Account for the leases of the dead; then demand that exactly what was metered is spent, and the rest is free again."""
    workspace = Workspace.init(root)
    workspace.layout.settings_file.write_text(f'[books]\nurl = "{url}"\n', encoding="utf-8")
    tokens = {"feature": "tokens", "type": "metered", "meter": "tokens", "quota": 1, "limit": "hard", "reset": "never"}
    names = [f"run-{run}" for run in range(runs)]
    catalog = {
        "meters": [{"name": "tokens"}],
        "plans": [{"name": "pro", "version": 1, "currency": "USD", "entitlements": [tokens]}],
        "accounts": [{"id": "a", "name": "A", "tenants": names}],
        "subscriptions": [
            {"id": f"s-{name}", "tenant": name, "plan": "pro", "version": 1, "from": "2026-01-01"} for name in names
        ],
    }
    (workspace.layout.catalog / "all.yaml").write_text(json.dumps(catalog), encoding="utf-8")
    # Leases expire by the clock of the books. Where that is the one of this machine, it was set by hours either way.
    clock = FixedClock(from_us(SystemClock().now_us()) + timedelta(hours=13))
    with Workspace(root, clock=clock) as later:
        later.apply()
        settled, again = 0, True
        while again:
            done = later.account_leases()
            settled, again = settled + done.settled, settled + done.settled < open_leases
        assert later.account_leases().settled == 0, "accounting again changes nothing"
        with later.books.connect() as connection:
            found = connection.execute(select(quotas)).all()
            rest = connection.execute(select(leases).where(leases.c.state == "open")).all()
    assert (settled, rest) == (open_leases, [])
    for quota in found:
        assert to_billionths(quota.granted) == metered[quota.tenant_id], f"{quota.tenant_id}: spent is not metered"


def billionths_metered(root: Path) -> Counter[str]:
    lake = Lake(Layout.of(root).lake)
    metered: Counter[str] = Counter()
    for file in lake.data_files():
        table = pq.ParquetFile(file.path).read(columns=["tenant_id", "quantity"])
        for tenant, quantity in zip(table["tenant_id"].to_pylist(), table["quantity"].to_pylist(), strict=True):
            metered[tenant] += to_billionths(quantity)
    return metered


def test_a_hard_quota_is_never_over_granted(url: str, fast_disk: Path) -> None:
    happened = draw_on(url, fast_disk / "data", processes=5, runs=25, seed=7)
    assert happened["kills"] > 0
    assert happened["refused"] > 0


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [16, 17])
def test_sixteen_processes_draw_on_a_thousand_quotas(
    url: str, fast_disk: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    happened = draw_on(url, fast_disk / "data", processes=16, runs=1000, seed=seed)
    with capsys.disabled():
        words = ", ".join(f"{number} {what}" for what, number in happened.items())
        sys.stdout.write(f"\n{url.split(':', 1)[0]}: {words}; never over-granted, metered as consumed\n")
