"""What an operator wants to know before trusting a machine: is this the right code, is there room, is all in order.

Enters: a workspace folder (it may not exist yet). Leaves: checks, each `ok`, `warn` or `fail`, with what was seen and what to do.
Refuses: to repair anything, and to print a secret. The disk is asked by a file that is written and removed again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metering.periods import zone
from rating.errors import NotFound
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tallybook.workspace import Workspace

PACKAGES = ("metering", "entitlements", "rating", "billing_adapters", "tallybook")
LIBRARIES = (
    "pyarrow", "duckdb", "deltalake", "sqlalchemy", "alembic", "pydantic", "pydantic-settings", "apscheduler",
)  # fmt: skip
FREE_BYTES_MIN = 1 << 30
FREE_BYTES_LEAST = 64 << 20
# A disk may have room and no more names for files; a lake makes many.
FREE_FILES_MIN = 10_000
FREE_FILES_LEAST = 500
CLOCK_FLOOR_S = 1_767_225_600  # 2026-01-01: this code did not exist before
# A disk that takes longer to keep a page is felt by every close and every commit.
FSYNC_SLOW_S = 0.5
CLOCKS_APART_S = 5.0
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "overlay"})

_REQUIRES = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])? *(?P<bounds>[^;]*)")

Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was seen, and what to do unless it is ok."""

    name: str
    result: Result
    what: str
    to_do: str = ""


def examine(root: Path) -> list[Check]:
    """Return all checks of this machine and of the workspace at `root`, in the order an operator reads them."""
    from tallybook.doctor_workspace import CHECKS

    checks = [_python(), *_versions(), *_names(), _clock(), _zones(), *_disk(root)]
    try:
        from tallybook.workspace import Workspace

        workspace = Workspace(root)
    except NotFound as error:
        return [*checks, Check("workspace", "warn", error.message, f"tallybook -w {root} init")]
    except BadSettings as error:
        return [*checks, Check("settings", "fail", error.message, "correct the file or the variable")]
    with contextlib.ExitStack() as opened:
        # Books that cannot be reached cannot be closed either; their own check says so.
        opened.callback(_close, workspace)
        return [*checks, *(guarded(name, check, workspace) for name, check in CHECKS)]


def guarded(name: str, check: Callable[[Workspace], Check], workspace: Workspace) -> Check:
    """Return what a check says; that it raises is a finding, too."""
    try:
        return check(workspace)
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the finding
        said = str(error).splitlines()[0] if str(error) else ""
        said = workspace.settings.without_secrets(f"{type(error).__name__}: {said}")
        return Check(name, "fail", said, "mend what it names, and look again")


def _close(workspace: Workspace) -> None:
    with contextlib.suppress(Exception):
        workspace.close()


def _python() -> Check:
    # What is older cannot read this code at all.
    return Check("python", "ok", ".".join(str(part) for part in sys.version_info[:3]))


def _versions() -> Iterator[Check]:
    """Are the libraries there, and are they of a version that this release was made for?"""
    asked: dict[str, str] = {}
    for name in ("tallybook", *LIBRARIES):
        try:
            version = importlib.metadata.version(name)
            asked = asked or _asked()
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed", "install tallybook with its dependencies")
            continue
        if all(_fits(version, bound) for bound in asked.get(name, "").split(",")):
            yield Check(name, "ok", version)
        else:
            yield Check(name, "fail", f"{version}, and this release needs {asked[name]}", "install what it needs")


def _asked() -> dict[str, str]:
    """Return which versions of each library this release needs, such as `<4,>=3.11`."""
    said = (_REQUIRES.fullmatch(line) for line in importlib.metadata.requires("tallybook") or ())
    return {found["name"]: found["bounds"] for found in said if found is not None}


def _fits(version: str, bound: str) -> bool:
    """Return whether a version keeps a bound; one that is written in another way than `>=1.2` or `<3` is not looked at."""
    there, least = ([int(part) for part in re.findall(r"[0-9]+", text)][:4] for text in (version, bound))
    wide = [[*numbers, *[0] * (4 - len(numbers))] for numbers in (there, least)]
    if bound.startswith(">="):
        return wide[0] >= wide[1]
    return not bound.startswith("<") or bound.startswith("<=") or wide[0] < wide[1]


def _names() -> Iterator[Check]:
    """Other distributions may own a top-level name as generic as `metering`; then one of the two shadows the other."""
    owners = importlib.metadata.packages_distributions()
    shared = {name: sorted(set(owners.get(name, [])) - {"tallybook"}) for name in PACKAGES}
    for name, others in shared.items():
        if others:
            yield Check(
                name, "fail", f"the import name is also owned by {', '.join(others)}", "uninstall one of the two"
            )
    if not any(shared.values()):
        yield Check("import names", "ok", "metering, entitlements, rating, billing_adapters are ours alone")


def _clock() -> Check:
    said = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if time.time() < CLOCK_FLOOR_S:
        return Check("clock", "fail", f"{said}: events would land in the wrong period", "set the clock of this machine")
    return Check("clock", "ok", said)


def _zones() -> Check:
    zone("America/New_York")
    return Check("time zones", "ok", "IANA rules are there")


def _disk(root: Path) -> Iterator[Check]:
    folder = next(parent for parent in (root.absolute(), *root.absolute().parents) if parent.exists())
    yield room(folder)
    yield probe(folder)
    kind = _file_system(folder)
    if kind in _NETWORK_FILE_SYSTEMS:
        yield Check(
            "file system", "warn", f"{kind}: locks and mapped files differ there", "keep the journal on a local disk"
        )


def room(folder: Path) -> Check:
    """Look at the bytes and the names for files that a disk has left; some file systems do not count names."""
    free, kept = shutil.disk_usage(folder).free, os.statvfs(folder)
    said = f"{free / 2**30:.1f} GiB free at {folder}"
    names = kept.f_favail if kept.f_files else FREE_FILES_MIN
    if names < FREE_FILES_MIN:
        said = f"{said}, for {names:,} more files"
    if free >= FREE_BYTES_MIN and names >= FREE_FILES_MIN:
        return Check("disk", "ok", said)
    is_full = free < FREE_BYTES_LEAST or names < FREE_FILES_LEAST
    return Check("disk", "fail" if is_full else "warn", said, "make room; a full disk stops recording")


def probe(folder: Path) -> Check:
    """Write a file, let the disk keep it, compare its time with our clock, and remove it."""
    path = folder / f".doctor-{secrets.token_hex(6)}"
    try:
        began_s = time.monotonic()
        with path.open("xb") as file:
            file.write(b"kept")
            file.flush()
            os.fsync(file.fileno())
        took_s = time.monotonic() - began_s
        apart_s = abs(path.stat().st_mtime - time.time())
    except OSError as refused:
        said = f"{folder} does not keep files: {refused}"
        return Check("fsync", "fail", said, "make it writable; recorders would raise on the first event")
    finally:
        path.unlink(missing_ok=True)
    if apart_s > CLOCKS_APART_S:
        said = f"files at {folder} get a time that is {apart_s:.0f} s from this machine's"
        return Check("fsync", "warn", said, "set the clocks of this machine and of its file server")
    if took_s > FSYNC_SLOW_S:
        return Check("fsync", "warn", f"took {took_s:.2f} s at {folder}", "look at the load of the disk")
    return Check("fsync", "ok", f"a file at {folder} is kept, with our time")


def _file_system(folder: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    fitting = [(mount[1], mount[2]) for mount in mounts if folder == Path(mount[1]) or Path(mount[1]) in folder.parents]
    return max(fitting, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]
