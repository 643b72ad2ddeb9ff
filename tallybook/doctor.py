"""What an operator wants to know before trusting a machine: is this the right code, is there room, is all in order.

Enters: a workspace folder (it may not exist yet). Leaves: checks, each `good`, `warning` or `bad`, with a sentence.
Refuses: to repair anything, and to print a secret.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

from metering.clock import iso_utc
from metering.periods import zone
from rating.errors import NotFound
from tallybook.books import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tallybook.workspace import Workspace

PACKAGES = ("metering", "entitlements", "rating", "billing_adapters", "tallybook")
LIBRARIES = ("pyarrow", "duckdb", "deltalake", "sqlalchemy", "alembic", "pydantic")
FREE_BYTES_MIN = 1 << 30
DEADLINE_NEAR = timedelta(hours=2)
CLOCK_FLOOR_S = 1_767_225_600  # 2026-01-01: this code did not exist before
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "overlay"})

Result = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    result: Result
    detail: str


def examine(root: Path) -> list[Check]:
    """Return all checks of this machine and of the workspace at `root`, in the order an operator reads them."""
    checks = [_python(), *_versions(), *_names(), _clock(), _zones(), *_disk(root)]
    try:
        from tallybook.workspace import Workspace

        workspace = Workspace(root)
    except NotFound as error:
        return [*checks, Check("workspace", "warning", error.message)]
    with workspace:
        for name, check in (
            ("books", _books),
            ("catalog", _catalog),
            ("journal", _journal),
            ("lake", _lake),
            ("delivery", _delivery),
        ):
            checks.append(_guarded(name, check, workspace))
    return checks


def _guarded(name: str, check: Callable[[Workspace], Check], workspace: Workspace) -> Check:
    try:
        return check(workspace)
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the finding
        return Check(name, "bad", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    return Check("python", "good" if good else "bad", f"{version}" if good else f"{version}: 3.11 or newer is needed")


def _versions() -> Iterator[Check]:
    for name in ("tallybook", *LIBRARIES):
        try:
            yield Check(name, "good", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "bad", "not installed; install tallybook with its dependencies")


def _names() -> Iterator[Check]:
    """Other distributions may own a top-level name as generic as `metering`; then one of the two shadows the other."""
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        others = sorted(set(owners.get(name, [])) - {"tallybook"})
        if others:
            yield Check(name, "bad", f"the import name is also owned by {', '.join(others)}; uninstall one of the two")
    if not any(set(owners.get(name, [])) - {"tallybook"} for name in PACKAGES):
        yield Check("import names", "good", "metering, entitlements, rating, billing_adapters are ours alone")


def _clock() -> Check:
    if time.time() < CLOCK_FLOOR_S:
        return Check("clock", "bad", "the wall clock says a time before 2026; events would land in the wrong period")
    return Check("clock", "good", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _zones() -> Check:
    zone("America/New_York")
    return Check("time zones", "good", "IANA rules are there")


def _disk(root: Path) -> Iterator[Check]:
    folder = next(parent for parent in (root.absolute(), *root.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    room: Result = "good" if free >= FREE_BYTES_MIN else "warning"
    yield Check("disk", room, f"{free / 2**30:.1f} GiB free at {folder}")
    if not os.access(folder, os.W_OK):
        yield Check("disk", "bad", f"{folder} is not writable; recorders would raise on the first event")
    kind = _file_system(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        yield Check(
            "file system", "warning", f"{kind}: locks and mapped files differ there; keep the journal on a local disk"
        )


def _file_system(folder: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    fitting = [(mount[1], mount[2]) for mount in mounts if folder == Path(mount[1]) or Path(mount[1]) in folder.parents]
    return max(fitting, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def _books(workspace: Workspace) -> Check:
    with reading(workspace.books) as connection:
        connection.execute(text("SELECT 1"))
    return Check("books", "good", workspace.books.url.render_as_string(hide_password=True))


def _catalog(workspace: Workspace) -> Check:
    from tallybook.catalog import load_catalog

    try:
        applied = workspace.catalog()
    except NotFound:
        return Check("catalog", "warning", "nothing applied yet; run `tallybook apply`")
    load_catalog(workspace.layout.catalog)
    counts = (
        f"{len(applied.meters)} meters, {len(applied.plans)} plan versions, {len(applied.subscriptions)} subscriptions"
    )
    return Check("catalog", "good", f"revision {applied.revision}: {counts}")


def _journal(workspace: Workspace) -> Check:
    waiting = sum(1 for path in workspace.layout.journal.glob("*/*") if path.suffix in {".open", ".sealed"})
    quarantined = sum(1 for path in workspace.layout.quarantine.rglob("*") if path.is_file())
    if quarantined:
        return Check("journal", "bad", f"{quarantined} damaged segments in {workspace.layout.quarantine}")
    return Check("journal", "good", f"{waiting} segments not yet shipped")


def _lake(workspace: Workspace) -> Check:
    files = workspace.lake.data_files(None, None)
    workspace.lake.verify(files)
    size = sum(file.size for file in files)
    return Check("lake", "good", f"{len(files)} data files, {size / 2**20:.1f} MiB, every hash verified")


def _delivery(workspace: Workspace) -> Check:
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
        return Check("delivery", "bad", f"what waits is refused from {iso_utc(min(ends))} on; run `tallybook deliver`")
    if parked:
        return Check("delivery", "warning", f"{parked:,} are parked and wait for a person; see `tallybook deliveries`")
    adapters = ", ".join(names) or "no adapter"
    return Check("delivery", "good", f"{adapters}; {len(waiting):,} wait to be sent")
