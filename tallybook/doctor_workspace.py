"""What the doctor looks at in a workspace: its stores, keys, clocks, what waits and until when, and what runs by itself.

Enters: an open workspace. Leaves: one check per function, in the order of `CHECKS`. Refuses: to change anything, to ask a
provider, and to show a key: that it is there, and whether it looks like one, is all that is said.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select, text

from billing_adapters.books import deliveries, findings
from billing_adapters.outbox import OPEN_STATES
from metering.clock import from_us, iso_utc
from metering.health import oldest_unshipped_ns
from metering.periods import add_months
from rating.close import read_closes
from rating.errors import NotFound
from tallybook.books import reading
from tallybook.books_url import shown_url
from tallybook.doctor import CLOCKS_APART_S, Check, probe, room
from tallybook.run_books import read_markers, runs
from tallybook.run_health import DEADLINE_NEAR, UNSHIPPED_MAX, is_late
from tallybook.runner import Runner
from tallybook.triggers import floor_month, month_from
from tallybook.whole_lake import whole_cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from tallybook.workspace import Workspace

FINDING_NEAR = timedelta(days=1)
UNSHIPPED_TOO_LONG = timedelta(hours=1)
UNDELIVERED_LONG = timedelta(hours=1)
STRIPE_KEY = re.compile(r"(sk|rk)_(live|test)_[A-Za-z0-9_]{8,}")
# Where boto3 finds the key of a role, or of a file, without a key in the environment.
_AWS_OTHERS = ("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
               "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")  # fmt: skip


def _books(workspace: Workspace) -> Check:
    with reading(workspace.books) as connection:
        connection.execute(text("SELECT 1"))
        version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
    url = shown_url(workspace.books.url.render_as_string(hide_password=False))
    said = f"{url}, {workspace.books.dialect.name} {version}"
    return Check("books", "ok", said)


def _books_clock(workspace: Workspace) -> Check:
    """Compare with the database server's clock, or, of a file, with the latest run that is written in it."""
    if workspace.books.dialect.name == "postgresql":
        with reading(workspace.books) as connection:
            theirs: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        apart_s = abs((theirs.astimezone(UTC) - workspace.now).total_seconds())
        if apart_s > CLOCKS_APART_S:
            said = f"the database server's clock is {apart_s:.0f} s from this machine's"
            return Check("books' clock", "warn", said, "set the clocks of both by NTP")
        return Check("books' clock", "ok", "agrees with this machine's")
    with reading(workspace.books) as connection:
        latest = connection.scalar(select(func.max(runs.c.began_at)))
    if latest is not None and (latest - workspace.now).total_seconds() > CLOCKS_APART_S:
        said = f"a run began at {iso_utc(latest)}, which has not come yet here"
        return Check("books' clock", "fail", said, "set the clocks of all machines that use these books by NTP")
    return Check("books' clock", "ok", "nothing in the books is later than now")


def _catalog(workspace: Workspace) -> Check:
    from tallybook.catalog import load_catalog

    try:
        applied = workspace.catalog()
    except NotFound:
        return Check("catalog", "warn", "nothing applied yet", "tallybook apply")
    held, wanted = applied.entries(), load_catalog(workspace.layout.catalog).entries()
    apart = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
    if apart:
        kind, name = apart[0]
        said = f"{len(apart):,} entries of the files are not those of revision {applied.revision}: {kind} {name}"
        return Check(
            "catalog", "warn", f"{said}{', ...' if apart[1:] else ''}", "tallybook apply says what would change"
        )
    counts = (
        f"{len(applied.meters)} meters, {len(applied.plans)} plan versions, {len(applied.subscriptions)} subscriptions"
    )
    return Check("catalog", "ok", f"revision {applied.revision}: {counts}")


def _journal(workspace: Workspace) -> Check:
    waiting = sum(1 for path in workspace.layout.journal.glob("*/*") if path.suffix in {".open", ".sealed"})
    quarantined = sum(1 for path in workspace.layout.quarantine.rglob("*") if path.is_file())
    if quarantined:
        said = f"{quarantined} damaged segments in {workspace.layout.quarantine}"
        return Check("journal", "fail", said, "compare them with a backup: docs/operations.md")
    return Check("journal", "ok", f"{waiting} segments not yet shipped")


