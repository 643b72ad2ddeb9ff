"""Publishing a run as a folder that is there whole or not at all.

Enters: a run, and the formats wanted. Leaves: `<folder>/<period>_<hash>/` with every file in these formats, `SHA256SUMS` and
`manifest.json`. Refuses: to change a published folder, and to write the time of publication or anything else that differs
from run to run.

The hash in the name is that of all that decides the bytes: papers, usage, formats, versions. So another content has
another name, there is no `latest` that could point elsewhere while it is read, and the same run again is a no-op.
The folder is written under a temporary name (`.tmp-...`), every file fsynced, the manifest last, and renamed. A reader
that finds no manifest, or a name that begins with a dot, finds no run; what a crash leaves under such a name may be
deleted at any time. Files are written one after the other, so that no two of them are in memory together; where the
run is there already, it is written again beside it, compared, and dropped.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, timedelta
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from uuid import uuid4

import orjson

from billing_adapters.errors import PublicationConflict, PublicationDamaged, PublicationFailed
from billing_adapters.file_adapter.columns import ALL_FORMATS, Format, arrow_schema
from billing_adapters.file_adapter.formats import (
    CSV_SETTINGS,
    FORMATS,
    JSON_LINES_SETTINGS,
    PARQUET_SETTINGS,
    neutralised,
    write_json_lines,
)
from billing_adapters.file_adapter.letter import letter, letter_name
from billing_adapters.file_adapter.shapes import USAGE, USAGE_DETAIL
from billing_adapters.file_adapter.tables import tables_of, usage_table
from billing_adapters.file_adapter.usage_detail import FILE, write_detail
from billing_adapters.file_adapter.workbook import XLSX_SETTINGS, About
from billing_adapters.ports import Published, PublishedFile
from metering.durable import TEMPORARY_PREFIX, HashedFile, fsync_path, make_folder, write_durably
from metering.numbers import trimmed
from rating.invoice import document
from rating.rounding import exact_sum
from rating.voids import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import FileShape
    from billing_adapters.ports import PublishedRun, UsageDetail
    from billing_adapters.prepaid_balances import PrepaidLeg
    from billing_adapters.receivables import Leg
    from billing_adapters.settlements import Settlement
    from rating.paper import Paper

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
# The folder in a run that holds one letter per document.
LETTERS = "invoices"
_LETTERS_TOGETHER = 32
MANIFEST_VERSION = 5
# What shapes the bytes besides the run: another version of these may write other bytes, so it is another run.
LIBRARIES = ("jinja2", "orjson", "pyarrow", "xlsxwriter")
_SETTINGS = {
    "csv": CSV_SETTINGS,
    "jsonl": JSON_LINES_SETTINGS,
    "parquet": PARQUET_SETTINGS,
    "xlsx": XLSX_SETTINGS,
    "html": {"paper": "A4"},
}
_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


def publish(
    folder: Path,
    run: PublishedRun,
    *,
    formats: Sequence[str] = ALL_FORMATS,
    on_step: Callable[[str], None] | None = None,
) -> Published:
    """Write the files of a run into a folder of its own below `folder`, atomically. Idempotent.

    `formats`: some of csv, jsonl, parquet, xlsx, html; other formats of a run are another folder. `on_step` is told
    the name of each step before it is taken, for tests that crash there. Raises PublicationConflict if the run's folder
    is there and holds something else; PublicationFailed (retry) if the disk refused.
    """
    step = on_step or (lambda _step: None)
    wanted = in_order(formats)
    run_id = run_id_of(run, wanted)
    final = folder / folder_name(run, run_id)
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid4().hex}"
    try:
        above = make_folder(folder, folder)
        temporary.mkdir()
        files = _write_files(temporary, run, run_id, wanted, step)
        fsync_path(temporary)
        step("rename")
        is_new = not final.exists()
        if is_new:
            try:
                temporary.rename(final)
            except OSError:
                # Somebody else published the same run between our look and our rename.
                if not final.exists():
                    raise
                is_new = False
        if not is_new:
            _check_same(final, files)
        for changed in above:
            fsync_path(changed)
    except OSError as error:
        raise PublicationFailed(
            f"{final} could not be written ({error}); nothing was published. Make room or rights, then publish again",
            folder=final,
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Published(final, run_id, is_new, files)


def in_order(formats: Sequence[str]) -> tuple[str, ...]:
    """Return formats without repeats, in the order in which they are written. Raises ValueError for one that is not known."""
    unknown = [name for name in formats if name not in ALL_FORMATS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no format of files; there are {', '.join(ALL_FORMATS)}")
    return tuple(name for name in ALL_FORMATS if name in formats)


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
    found = {
        path.relative_to(folder).as_posix(): _listed(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    differences = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    differences += [f"{name} is not of this run" for name in sorted(found.keys() - expected.keys() - {MANIFEST, SUMS})]
    for name in sorted(expected.keys() & found.keys()):
        if found[name].sha256 != expected[name]:
            differences.append(f"{name} is not what the manifest says")
    sums = _sums({name: found[name].sha256 for name in [*expected, MANIFEST] if name in found})
    if not differences and (SUMS not in found or (folder / SUMS).read_bytes() != sums):
        differences.append(f"{SUMS} does not agree with the files")
    if differences:
        message = f"{folder} does not verify: {'; '.join(differences)}. Restore it, or move it away and publish again"
        raise PublicationDamaged(message, tuple(differences), folder=folder)
    rows = {file["name"]: file["rows"] for file in manifest["files"]}
    files = tuple(
        PublishedFile(file.name, file.format, rows.get(file.name), file.bytes, file.sha256) for file in found.values()
    )
    return Published(folder, manifest["run_id"], False, tuple(sorted(files, key=lambda file: file.name)))


def run_id_of(run: PublishedRun, formats: Sequence[str] = ALL_FORMATS) -> str:
    """Return the id of a run: a hash of everything that decides its bytes. The same run has the same id, anywhere."""
    digest = _Digest()
    write_json_lines(USAGE, usage_table(run, ""), cast("BinaryIO", digest), _about(run, "", []))
    identity = {
        "manifest_version": MANIFEST_VERSION,
        "head": _head(run, in_order(formats)),
        "papers": sorted(_paper_identity(paper) for paper in run.papers),
        "earlier": sorted(_paper_identity(paper) for paper in run.earlier),
        "settlements": [[one.batch_id, one.number, *_texts(one.settlement)] for one in run.settlements],
        "owed": _sha256(orjson.dumps([_texts(leg) for leg in run.owed])),
        "prepaid": _sha256(orjson.dumps([_texts(leg) for leg in run.prepaid])),
        "usage": digest.sha256.hexdigest(),
        "ledger": [account.model_dump_json() for account in run.ledger.accounts],
    }
    return "run-" + _sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS))[:24]


def _texts(row: Settlement | Leg | PrepaidLeg) -> list[str]:
    values = (getattr(row, name) for name in row.__slots__)
    return [trimmed(value) if isinstance(value, Decimal) else str(value) for value in values]


class _Digest:
    """A file of which only the hash is kept."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return len(content)


