"""How faults are swept over system calls, and how exactly is counted what became of every event."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crash.fault_children import (
    CALLING,
    EVENTS_MAX,
    FILES_AT,
    FLUSHED_AT,
    NOTES_BYTES,
    REFUSED,
    RETURNED,
    SURPRISES_AT,
)
from tests.crash.workspace import REPOSITORY, arrived, ship_all

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: no injected faults")


def can_mount(*kind: str) -> bool:
    return os.geteuid() == 0 and all(shutil.which(name) is not None for name in ("mount", "umount", *kind))


needs_tmpfs = pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs root")
needs_loop = pytest.mark.skipif(
    not can_mount("mkfs.ext4") or not Path("/dev/loop-control").exists(),
    reason="a disk that can be cut off needs root, loop devices and mkfs.ext4",
)


@dataclass(slots=True)
class Said:
    """What one child noted: per event the last state of its call, and up to where `flush` returned."""

    tenant: str
    states: bytes
    flushed_to: int
    files_left_open: int
    surprises: list[str]

    def numbers(self, state: int) -> set[int]:
        return {number for number, found in enumerate(self.states) if found == state}


@dataclass(slots=True)
class Tally:
    """What a sweep did and found. `broken` is empty, or the sweep failed."""

    runs: int = 0
    faults: int = 0
    returned: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    surprises: Counter[str] = field(default_factory=Counter)

    def line(self, what: str) -> str:
        return (
            f"{what}: {self.runs} runs, {self.faults} faults, {self.returned} events acknowledged,"
            f" {self.refused} refused: {len(self.broken)} broken promises"
        )


class Workshop:
    """A process that runs jobs in forked children, and the notes of those jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fault_children"],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._server:
            self._server.kill()

    def run(self, work: str, root: Path, *, inject: str | None = None, **job: Any) -> tuple[Said, int, dict[str, Any]]:
        """Run one job; return what it noted, how many of its calls were failed, and how it ended."""
        self._count += 1
        notes, log = self.folder / f"{self._count}.notes", self.folder / f"{self._count}.log"
        notes.write_bytes(bytes(NOTES_BYTES))
        document = {"work": work, "root": str(root), "notes": str(notes), "tenant": f"run-{self._count}", **job}
        if inject is not None:
            document |= {"inject": inject, "log": str(log)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(document).encode() + b"\n")
        self._server.stdin.flush()
        ended = json.loads(self._server.stdout.readline())
        if "error" in ended:
            pytest.skip(f"strace may not attach here: {ended['error'].strip()}")
        faults = 0
        if inject is not None:
            faults = log.read_text(encoding="utf-8", errors="replace").count("INJECTED")
            log.unlink()
        if "process_id" in ended:
            # Still running: its notes are read when it has been stopped.
            return Said(str(document["tenant"]), b"", 0, 0, [str(notes)]), faults, ended
        faults += ended["status"] == -signal.SIGKILL
        said = read_notes(notes, str(document["tenant"]))
        notes.unlink()
        return said, faults, ended


def read_notes(path: Path, tenant: str) -> Said:
    content = path.read_bytes()
    surprises = content[SURPRISES_AT:].rstrip(b"\0").decode(errors="replace").splitlines()
    flushed_to = int.from_bytes(content[FLUSHED_AT : FLUSHED_AT + 4], "little")
    files = int.from_bytes(content[FILES_AT : FILES_AT + 4], "little")
    return Said(tenant, content[:EVENTS_MAX], flushed_to, files, surprises)


def judge(said: Iterable[Said], found: dict[str, Counter[int]], tally: Tally, *, after_cut: bool = False) -> None:
    """Count exactly: nothing acknowledged is lost, nothing twice, nothing that was refused or never said is there.

    After a power cut only what `flush` returned for must be there; what was recorded since may be, once.
    """
    found = dict(found)
    for one in said:
        numbers = found.pop(one.tenant, Counter())
        returned, calling = one.numbers(RETURNED), one.numbers(CALLING)
        refused = one.numbers(REFUSED)
        must = {number for number in returned if number <= one.flushed_to} if after_cut else returned
        may = returned | calling
        tally.returned += len(must)
        tally.refused += len(refused)
        tally.surprises.update(one.surprises)
        problems = {
            "lost": must - numbers.keys(),
            "twice": {number for number, times in numbers.items() if times > 1},
            "refused and yet there": numbers.keys() & refused,
            "invented": numbers.keys() - may - refused,
        }
        tally.broken += [f"{one.tenant}: {what}: {sorted(which)[:5]}" for what, which in problems.items() if which]
    tally.broken += [f"{tenant}: nobody recorded this" for tenant in found]


def sweep_record(
    workshop: Workshop, root: Path, faults: Iterable[str], ks: Iterable[str], *, count: int = 600, **job: Any
) -> Tally:
    """Fail each k-th call of a producer, every producer in the same workspace; then ship on a healthy disk and count.

    A fault is `call:what`; a k is a number, or a number and `+`: that call and all later ones. strace counts per thread.
    """
    tally, said = Tally(), []
    for fault in faults:
        for k in ks:
            one, failed, _ = workshop.run(
                "record", root, inject=f"{fault}:when={k}", count=count, batches=True, close=tally.runs % 2 == 0, **job
            )
            one.surprises = [f"{fault}:when={k}: {text}" for text in one.surprises]
            said.append(one)
            tally.runs += 1
            tally.faults += failed
            if not failed and "KILL" not in fault:
                break
    ship_all(root)
    judge(said, arrived(root), tally)
    return tally


def sweep_ship(
    workshop: Workshop, root: Path, faults: Iterable[str], ks: Iterable[str], *, is_fresh: bool = False
) -> Tally:
    """Fail each k-th call of a shipper, then ship on a healthy disk, and count. `is_fresh`: each run creates the lake."""
    tally, said = Tally(), []
    here = root
    for fault in faults:
        for k in ks:
            if is_fresh:
                here, said = root / f"{tally.runs}", []
            one, _, _ = workshop.run("record", here, count=40, seal_every=15, close=tally.runs % 2 == 0)
            shipped, failed, _ = workshop.run("ship", here, inject=f"{fault}:when={k}")
            tally.surprises.update(f"{fault}:when={k}: {text}" for text in shipped.surprises)
            said.append(one)
            tally.runs += 1
            tally.faults += failed
            if is_fresh:
                ship_all(here)
                judge(said, arrived(here), tally)
                shutil.rmtree(here)
            if not failed and "KILL" not in fault:
                break
    if not is_fresh:
        ship_all(root)
        judge(said, arrived(root), tally)
    return tally


def sweep_upkeep(workshop: Workshop, root: Path, faults: Iterable[str], ks: Iterable[str]) -> Tally:
    """Fail each k-th call of a compaction and a vacuum of a lake of small files; then do both undisturbed, and count."""
    tally, said = Tally(), []
    for fault in faults:
        for k in ks:
            for _ in range(2):
                said.append(workshop.run("record", root, count=20, close=True)[0])
                workshop.run("ship", root)
            kept, failed, _ = workshop.run("keep_up", root, inject=f"{fault}:when={k}")
            tally.surprises.update(f"{fault}:when={k}: {text}" for text in kept.surprises)
            tally.runs += 1
            tally.faults += failed
            if not failed and "KILL" not in fault:
                break
    ship_all(root)
    judge(said, arrived(root), tally)
    assert not workshop.run("keep_up", root)[0].surprises
    # Once more: what was counted must be the same after all of it was rewritten.
    judge(said, arrived(root), again := Tally())
    tally.broken += again.broken
    return tally
