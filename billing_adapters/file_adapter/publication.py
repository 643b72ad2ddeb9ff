"""Publishing a run as a folder that is there whole or not at all.

Enters: a run. Leaves: `<folder>/<period>_<hash>/` with every file in three formats, `SHA256SUMS` and `manifest.json`.
Refuses: to change a published folder, and to write the time of publication or anything else that differs from run to run.

The hash in the name is that of all that decides the bytes: invoices, usage, names, versions. So another content has
another name, there is no `latest` that could point elsewhere while it is read, and the same run again is a no-op.
The folder is written under a temporary name (`.tmp-...`), every file fsynced, the manifest last, and renamed. A reader
that finds no manifest, or a name that begins with a dot, finds no run; what a crash leaves under such a name may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from billing_adapters.errors import PublicationConflict, PublicationDamaged, PublicationFailed
from billing_adapters.file_adapter.columns import USAGE
from billing_adapters.file_adapter.formats import (
    CSV_SETTINGS,
    FORMATS,
    JSON_LINES_SETTINGS,
    PARQUET_SETTINGS,
    json_lines_bytes,
    neutralised,
)
from billing_adapters.file_adapter.tables import tables_of, usage_table
from billing_adapters.ports import Published, PublishedFile
from metering.durable import TEMPORARY_PREFIX, fsync_path, make_folder, write_durably
from metering.numbers import trimmed
from rating.invoice import document
from rating.rounding import exact_sum

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import FileShape
    from billing_adapters.ports import PublishedRun

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
MANIFEST_VERSION = 1
# What shapes the bytes besides the run: another version of these may write other bytes, so it is another run.
LIBRARIES = ("orjson", "pyarrow")
_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


@dataclass(frozen=True, slots=True)
class FileAdapter:
    """The files adapter as a port: publishes every run into one folder."""

    folder: Path

    @property
    def name(self) -> str:
        return "files"

    def publish(self, run: PublishedRun) -> Published:
        return publish(self.folder, run)

    def read_back(self, run: PublishedRun) -> Published | None:
        folder = self.folder / folder_name(run, run_id_of(run))
        return verify_published(folder) if (folder / MANIFEST).exists() else None


def publish(folder: Path, run: PublishedRun, *, on_step: Callable[[str], None] | None = None) -> Published:
    """Write the files of a run into a folder of its own below `folder`, atomically. Idempotent.

    `on_step` is told the name of each step before it is taken, for tests that crash there. Raises PublicationConflict
    if the run's folder is there and holds something else; PublicationFailed (retry) if the disk refused.
    """
    step = on_step or (lambda _step: None)
    run_id = run_id_of(run)
    final = folder / folder_name(run, run_id)
    contents = _contents(run, run_id)
    listed = tuple(_listed(name, content) for name, content in sorted(contents.items()))
    if final.exists():
        return _same_or_conflict(final, run_id, contents, listed)
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid4().hex}"
    try:
        above = make_folder(folder, folder)
        temporary.mkdir()
        for name, content in contents.items():
            step(name)
            write_durably(temporary / name, content)
        fsync_path(temporary)
        step("rename")
        try:
            temporary.rename(final)
        except OSError:
            # Somebody else published the same run between our look and our rename.
            if not final.exists():
                raise
            return _same_or_conflict(final, run_id, contents, listed)
        for changed in above:
            fsync_path(changed)
    except OSError as error:
        raise PublicationFailed(
            f"{final} could not be written ({error}); nothing was published. Make room or rights, then publish again",
            folder=final,
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Published(final, run_id, True, tuple(_with_rows(listed, contents[MANIFEST])))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a published run. Raises PublicationDamaged when there is none: then there is no run."""
    try:
        manifest: dict[str, Any] = orjson.loads((folder / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        message = f"{folder} has no readable {MANIFEST}, so it is not a published run; publish it again"
        raise PublicationDamaged(message, (f"{MANIFEST}: {error}",), folder=folder) from error
    return manifest


def verify_published(folder: Path) -> Published:
    """Check every byte of a published run against its manifest and SHA256SUMS. Raises PublicationDamaged with all differences."""
    manifest = read_manifest(folder)
    expected = {file["name"]: file["sha256"] for file in manifest["files"]}
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    differences = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    differences += [f"{name} is not of this run" for name in sorted(found.keys() - expected.keys() - {MANIFEST, SUMS})]
    for name in sorted(expected.keys() & found.keys()):
        if _sha256(found[name]) != expected[name]:
            differences.append(f"{name} is not what the manifest says")
    sums = _sums({name: found[name] for name in [*expected, MANIFEST] if name in found})
    if not differences and found.get(SUMS) != sums:
        differences.append(f"{SUMS} does not agree with the files")
    if differences:
        message = f"{folder} does not verify: {'; '.join(differences)}. Restore it, or move it away and publish again"
        raise PublicationDamaged(message, tuple(differences), folder=folder)
    listed = tuple(_listed(name, content) for name, content in found.items())
    return Published(folder, manifest["run_id"], False, tuple(_with_rows(listed, found[MANIFEST])))


def run_id_of(run: PublishedRun) -> str:
    """Return the id of a run: a hash of everything that decides its bytes. The same run has the same id, anywhere."""
    identity = {
        "manifest_version": MANIFEST_VERSION,
        "head": _head(run),
        "account_names": {invoice.account_id: run.account_names.get(invoice.account_id) for invoice in run.invoices},
        "invoices": sorted(
            (_sha256(document(invoice)), invoice.number or "", invoice.status) for invoice in run.invoices
        ),
        "usage": _sha256(json_lines_bytes(USAGE, usage_table(run, ""))),
    }
    return "run-" + _sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS))[:24]