def _paper_identity(paper: Paper) -> list[str]:
    """Return what decides the bytes of one paper, as texts."""
    return [
        paper.invoice.number or "",
        _sha256(document(paper.invoice)),
        paper.invoice.status,
        paper.account.model_dump_json(by_alias=True, exclude={"tenants"}),
        paper.seller.model_dump_json(by_alias=True) if paper.seller else "",
        *paper.corrects,
        *(f"{line} {one.number} {one.snapshot_id}" for line, one in sorted(paper.billed_before.items())),
        *map(trimmed, paper.burns_paid),
        *_void_identity(paper),
        *(trimmed(line.tax) for line in paper.taxed.lines),
    ]


def _void_identity(paper: Paper) -> list[str]:
    if paper.voided is None:
        return []
    return [described(paper.voided), paper.voided.decided_by, *map(trimmed, paper.burns_paid_back)]


def folder_name(run: PublishedRun, run_id: str) -> str:
    """Return `2026-10-01_2026-11-01_<12 hex of the run id>`: sorted by period, distinct by content."""
    return f"{run.period.start.date()}_{run.period.end.date()}_{run_id.removeprefix('run-')[:12]}"


def _write_files(
    folder: Path, run: PublishedRun, run_id: str, formats: Sequence[str], step: Callable[[str], None]
) -> tuple[PublishedFile, ...]:
    """Write every file of the run and return what was written, by name. The manifest is the last."""
    told: list[dict[str, Any]] = []
    for shape, table in tables_of(run, run_id):
        totals = [(column, per, _sums_per(table, column, per)) for column, per in shape.control_totals]
        listed = [{"sum_of": column, "per": per, "sums": sums} for column, per, sums in totals]
        for file_format in (one for one in formats if one in FORMATS):
            name = f"{shape.name}.{file_format}"
            step(name)
            with _new_file(folder / name) as file:
                FORMATS[file_format](shape, table, cast("BinaryIO", file), _about(run, run_id, totals))
            told.append({**_describe(shape, file_format, table.num_rows, name, file), "control_totals": listed})
    if run.usage_detail is not None:
        step(FILE)
        told.append(_write_usage_detail(folder, run.usage_detail, run_id))
    if Format.HTML in formats:
        told += _write_letters(folder / LETTERS, run, step)
    manifest = {"manifest_version": MANIFEST_VERSION, "run_id": run_id, **_head(run, formats), "files": told}
    written = orjson.dumps(manifest, option=_PRETTY)
    hashes = {file["name"]: file["sha256"] for file in told}
    sums = _sums({**hashes, MANIFEST: _sha256(written)})
    for name, content in ((SUMS, sums), (MANIFEST, written)):
        step(name)
        write_durably(folder / name, content)
    files = [PublishedFile(one["name"], one["format"], one["rows"], one["bytes"], one["sha256"]) for one in told]
    files += [
        PublishedFile(name, _format_of(name), None, len(content), _sha256(content))
        for name, content in ((SUMS, sums), (MANIFEST, written))
    ]
    return tuple(sorted(files, key=lambda file: file.name))


