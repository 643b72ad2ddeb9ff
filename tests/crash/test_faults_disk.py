"""Disks that run full and disks that are cut off, really: small mounts, and images that are copied in the midst of work."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metering.errors import JournalFull, LakeUnavailable
from tests.crash.children import recorder
from tests.crash.faults import Said, Tally, Workshop, judge, needs_loop, needs_tmpfs, read_notes
from tests.crash.workspace import arrived, once_each, ship_all


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        # A process that was just killed may let go of its files a moment later.
        for _ in range(100):
            if subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode == 0:
                break
            time.sleep(0.02)
        else:
            subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def tmpfs(folder: Path, options: str) -> contextlib.AbstractContextManager[Path]:
    return mounted(folder, "-t", "tmpfs", "-o", options, "tmpfs")


def fill(root: Path, tenant: str, calls: int) -> tuple[int, int]:
    """Record until the calls are used up; return how many were taken and how many refused. Leave without closing."""
    usage = recorder(str(root))
    taken = refused = 0
    for _ in range(calls):
        try:
            usage.record("tokens", tenant=tenant, quantity=taken + 1)
            taken += 1
        except JournalFull:
            refused += 1
    with contextlib.suppress(JournalFull):
        usage.close()
    return taken, refused


def full_journals(root: Path, options: list[str], calls: int) -> tuple[int, int]:
    """Fill a small disk for the journal, ship, go on. Return the events taken and refused; all taken are there once."""
    everything = refused = 0
    for place, option in enumerate(options):
        here, expected = root / f"disk-{place}", {}
        with tmpfs(here / "journal", option):
            for turn in ("first", "second"):
                # Between the turns the shipper frees the disk, and recording goes on.
                taken, said_no = fill(here, turn, calls)
                refused += said_no
                everything += taken
                ship_all(here)
                expected[turn] = once_each(taken)
            assert arrived(here) == {tenant: numbers for tenant, numbers in expected.items() if numbers}
    return everything, refused


@needs_tmpfs
def test_a_full_disk_refuses_in_the_caller_and_loses_nothing(tmp_path: Path) -> None:
    taken, refused = full_journals(tmp_path, ["size=8k", "size=100k", "size=4m,nr_inodes=6"], calls=2500)
    assert taken > 0
    assert refused > 0


@needs_tmpfs
def test_a_full_disk_under_the_lake_is_unavailable_and_ships_after_it_was_freed(tmp_path: Path) -> None:
    for place, option in enumerate(["size=4k", "size=64k", "size=1m,nr_inodes=5", "size=1m,nr_inodes=14"]):
        here = tmp_path / f"disk-{place}"
        with tmpfs(here / "lake", option) as lake:
            taken, _ = fill(here, "only", 500)
            with contextlib.suppress(LakeUnavailable):
                ship_all(here)
            subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=0", str(lake)], check=True)
            ship_all(here)
            assert arrived(here) == {"only": once_each(taken)}


def empty_disk(image: Path) -> Path:
    """Make the image of an empty disk."""
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    return image


def stop(process_id: int) -> None:
    """Stop a process, and return when none of its threads runs or waits for the disk any more."""
    os.kill(process_id, signal.SIGSTOP)
    while any(_is_running(task) for task in Path(f"/proc/{process_id}/task").iterdir()):
        time.sleep(0.0005)


def _is_running(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cut_off(workshop: Workshop, folder: Path, chance: random.Random, kind: int) -> tuple[Path, list[Said]]:
    """Work on a disk, copy it in the midst: that is the cut. Return the copy, and what was said until then.

    Kinds of work: 0 a producer, 1 a producer beside a shipper that never rests, 2 a shipper alone.
    """
    disk, cut = folder / "disk.img", folder / "cut.img"
    shutil.copyfile(folder / "empty.img", disk)
    with mounted(folder / "live", "-o", "loop,commit=300", str(disk)) as live:
        root, said, processes = live / "workspace", [], []
        if kind == 2:
            # What is to be shipped is on the disk before; the cut meets the shipper alone.
            one, _, _ = workshop.run("record", root, count=600, seal_every=100, flush_every=20)
            one.flushed_to = 600
            os.sync()
            said.append(one)
        else:
            job = {"count": 4000, "batches": True, "flush_every": 25, "pace_s": 0.00005}
            if chance.random() < 0.3:
                # Each call of its own waits for the disk.
                job |= {"ack": "disk"}
            recording, _, ended = workshop.run("record", root, is_free=True, **job)
            processes.append(ended["process_id"])
        if kind:
            processes.append(workshop.run("ship", root, is_free=True, is_repeated=kind == 1)[2]["process_id"])
        time.sleep(chance.uniform(0.0, 0.25 if kind != 1 else 0.6))
        for process_id in processes:
            stop(process_id)
        if kind != 2:
            # Read before the copy: only what flush had returned for by then must be on it.
            said.append(read_notes(Path(recording.surprises[0]), recording.tenant))
        shutil.copyfile(disk, cut)
        for process_id in processes:
            os.kill(process_id, signal.SIGKILL)
    return cut, said


def cut_many(workshop: Workshop, folder: Path, cuts: int, seed: int) -> Tally:
    chance, tally = random.Random(seed), Tally()
    empty_disk(folder / "empty.img")
    for run in range(cuts):
        cut, said = cut_off(workshop, folder, chance, kind=run % 3)
        with mounted(folder / "after", "-o", "loop", str(cut)) as after:
            root = after / "workspace"
            if root.exists():
                ship_all(root)
            judge(said, arrived(root), tally, after_cut=True)
            quarantine = root / "quarantine"
            tally.broken += [f"cut {run}: {path.name} in quarantine" for path in quarantine.glob("*/*")]
        tally.runs += 1
        tally.faults += 1
    return tally


def hold(tally: Tally, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{tally.line(what)}\n")
    assert not tally.broken
    assert not tally.surprises
    assert tally.returned > 0


@needs_loop
def test_after_one_power_cut_what_was_flushed_is_there_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workshop(tmp_path / "workshop") as workshop:
        hold(cut_many(workshop, tmp_path, cuts=1, seed=1), "power cut", capsys)


@needs_loop
def test_after_a_power_cut_what_was_flushed_is_there_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workshop(tmp_path / "workshop") as workshop:
        hold(cut_many(workshop, tmp_path, cuts=3, seed=6), "power cuts", capsys)


@pytest.mark.prove
@pytest.mark.timeout(900)
@needs_loop
def test_three_hundred_power_cuts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workshop(tmp_path / "workshop") as workshop:
        hold(cut_many(workshop, tmp_path, cuts=300, seed=300), "power cuts", capsys)


@pytest.mark.prove
@pytest.mark.timeout(600)
@needs_tmpfs
def test_disks_of_every_size_run_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"size={size}k" for size in range(4, 400, 8)] + [f"size=4m,nr_inodes={count}" for count in range(2, 14)]
    taken, refused = full_journals(tmp_path, options, calls=4000)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(options)} full disks: {taken} events acknowledged, {refused} refused, 0 lost\n")
