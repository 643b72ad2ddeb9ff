"""One Delta table in a local folder, written so that a power cut and a race leave it whole.

Enters: Arrow tables with a declared schema, application transactions. Leaves: sorted Parquet files whose name carries
their own sha256, and commits that name them. Refuses: to read a file before its hash is checked, to trust fsync twice.

Why we write the files ourselves: deltalake, pyarrow and DuckDB never call fsync on a local disk. A commit that survives
a power cut while its data file does not would still answer "already shipped", so data must be on the disk *before* the
commit that names it, and the commit before `append` returns (fault catalogue 1.2, 2.1).
Why the hash is in the name: the file list of the table is then its own manifest. It follows compaction, needs no second
table that could disagree, and one flipped bit is found before DuckDB sums it (which it would do silently).
"""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from metering.durable import HashedFile, fsync_path, make_folder, settle_file
from metering.errors import LakeDamaged, LakeUnavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import pyarrow as pa
    from deltalake import DeltaTable

PARTITION = "event_date"
ROWS_PER_FILE_MAX = 4_000_000
PARQUET_BYTES_MIN = 12
# A table is loaded from its newest checkpoint and the commits behind it: 100 commits load in about 9 ms.
COMMITS_PER_CHECKPOINT = 100
LOOKUPS_MAX = 16
# Statistics only where somebody prunes by them (each column costs a comparison per row); those of a key or a correction
# say whether a row group holds any, those of an origin which segments (metering.file_facts).
PRUNED_BY = ("tenant_id", "meter", "event_time", "producer_id", "segment", "idempotency_key", "correction")
# Nobody travels in time by Delta version (a snapshot is a cut), so commits are kept for one day past their checkpoint.
CONFIGURATION: dict[str, str | None] = {"delta.logRetentionDuration": "interval 1 days"}

