"""Files that are derived from the lake and kept beside it: each named by its sha256, all listed by one manifest.

Enters: bytes, or a file that an engine wrote. Leaves: the same under the name of its content; the manifest as it was saved.
Refuses: to believe a file that is not what its name says, and to be needed. Delete anything of it at any time, in part or
whole: whoever loads it finds less, or nothing, and works it out again.

Nothing is fsynced: what a power cut tears is found by its hash. Of two processes the one that writes last wins; both
were right.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from metering.durable import TEMPORARY_PREFIX

GARBAGE_AGE_S = 3600

# Which files this process has hashed already, by path: (size, mtime in ns).
_verified: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True, slots=True)
class Derived:
    """One folder of derived files. `manifest` is the name of its list, `version` what the list must have been written by."""

    folder: Path
    manifest: str
    version: object

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, or None where that is missing, torn or of another version."""
        try:
            found = json.loads((self.folder / self.manifest).read_bytes())
            return found if found["format"] == self.version else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, content: dict[str, Any], names: set[str]) -> None:
        """Replace the manifest, and delete old files that are none of `names`. Raises OSError."""
        self._replace(self.manifest, json.dumps({"format": self.version, **content}).encode())
        # Another process may be about to open what its manifest named a moment ago.
        oldest = time.time() - GARBAGE_AGE_S
        for entry in os.scandir(self.folder):
            if entry.name not in {self.manifest, *names} and entry.stat().st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)

    def is_whole(self, name: str) -> bool:
        """Return whether a file is there and what its name says. Hashed once per process, as long as it does not change."""
        path = self.folder / name
        try:
            found = path.stat()
            state = (found.st_size, found.st_mtime_ns)
            if _verified.get(str(path)) == state:
                return True
            with path.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != path.stem:
                    return False
        except OSError:
            return False
        _verified[str(path)] = state
        return True

    def temporary(self) -> Path:
        """Return a path for an engine to write to; `adopt` gives it its name."""
        return self.folder / f"{TEMPORARY_PREFIX}{uuid4().hex}"

    def adopt(self, temporary: Path, suffix: str) -> str:
        """Name a written file by its content; return the name."""
        with temporary.open("rb") as content:
            name = hashlib.file_digest(content, "sha256").hexdigest() + suffix
        temporary.replace(self.folder / name)
        return name

    def keep(self, content: bytes | memoryview, suffix: str) -> str:
        """Write bytes under the name of their content; return the name. Raises OSError."""
        name = hashlib.sha256(content).hexdigest() + suffix
        # What is there under this name may be torn.
        if not self.is_whole(name):
            self._replace(name, content)
        return name

    def _replace(self, name: str, content: bytes | memoryview) -> None:
        temporary = self.temporary()
        temporary.write_bytes(content)
        temporary.replace(self.folder / name)