def _lake(workspace: Workspace) -> Check:
    files = workspace.lake.data_files(None, None)
    workspace.lake.verify(files)
    size = sum(file.size for file in files)
    return Check("lake", "ok", f"{len(files)} data files, {size / 2**20:.1f} MiB, every hash verified")


def _lake_of_books(workspace: Workspace) -> Check:
    producers = len(whole_cut(workspace).cut)
    return Check("lake of the books", "ok", f"all that the last close had of {producers:,} producers, or more")


def _lake_disk(workspace: Workspace) -> Check:
    folder = workspace.layout.lake if workspace.layout.lake.exists() else workspace.layout.root
    seen = [room(folder), probe(folder)]
    worst = max(seen, key=lambda one: ("ok", "warn", "fail").index(one.result))
    what = worst.what if worst.result != "ok" else "; ".join(one.what for one in seen)
    return Check("lake's disk", worst.result, what, worst.to_do)


def _keys(workspace: Workspace) -> Check:
    """Are the keys there that the sections of the settings need, and do they look like such?"""
    settings, said, missing = workspace.settings, [], []
    if any(name.startswith("stripe") for name in settings.delivery):
        key = settings.stripe.key.get_secret_value() if settings.stripe.key is not None else ""
        shape = STRIPE_KEY.fullmatch(key)
        if shape is None:
            seen = "a publishable key, not a secret one," if key.startswith("pk_") else "no secret key"
            missing.append(f"{seen if key else 'nothing'} is in TALLYBOOK_STRIPE_KEY: sk_live_... or rk_live_...")
        else:
            said.append(f"a {'restricted' if shape[1] == 'rk' else 'secret'} key of Stripe, {shape[2]} mode")
    if any(name.startswith("aws") for name in settings.delivery):
        if {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= os.environ.keys():
            said.append("a key of AWS")
        elif any(os.environ.get(name) for name in _AWS_OTHERS) or Path("~/.aws").expanduser().exists():
            said.append("a profile or a role of AWS")
        else:
            said.append("of AWS none in the environment: boto3 asks for the role of this machine")
    if settings.alerts.webhook is not None:
        (said if settings.alerts.secret is not None else missing).append(
            "a secret for alerts in TALLYBOOK_ALERTS_SECRET"
        )
    if missing:
        return Check("keys", "fail", "; ".join([f"missing: {one}" for one in missing]), "put them into the environment")
    return Check("keys", "ok", "; ".join(said) or "none is needed")


def _unshipped(workspace: Workspace) -> Check:
    oldest_ns = oldest_unshipped_ns(workspace.layout)
    if oldest_ns is None:
        return Check("unshipped", "ok", "all that was recorded here is in the lake")
    age = max(workspace.now - from_us(oldest_ns // 1000), timedelta(0))
    said = f"the oldest usage event that is not in the lake was recorded {_ago(age)}"
    if age <= UNSHIPPED_MAX:
        return Check("unshipped", "ok", said)
    return Check("unshipped", "fail" if age > UNSHIPPED_TOO_LONG else "warn", said, "tallybook ship")


def _unrated(workspace: Workspace) -> Check:
    """Is a close without its invoices, or the month before this one not closed though it is over?"""
    with reading(workspace.books) as connection:
        closes = [close for close in read_closes(connection) if not close.is_draft]
    begun = [f"{close.period_start:%Y-%m-%d}" for close in closes if not close.invoices_made]
    if begun:
        return Check("unrated", "warn", f"closed from {begun[0]} on, and not invoiced", "tallybook invoice --final")
    if not workspace.catalog_or_empty().subscriptions:
        return Check("unrated", "ok", "there are no subscriptions")
    name, wall = month_from(add_months(floor_month(workspace.now), -1))
    ends = workspace.end_of(name)
    is_closed = any(close.is_complete and close.wall == wall for close in closes)
    if not is_closed and ends <= workspace.now:
        said = f"{name} is over since {iso_utc(ends)}, and not invoiced"
        return Check("unrated", "warn", said, f"tallybook invoice --period {name} --final, or tallybook run")
    return Check("unrated", "ok", f"{name} is {'invoiced' if is_closed else 'still open'}")


def _undelivered(workspace: Workspace) -> Check:
    late = and_(deliveries.c.state.in_(OPEN_STATES), deliveries.c.enqueued_at < workspace.now - UNDELIVERED_LONG)
    with reading(workspace.books) as connection:
        waiting, oldest = connection.execute(select(func.count(), func.min(deliveries.c.enqueued_at)).where(late)).one()
    if not waiting:
        return Check("undelivered", "ok", "nothing waits for longer than an hour")
    said = f"{waiting:,} deliveries wait, the oldest of them since {iso_utc(oldest)}"
    return Check("undelivered", "warn", said, "tallybook deliver; why they wait: tallybook deliveries")


def delivery(workspace: Workspace) -> Check:
    """Can the adapters of the settings be made, and does anything wait for a person, or for its deadline?"""
    from billing_adapters.deliveries import list_deliveries
    from tallybook.delivering import adapter_of

    names = sorted(workspace.settings.delivery)
    for name in names:
        adapter_of(workspace, name)
    with reading(workspace.books) as connection:
        waiting = list_deliveries(connection, states=["pending", "attempting", "parked"])
    parked = sum(row.state == "parked" for row in waiting)
    ends = [row.recover_by for row in waiting if row.state != "parked" and row.recover_by is not None]
    if ends and min(ends) - workspace.now < DEADLINE_NEAR:
        said = f"what waits is refused from {iso_utc(min(ends))} on"
        return Check("delivery", "fail", said, "tallybook deliver")
    if parked:
        return Check("delivery", "warn", f"{parked:,} are parked and wait for a person", "tallybook deliveries")
    adapters = ", ".join(names) or "no adapter"
    return Check("delivery", "ok", f"{adapters}; {len(waiting):,} wait to be sent")


def _deadlines(workspace: Workspace) -> Check:
    """Is money of a finding about to be lost because nobody decided?"""
    near = and_(
        findings.c.status.in_(("open", "acknowledged")),
        findings.c.recover_by > workspace.now,
        findings.c.recover_by < workspace.now + FINDING_NEAR,
    )
    with reading(workspace.books) as connection:
        count, soonest = connection.execute(select(func.count(), func.min(findings.c.recover_by)).where(near)).one()
    if not count:
        return Check("deadlines", "ok", "no finding is lost within a day")
    said = f"{count:,} findings cannot be recovered any more within a day, the first from {iso_utc(soonest)} on"
    return Check("deadlines", "warn", said, "tallybook reconcile says which")


def _steps(workspace: Workspace) -> Check:
    """Is what runs by itself on time, and does any step fail?"""
    with reading(workspace.books) as connection:
        if not read_markers(connection):
            return Check("steps", "ok", "nothing ran by itself yet: tallybook run")
    standings = Runner(workspace).standings(begins=False)
    failing = [one for one in standings if one.marker.failures]
    late = [one for one in standings if is_late(one, workspace.now)]
    if late:
        said = f"{late[0].step.name} is due since {_ago(late[0].lag(workspace.now))}; {len(late)} steps are late"
        return Check("steps", "fail", said, "is `tallybook run` running? tallybook steps says what each waits for")
    if failing:
        said = f"{failing[0].step.name} failed {failing[0].marker.failures} times: {failing[0].marker.error}"
        return Check("steps", "warn", said, "tallybook runs --failed")
    return Check("steps", "ok", f"{len(standings)} steps are on time")


def _ago(age: timedelta) -> str:
    return f"{timedelta(seconds=int(age.total_seconds()))} ago"


CHECKS: tuple[tuple[str, Callable[[Workspace], Check]], ...] = (
    ("books", _books),
    ("books' clock", _books_clock),
    ("catalog", _catalog),
    ("keys", _keys),
    ("journal", _journal),
    ("lake", _lake),
    ("lake of the books", _lake_of_books),
    ("lake's disk", _lake_disk),
    ("unshipped", _unshipped),
    ("unrated", _unrated),
    ("undelivered", _undelivered),
    ("delivery", delivery),
    ("deadlines", _deadlines),
    ("steps", _steps),
)