_FILE_NAME = re.compile(r"part-[0-9a-f]{32}-([0-9a-f]{64})\.parquet$")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a table: absolute path, bytes, the sha256 it was committed with, its partition, its rows."""

    path: str
    size: int
    sha256: str
    event_date: date | None
    rows: int


@dataclass(frozen=True, slots=True)
class TableShape:
    """What a table is: its name, the schema of its files, their order, and whether it is split by UTC date.

    The partition column is in the Delta schema and in the folder names only, never in the files: a fact is stored once.
    """

    name: str
    schema: pa.Schema
    order: tuple[str, ...]
    is_partitioned: bool = False

    def delta_schema(self) -> pa.Schema:
        import pyarrow as pa

        if not self.is_partitioned:
            return self.schema
        return self.schema.append(pa.field(PARTITION, pa.date32(), nullable=False))


class LakeTable:
    """The files and commits of one Delta table. Every method takes or returns a fresh handle; none is kept."""

    def __init__(self, root: Path, shape: TableShape) -> None:
        self.root = root
        self.shape = shape
        self.folder = root / shape.name
        self.log = self.folder / "_delta_log"
        self._settled = -1

    def open(self) -> DeltaTable | None:
        """Return a fresh handle on the newest version, or None while the table was never created."""
        from deltalake import DeltaTable

        if not (self.log / f"{0:020d}.json").exists() and not (self.log / "_last_checkpoint").exists():
            return None
        self._drop_stillborn()
        if not any(self.log.iterdir()):
            return None
        try:
            with engine(f"open {self.folder}"):
                return DeltaTable(self.folder)
        except LakeUnavailable:
            if self._drop_torn_checkpoint():
                return self.open()
            self._explain_damage()
            raise

    def open_or_create(self) -> DeltaTable:
        """Return a fresh handle, creating the table first. Two processes may create at once; both then see one table."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        handle = self.open()
        if handle is not None:
            return self._widened(handle)
        with engine(f"create {self.folder}"):
            changed = make_folder(self.log, self.root)
            # An error means that another process was first. If it was something else, opening says so.
            with suppress(DeltaError):
                DeltaTable.create(
                    self.folder,
                    self.shape.delta_schema(),
                    partition_by=[PARTITION] if self.shape.is_partitioned else None,
                    configuration=CONFIGURATION,
                )
            for folder in changed:
                fsync_path(folder)
            handle = DeltaTable(self.folder)
            self.settle(handle)
            return handle

    def _widened(self, handle: DeltaTable) -> DeltaTable:
        """Return a handle on a table that has all columns, also where an earlier release created it. New ones may be null."""
        from deltalake import DeltaTable, Field, Schema
        from deltalake.exceptions import DeltaError

        known = {field.name for field in handle.schema().fields}
        declared = self.shape.delta_schema()
        if known.issuperset(declared.names):
            return handle
        with engine(f"add columns to {self.folder}"):
            fields = Schema.from_arrow(declared).fields
            added: list[Field] = [field for field in fields if field.name not in known]
            # An error means that another process was first. If it was something else, the commit of rows says so.
            with suppress(DeltaError):
                handle.alter.add_columns(added)
            handle = DeltaTable(self.folder)
            self.settle(handle)
            return handle

    def write(self, rows: pa.Table) -> list[Any]:
        """Write rows as durable files with unique names; return the actions that would commit them. No rows, no files.

        Names are unique per attempt: a fixed name would let the loser of a race overwrite the committed file. What the disk
        refuses is LakeUnavailable; what is wrong with the rows is raised as it is, because no retry would help.
        """
        from metering.lake_rows import encode, places_in_order

        if not rows.num_rows:
            return []
        rows = self._typed(rows)
        actions: list[Any] = []
        changed: set[Path] = set()
        try:
            for partition, part in self._partitions(encode(rows, self.shape.order)):
                places = places_in_order(part, self.shape.order)
                for at in range(0, part.num_rows, ROWS_PER_FILE_MAX):
                    piece, here = part, None
                    if places is None:
                        piece = part.slice(at, ROWS_PER_FILE_MAX)
                    else:
                        here = places[at : at + ROWS_PER_FILE_MAX]
                    actions.append(self._write_file(partition, piece, here, changed))
            for folder in changed:
                fsync_path(folder)
        except OSError as error:
            raise _unavailable(f"write data files of {self.folder}", error) from error
        return actions

    def commit(self, handle: DeltaTable, actions: Sequence[Any], transactions: Mapping[str, int]) -> None:
        """Commit from the handle that the decision was read from. Raise deltalake's CommitFailedError if the race is lost.

        A commit that landed since the handle was opened and carries one of the same application ids makes this one
        fail; others are rebased over. A fresh handle would accept the same numbers a second time.
        """
        from deltalake import CommitProperties, PostCommitHookProperties, Transaction

        with engine(f"commit to {self.folder}"):
            handle.create_write_transaction(
                list(actions),
                "append",
                self.shape.delta_schema(),
                [PARTITION] if self.shape.is_partitioned else None,
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(app_id, version) for app_id, version in transactions.items()]
                ),
                # Checkpoints are written by `settle`, where they are fsynced; the hook would leave them to the cache.
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )

    def settle(self, handle: DeltaTable) -> None:
        """Make every commit that this handle can see durable, also those of others, and write a checkpoint if one is due.

        Others' too: whoever finds a segment already committed will delete it from the journal, and the process that
        committed it may have died before its fsync.
        """
        with engine(f"make durable {self.folder}"):
            handle.update_incremental()
            version = handle.version()
            checkpoint = self._checkpoint_version()
            for number in range(max(self._settled, checkpoint - 1) + 1, version + 1):
                commit = self.log / f"{number:020d}.json"
                if commit.exists():
                    settle_file(commit)
            fsync_path(self.log)
            if version - checkpoint >= COMMITS_PER_CHECKPOINT:
                self.checkpoint(handle)
            self._settled = version

    def checkpoint(self, handle: DeltaTable) -> None:
        """Write a durable checkpoint of the handle's version, so that opening does not read every commit since the first."""
        with engine(f"checkpoint {self.folder}"):
            handle.create_checkpoint()
            for file in self._checkpoint_files(handle.version()):
                settle_file(file)
            settle_file(self.log / "_last_checkpoint")
            fsync_path(self.log)

    def is_checkpointed(self, handle: DeltaTable) -> bool:
        """Return whether the handle's version has a checkpoint already."""
        return self._checkpoint_version() >= int(handle.version())

    def files(self, handle: DeltaTable) -> list[DataFile]:
        """Return the files of the handle's version, by path. Raise LakeDamaged for one that does not carry its hash."""
        import pyarrow as pa

        with engine(f"list {self.folder}"):
            actions = pa.table(handle.get_add_actions(flatten=True)).to_pylist()
        found = []
        for action in actions:
            name = _FILE_NAME.search(action["path"])
            if name is None:
                raise LakeDamaged(
                    f"{self.folder / action['path']} was written by another program: it does not carry its hash in its"
                    " name. Restore the table, and let only `tallybook compact` rewrite it",
                    path=str(self.folder / action["path"]),
                    expected="part-<attempt>-<sha256>.parquet",
                    found=action["path"],
                )
            path = str(self.folder / action["path"])
            day = action.get(f"partition.{PARTITION}")
            found.append(DataFile(path, action["size_bytes"], name[1], day, action["num_records"]))
        return sorted(found, key=lambda file: file.path)

    def versions(self, handle: DeltaTable, app_ids: Collection[str]) -> Mapping[str, int | None]:
        """Return the newest version of each of these application ids at the handle's version; None: never committed."""
        if len(app_ids) > LOOKUPS_MAX:
            # Read once instead of once per id. It may see a commit newer than the handle; then our commit conflicts.
            known = self.transactions(handle)
            return {app_id: known.get(app_id) for app_id in app_ids}
        with engine(f"read the log of {self.folder}"):
            return {app_id: handle.transaction_version(app_id) for app_id in app_ids}

    def transactions(self, handle: DeltaTable) -> dict[str, int]:
        """Return the newest version of every application id, from the checkpoint and the commits behind it.

        deltalake answers for one id at a time and walks the whole log for it (5 ms each at 100,000 ids), so the log is
        read once here, by its published protocol. A zero-length commit (a power cut) is a version without actions.
        """
        versions: dict[str, int] = {}
        checkpoint = self._checkpoint_version()
        with engine(f"read the log of {self.folder}"):
            for file in self._checkpoint_files(checkpoint):
                versions.update(_transactions_of_checkpoint(file))
            for number in range(checkpoint + 1, handle.version() + 1):
                text = (self.log / f"{number:020d}.json").read_text(encoding="utf-8")
                for line in text.splitlines():
                    # Most lines are long file entries; parsing only the few that matter keeps a cut cheap.
                    if line.startswith('{"txn"'):
                        transaction = json.loads(line)["txn"]
                        versions[transaction["appId"]] = transaction["version"]
        return versions

    def read(self, files: Iterable[DataFile]) -> pa.Table:
        """Return all rows of the files in the table's order, with its exact schema. The caller has verified the files."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with engine(f"read {self.folder}"):
            tables = [self._as_declared(pq.ParquetFile(file.path).read()) for file in files]
            # A column that a file of an earlier release does not have is null in its rows.
            rows = pa.concat_tables([self.shape.schema.empty_table(), *tables], promote_options="default")
            return rows.sort_by([(name, "ascending") for name in self.shape.order])

    def _as_declared(self, rows: pa.Table) -> pa.Table:
        """Return rows with the types that are declared for their columns. Raises where a value does not fit."""
        import pyarrow as pa

        return rows.cast(pa.schema([self.shape.schema.field(name) for name in rows.column_names]))

    def _partitions(self, rows: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self.shape.is_partitioned:
            yield None, rows
            return
        # The partition is the UTC date: the zone is dropped only after the instant is UTC, which the schema says.
        times = rows["event_time"].cast(pa.timestamp("us"))
        ends = pc.min_max(times)
        first, last = (ends[name].cast(pa.date32(), safe=False) for name in ("min", "max"))
        if first == last:
            yield first.as_py().isoformat(), rows
            return
        dates = times.cast(pa.date32(), safe=False)
        for day in sorted(pc.unique(dates).to_pylist()):
            yield day.isoformat(), rows.filter(pc.equal(dates, day))

    def _typed(self, rows: pa.Table) -> pa.Table:
        """Return rows in the table's schema, but that codes stay codes, and narrow decimals narrow."""
        import pyarrow as pa

        from metering.narrow import QUANTITY_TYPES

        rows = rows.select(self.shape.schema.names)
        fields = []
        for field, kind in zip(self.shape.schema, rows.schema.types, strict=True):
            is_kept = pa.types.is_dictionary(kind) or kind in QUANTITY_TYPES
            fields.append(field.with_type(kind) if is_kept else field)
        schema = pa.schema(fields)
        return rows if rows.schema.equals(schema) else rows.cast(schema)

    def _write_file(self, partition: str | None, rows: pa.Table, places: Any, changed: set[Path]) -> Any:
        from deltalake.transaction import AddAction

        from metering.lake_rows import write_parquet

        folder = self.folder if partition is None else self.folder / f"{PARTITION}={partition}"
        changed.update(make_folder(folder, self.root))
        with HashedFile(folder, ".parquet") as file:
            write_parquet(file, rows, places, PRUNED_BY)
            name = f"part-{uuid4().hex}-{file.sha256()}.parquet"
            file.settle(folder / name)
        path = name if partition is None else f"{PARTITION}={partition}/{name}"
        values = {} if partition is None else {PARTITION: partition}
        # No min/max here: wrong ones hide rows from readers, and the Parquet footers hold true ones.
        statistics = json.dumps({"numRecords": rows.num_rows if places is None else len(places)})
        return AddAction(path, file.size, values, time.time_ns() // 1_000_000, True, statistics)

    def _checkpoint_version(self) -> int:
        try:
            return int(json.loads((self.log / "_last_checkpoint").read_text(encoding="utf-8"))["version"])
        except (FileNotFoundError, ValueError, KeyError):
            return -1

    def _checkpoint_files(self, version: int) -> list[Path]:
        return sorted(self.log.glob(f"{version:020d}.checkpoint*.parquet")) if version >= 0 else []

    def _drop_stillborn(self) -> None:
        # A power cut right after the creation leaves commit 0 empty. It was never made durable, so nothing was ever
        # acknowledged on top of it; the table is created anew.
        first = self.log / f"{0:020d}.json"
        if first.exists() and first.stat().st_size == 0 and len(list(self.log.glob("*.json"))) == 1:
            first.unlink()

    def _drop_torn_checkpoint(self) -> bool:
        """Remove a torn newest checkpoint if every commit that it sums up is still there. Return whether it did.

        The engine names a checkpoint before anybody can sync it; a power cut in between leaves the name of an empty file.
        A checkpoint is derived from commits, so nothing is lost with it, and the next one is written in time.
        """
        newest = self._checkpoint_version()
        files = self._checkpoint_files(newest)
        if newest < 0 or (files and all(_is_whole_parquet(file) for file in files)):
            return False
        whole = (file for file in self.log.glob("*.checkpoint*.parquet") if _is_whole_parquet(file))
        older = max((number for number in (int(file.name[:20]) for file in whole) if number < newest), default=-1)
        if not all((self.log / f"{number:020d}.json").exists() for number in range(older + 1, newest + 1)):
            return False
        for file in files:
            file.unlink()
        (self.log / "_last_checkpoint").unlink()
        fsync_path(self.log)
        return True

    def _explain_damage(self) -> None:
        for commit in sorted(self.log.glob("*.json"), reverse=True)[:COMMITS_PER_CHECKPOINT]:
            for line in commit.read_bytes().splitlines():
                try:
                    json.loads(line)
                except ValueError:
                    self._refuse_torn(commit)
        for file in self._checkpoint_files(self._checkpoint_version()):
            if not _is_whole_parquet(file):
                self._refuse_torn(file)

    def _refuse_torn(self, file: Path) -> NoReturn:
        raise LakeDamaged(
            f"{file} is torn (a power cut or a bad disk). If the journal still holds its segments, move this file aside"
            " and run `tallybook ship` again; otherwise restore it from a backup",
            path=str(file),
            expected="a complete file of the Delta log",
            found=f"{file.stat().st_size} bytes that cannot be read",
        )


def _is_whole_parquet(file: Path) -> bool:
    return file.stat().st_size >= PARQUET_BYTES_MIN and file.read_bytes()[-4:] == b"PAR1"


@contextmanager
def engine(what: str) -> Iterator[None]:
    """Turn what deltalake, pyarrow and the disk raise into LakeUnavailable; a lost commit race passes as it is.

    deltalake's Rust panics arrive as pyo3's PanicException, a BaseException that `except Exception` misses and that
    cannot be imported: it is known by its name.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError
    from pyarrow import ArrowException

    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, ArrowException, OSError) as error:
        raise _unavailable(what, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _unavailable(what, error) from error


def _unavailable(what: str, error: BaseException) -> LakeUnavailable:
    return LakeUnavailable(f"could not {what}: {error}. Nothing was lost; try again", what=what)


def _transactions_of_checkpoint(file: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    if "txn" not in parquet.schema_arrow.names:
        return {}
    rows = parquet.read(columns=["txn"])["txn"].drop_null().to_pylist()
    return {row["appId"]: row["version"] for row in rows}
