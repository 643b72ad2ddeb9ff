"""Bytes that are on the disk when the call returns.

Enters: bytes and a path. Leaves: a file under its final name whose bytes, name and folders survive a power cut.
Refuses: to trust a failed fsync. The kernel marks the failed pages clean, so asking again would answer "done" for bytes
that never reached the disk; the bytes are written again into a new file instead (fault catalogue 1.1).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

TEMPORARY_PREFIX = ".tmp-"
_BUFFER = 1 << 20


def fsync_file(descriptor: int) -> None:
    """Flush one open file to the platter. macOS keeps fsync in the drive's cache unless asked by F_FULLFSYNC."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def fsync_path(path: Path) -> None:
    """Flush an existing file or folder; a folder's entries (new names, renames) are only safe after this."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        fsync_file(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags, 0o644)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write a file under an unguessable temporary name, fsync it, then rename it. The folder is the caller's to fsync.

    One folder takes many files: its fsync is done once, after the last of them.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}{path.suffix}")
    descriptor = _create(temporary)
    try:
        with os.fdopen(descriptor, "wb", closefd=True) as file:
            file.write(content)
            file.flush()
            fsync_file(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class HashedFile:
    """A new file of a temporary name, hashed while it is written: each byte once, while it is warm.

    The hash is of what was meant, not of what the disk made of it. Used as a context: without `settle` nothing stays.
    """

    closed = False

    def __init__(self, folder: Path, suffix: str) -> None:
        self.size = 0
        self._path = folder / f"{TEMPORARY_PREFIX}{uuid4().hex}{suffix}"
        self._hash = hashlib.sha256()
        self._file = os.fdopen(_create(self._path), "wb", buffering=_BUFFER)

    def write(self, content: Any) -> int:
        self._hash.update(content)
        written = self._file.write(content)
        self.size += written
        return written

    def flush(self) -> None:
        """Do nothing: what writes here flushes often, and `settle` once."""

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def settle(self, path: Path) -> None:
        """Fsync the file and give it this name in the same folder. The folder is the caller's to fsync."""
        self._file.flush()
        fsync_file(self._file.fileno())
        self._file.close()
        self._path.replace(path)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *_exception: object) -> None:
        # What is in the buffer of a file that is given up may be refused by the disk once more.
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


def settle_file(path: Path) -> None:
    """Make a file that another library wrote durable. After a failed fsync its bytes go into a new file of the same name."""
    try:
        fsync_path(path)
    except OSError:
        write_durably(path, path.read_bytes())


def make_folder(folder: Path, root: Path) -> list[Path]:
    """Create a folder below `root`; return it and all folders up to `root`'s parent, for the caller to fsync.

    All of them, also those that exist: whoever created one may have died before its fsync.
    """
    folder.mkdir(parents=True, exist_ok=True)
    above = [parent for parent in folder.parents if parent == root or root in parent.parents]
    # The root's own entry needs its parent, which may be a folder that we may pass through but not open.
    return [folder, *above, *([root.parent] if os.access(root.parent, os.R_OK) else [])]