def folder_name(run: PublishedRun, run_id: str) -> str:
    """Return `2026-10-01_2026-11-01_<12 hex of the run id>`: sorted by period, distinct by content."""
    return f"{run.period.start.date()}_{run.period.end.date()}_{run_id.removeprefix('run-')[:12]}"


def _contents(run: PublishedRun, run_id: str) -> dict[str, bytes]:
    """Return every file of the run by name, in the order in which they are written: the manifest is the last."""
    contents: dict[str, bytes] = {}
    described: list[dict[str, Any]] = []
    for shape, table in tables_of(run, run_id):
        totals = [
            {"sum_of": column, "per": per, "sums": _sums_per(table, column, per)}
            for column, per in shape.control_totals
        ]
        for file_format, write in FORMATS.items():
            name = f"{shape.name}.{file_format}"
            contents[name] = write(shape, table)
            described.append({**_describe(shape, file_format, table, name, contents[name]), "control_totals": totals})
    manifest = {"manifest_version": MANIFEST_VERSION, "run_id": run_id, **_head(run), "files": described}
    written = orjson.dumps(manifest, option=_PRETTY)
    return {**contents, SUMS: _sums({**contents, MANIFEST: written}), MANIFEST: written}


def _head(run: PublishedRun) -> dict[str, Any]:
    return {
        "period": {"start": str(run.period.start.date()), "end": str(run.period.end.date())},
        "close_ids": list(run.close_ids),
        "snapshot_ids": list(run.snapshot_ids),
        "catalog_revisions": list(run.catalog_revisions),
        "generator": dict(run.generator_versions),
        "libraries": {library: version(library) for library in LIBRARIES},
        "parameters": {"csv": CSV_SETTINGS, "jsonl": JSON_LINES_SETTINGS, "parquet": PARQUET_SETTINGS},
    }


def _describe(shape: FileShape, file_format: str, table: pa.Table, name: str, content: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "format": file_format,
        "grain": shape.grain,
        "sorted_by": list(shape.key),
        "rows": table.num_rows,
        "bytes": len(content),
        "sha256": _sha256(content),
        "schema": [
            {
                "column": column.name,
                "type": str(table.schema.field(column.name).type),
                "unit": column.unit,
                "nullable": column.nullable,
                "neutralised": neutralised(column, file_format),
            }
            for column in shape.columns
        ],
    }


def _sums_per(table: pa.Table, column: str, per: str) -> dict[str, str]:
    """Return exact sums as text; rows without the key (a flat fee has no meter) are in none of them."""
    groups: dict[str, list[Decimal]] = {}
    for key, number in zip(table[per].to_pylist(), table[column].to_pylist(), strict=True):
        if key is not None:
            groups.setdefault(key, []).append(number)
    return {key: trimmed(exact_sum(numbers)) for key, numbers in sorted(groups.items())}


def _same_or_conflict(
    final: Path, run_id: str, contents: dict[str, bytes], listed: tuple[PublishedFile, ...]
) -> Published:
    there = {path.name: path.read_bytes() for path in final.iterdir() if path.is_file()}
    if there != contents:
        names = sorted(name for name in there.keys() | contents.keys() if there.get(name) != contents.get(name))
        raise PublicationConflict(
            f"{final} is there already and differs from this run in {', '.join(names)}; it was left as it is. "
            "Move it away, then publish again",
            folder=final,
            files=tuple(names),
        )
    return Published(final, run_id, False, tuple(_with_rows(listed, contents[MANIFEST])))


def _listed(name: str, content: bytes) -> PublishedFile:
    kind = {MANIFEST: "json", SUMS: "sums"}.get(name, name.rpartition(".")[2])
    return PublishedFile(name, kind, None, len(content), _sha256(content))


def _with_rows(listed: tuple[PublishedFile, ...], manifest: bytes) -> list[PublishedFile]:
    rows = {file["name"]: file["rows"] for file in orjson.loads(manifest)["files"]}
    return [PublishedFile(file.name, file.format, rows.get(file.name), file.bytes, file.sha256) for file in listed]


def _sums(contents: dict[str, bytes]) -> bytes:
    """Return what `sha256sum --check` reads: the hash, two blanks, the name."""
    return "".join(f"{_sha256(contents[name])}  {name}\n" for name in sorted(contents)).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