def _write_usage_detail(folder: Path, detail: UsageDetail, run_id: str) -> dict[str, Any]:
    """Write the file of every usage event, in one format, and return what the manifest says of it."""
    with detail() as tables, _new_file(folder / FILE) as file:
        rows, by_meter = write_detail(tables, run_id, cast("BinaryIO", file))
    sums = {meter: trimmed(exact_sum(parts)) for meter, parts in sorted(by_meter.items())}
    listed = [{"sum_of": "quantity", "per": "meter", "sums": sums}]
    return {**_describe(USAGE_DETAIL, "parquet", rows, FILE, file), "control_totals": listed}


def _write_letters(folder: Path, run: PublishedRun, step: Callable[[str], None]) -> list[dict[str, Any]]:
    """Write one letter per document into a folder of their own, and return what the manifest says of each."""
    folder.mkdir()
    told = []
    papers = sorted(run.papers, key=letter_name)
    # Waiting for the disk is most of the time of many small files; waiting together, they share its syncs.
    with ThreadPoolExecutor(_LETTERS_TOGETHER, thread_name_prefix="letters") as threads:
        for start in range(0, len(papers), _LETTERS_TOGETHER):
            writing = []
            for paper in papers[start : start + _LETTERS_TOGETHER]:
                name = f"{folder.name}/{letter_name(paper)}"
                step(name)
                content = letter(paper)
                writing.append(threads.submit(write_durably, folder / letter_name(paper), content))
                told.append(
                    {
                        "name": name,
                        "format": Format.HTML.value,
                        "invoice_id": paper.invoice.invoice_id,
                        "rows": len(paper.invoice.lines),
                        "bytes": len(content),
                        "sha256": _sha256(content),
                    }
                )
            for one in writing:
                one.result()
    fsync_path(folder)
    return told


@contextmanager
def _new_file(path: Path) -> Iterator[HashedFile]:
    """Open a file that is hashed while it is written, and durable under its name when the block ends well."""
    with HashedFile(path.parent, path.suffix) as file:
        yield file
        file.settle(path)


def _about(run: PublishedRun, run_id: str, totals: list[tuple[str, str, dict[str, str]]]) -> About:
    last_day = (run.period.end - timedelta(days=1)).date()
    words = f"{run.period.start.date()} to {last_day}, in the time zone of each plan"
    return About(run_id, words, run.period.end.replace(tzinfo=UTC), totals)


def _head(run: PublishedRun, formats: Sequence[str]) -> dict[str, Any]:
    return {
        "period": {"start": str(run.period.start.date()), "end": str(run.period.end.date())},
        "close_ids": list(run.close_ids),
        "snapshot_ids": list(run.snapshot_ids),
        "catalog_revisions": list(run.catalog_revisions),
        "generator": dict(run.generator_versions),
        "libraries": {**{library: version(library) for library in LIBRARIES}, "zlib": zlib.ZLIB_RUNTIME_VERSION},
        "parameters": {name: _SETTINGS[name] for name in formats},
        "usage_detail": run.usage_detail is not None,
    }


def _describe(shape: FileShape, file_format: str, rows: int, name: str, file: HashedFile) -> dict[str, Any]:
    return {
        "name": name,
        "format": file_format,
        "grain": shape.grain,
        "sorted_by": list(shape.key),
        "rows": rows,
        "bytes": file.size,
        "sha256": file.sha256(),
        "schema": [
            {
                "column": column.name,
                "type": str(arrow_schema(shape).field(column.name).type),
                "unit": column.unit,
                "meaning": column.meaning,
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


def _check_same(final: Path, files: Sequence[PublishedFile]) -> None:
    """Raise PublicationConflict unless the folder holds these very files."""
    there = {
        path.relative_to(final).as_posix(): _listed(path.name, path).sha256
        for path in final.rglob("*")
        if path.is_file()
    }
    made = {file.name: file.sha256 for file in files}
    if there != made:
        names = sorted(name for name in there.keys() | made.keys() if there.get(name) != made.get(name))
        raise PublicationConflict(
            f"{final} is there already and differs from this run in {', '.join(names)}; it was left as it is. "
            "Move it away, then publish again",
            folder=final,
            files=tuple(names),
        )


def _listed(name: str, path: Path) -> PublishedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return PublishedFile(name, _format_of(name), None, file.tell(), digest)


def _format_of(name: str) -> str:
    return {MANIFEST: "json", SUMS: "sums"}.get(name, name.rpartition(".")[2])


def _sums(hashes: dict[str, str]) -> bytes:
    """Return what `sha256sum --check` reads: the hash, two blanks, the name."""
    return "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
