"""Whether the data files of the lake still hold the bytes that were committed.

Enters: data files, whose names carry the sha256 of their bytes. Leaves: nothing, or LakeDamaged for the first that differs.
Refuses: to repair. A file that differs is restored from a backup; nothing is read from it.

A file is hashed before its first read in a process. What was hashed is written down beside the lake, by (name, size, mtime
in ns), and `trusting_earlier` takes that for an answer, so that a process that reads little of large files does not begin
by reading all of them. What that trusts: the name carries the hash, so only the very file that was once found whole is
meant; that nothing changed its bytes since without changing its size or mtime, as a failing disk may. Who books or
verifies does not trust it. The note is derived: without it, or with a torn one, every file is hashed again.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from metering.durable import TEMPORARY_PREFIX
from metering.errors import LakeDamaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metering.lake_table import DataFile

FORMAT = 1

# Which files of this process were already hashed, by path: (size, mtime in ns). Files never change once committed.
_verified: dict[str, tuple[int, int]] = {}


def verify_files(files: Iterable[DataFile], *, note: Path | None = None, trusting_earlier: bool = False) -> None:
    """Hash each file that this process has not hashed yet; raise LakeDamaged for the first by path that differs.

    With `note`, write down there which files are whole; `trusting_earlier`, do not hash those that are in it already.
    """
    states = [(file, size_and_time(file)) for file in files]
    pending = [(file, state) for file, state in states if _verified.get(file.path) != state]
    if not pending:
        return
    noted = {} if note is None else _read(note)
    if trusting_earlier:
        pending = [(file, state) for file, state in pending if noted.get(Path(file.path).name) != state]
    if len(pending) == 1:
        _verify(*pending[0])
    elif pending:
        # sha256 runs without the GIL.
        with ThreadPoolExecutor(max_workers=4) as pool:
            for _ in pool.map(lambda one: _verify(*one), pending):
                pass
    whole = {Path(file.path).name: state for file, state in states}
    if note is not None and any(noted.get(name) != state for name, state in whole.items()):
        # A full or read-only disk: the files are whole all the same. Whoever writes last wins; the loser hashes again.
        with suppress(OSError):
            _write(note, whole)


def size_and_time(file: DataFile) -> tuple[int, int]:
    """Return size and mtime of a data file. Raise LakeDamaged where it is not there or has another size."""
    try:
        state = Path(file.path).stat()
    except FileNotFoundError:
        raise _damaged(file, file.sha256, "no file") from None
    if state.st_size != file.size:
        raise _damaged(file, f"{file.size} bytes", f"{state.st_size} bytes")
    return state.st_size, state.st_mtime_ns


def _verify(file: DataFile, state: tuple[int, int]) -> None:
    with Path(file.path).open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != file.sha256:
        raise _damaged(file, file.sha256, found)
    _verified[file.path] = state


def _read(note: Path) -> dict[str, tuple[int, int]]:
    try:
        content = json.loads(note.read_bytes())
        if content["format"] != FORMAT:
            return {}
        return {name: (int(size), int(mtime)) for name, (size, mtime) in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(note: Path, whole: Mapping[str, tuple[int, int]]) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
    temporary.write_text(json.dumps({"format": FORMAT, "files": whole}), encoding="utf-8")
    temporary.replace(note)


def _damaged(file: DataFile, expected: str, found: str) -> LakeDamaged:
    return LakeDamaged(
        f"{file.path} is not what was committed: expected {expected}, found {found}. Nothing is read from it;"
        " restore this file from a backup",
        path=file.path,
        expected=expected,
        found=found,
    )
