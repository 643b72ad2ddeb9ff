"""Rollups: states of usage, kept beside the lake, so that adding up again costs what is new.

Enters: the data files of the lake, the evidence of a snapshot and the spans that ask. Leaves: the table `usage_state`, the
same as from the events themselves, made of states that were worked out before and of the few events they do not cover.
Refuses: to be needed. Everything here is derived: delete the folder `lake/derived` at any time, in part or whole, and the
next call gives the same states again; only time is lost.

A rollup is a set of data files and their states at the grain (tenant, meter, attributes, cell of time). Cells lie between
instants at which spans begin or end, months of UTC always among them, so that a cell is inside a span or outside of it.
States are count, sum, maximum and minimum, and add up; what needs the order of events is read from the events.

Nothing is invalidated. A rollup is used where it still fits, and that is asked of it every time, by what it covers:
- its data files are all of the lake still (compaction replaces files; their states are made again from the new ones);
- the snapshot takes all their segments (an older snapshot reads the events of such files);
- tenant by tenant: no span begins or ends inside a cell, and the events that do not count (duplicates, voided, replaced)
  are those that were left out when it was made. Tenants for whom that does not hold are *stale*: their events are read.
There are few rollups: some of the files that compaction leaves alone and some of recent ones, added up as they grow.

The files are named by their sha256, and a manifest names them; whoever writes last wins, and both were right.
Rejected: states by the day (with 30 events a day per tenant they are hardly fewer than the events), and putting the spans
into the name of a rollup (one new subscription would make all of it again).
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metering.derived import Derived
from metering.engine import fetch, read_sql
from metering.file_facts import file_facts
from metering.periods import add_months

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    import duckdb
    import pyarrow as pa

    from metering.file_states import FileSet, Sums

    # Of states in a file: how many rows, their cells where these are few, and its name.
    _Kept = tuple[int, frozenset[tuple[int, int]] | None, str]

# Below this, reading the events is as quick as looking anything up.
SCAN_BYTES_MAX = 32 * 1024 * 1024
# From this size on compaction leaves a data file alone (metering.lake_upkeep).
SETTLED_BYTES = 64 * 1024 * 1024
GROWTH = 2
# Rollups are added up in memory, at some 200 bytes a row.
ROWS_MERGED_MAX = 2_000_000
# Reading the events of more tenants than this one by one costs more than making the rollups again.
STALE_TENANTS_MAX = 1000
SHARED_BOUNDARIES_MAX = 16
# So few different cells are named in the manifest, and looked at before any state is.
CELLS_NAMED_MAX = 64
ROWS_PER_GROUP = 20_480
FORMAT = 2
STATES = ("event_count", "quantity_sum", "quantity_max", "quantity_min")
MANIFEST = "rollups.json"
# One file of states is written while another one is.
WRITERS = 2
SETTLED, LATE = "settled", "late"


_FILE_NAME = re.compile(r"event_date=(\d{4}-\d{2}-\d{2})/(part-[0-9a-f]{32}-[0-9a-f]{64}\.parquet)$")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Rollup:
    """The data files that a rollup covers, by name, and its own files: states, and the events that were left out of them.

    `cells` are all its cells as (start, end) in microseconds since 1970, or None where they are many.
    """

    covers: frozenset[str]
    rows: int
    cells: frozenset[tuple[int, int]] | None
    states: str
    left_out: str

    @property
    def own_files(self) -> tuple[str, str]:
        return self.states, self.left_out


@dataclass(slots=True)
class Rollups:
    """The rollups of one lake, for one question at a time. Safe to use from several processes at once."""

    folder: Path
    paths: dict[str, Path]
    days: dict[str, date]
    _kept: list[Rollup] = field(default_factory=list)
    _facts: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, files: Sequence[str], *, scan_bytes_max: int | None = None) -> Rollups | None:
        """Return the rollups of the lake with these data files, or None where reading them serves as well.

        None: the files are few, or not all of one lake. A folder that cannot be written is no rollups either.
        """
        found = {match[2]: (Path(file), match[1]) for file in files if (match := _FILE_NAME.search(file))}
        roots = {path.parents[2] for path, _ in found.values()}
        if len(roots) != 1 or len(found) != len(files):
            return None
        limit = SCAN_BYTES_MAX if scan_bytes_max is None else scan_bytes_max
        if sum(path.stat().st_size for path, _ in found.values()) < limit:
            return None
        folder = roots.pop() / "derived" / "usage"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        return cls(
            folder,
            {name: path for name, (path, _) in found.items()},
            {name: date.fromisoformat(day) for name, (_, day) in found.items()},
        )

    def load_states(self, engine: duckdb.DuckDBPyConnection) -> None:
        """Fill `added_state` from rollups and from the events that they do not cover. The questions are in the engine.

        Makes the rollups that are missing, and keeps them. The engine must be allowed to write below `folder`.
        """
        _run(engine, "rollup_excluded")
        _run(engine, "rollup_ordered")
        self._facts = file_facts([str(path) for path in self.paths.values()], scan_bytes_max=0).to_pylist()
        before = _load(self._derived)
        self._kept = [rollup for rollup in before if rollup.covers <= self.paths.keys()]
        bound = self._bound(engine)
        used = [rollup for rollup in self._kept if rollup.covers.isdisjoint(bound)]
        used += self._complete(engine, bound)
        self._open(engine, used)
        if _count(engine, "rollup_stale") > STALE_TENANTS_MAX:
            self._kept = [rollup for rollup in self._kept if rollup not in used]
            used = self._complete(engine, bound)
            self._open(engine, used)
        covered = frozenset[str]().union(*(rollup.covers for rollup in used))
        self._open_rest(engine, [path for name, path in self.paths.items() if name not in covered])
        _run(engine, "added_state")
        _run(engine, "rollup_state")
        _run(engine, "rollup_kind")
        _run(engine, "state_event")
        self._merge(engine, used)
        if used:
            # What was added up is in files now; its memory is the next statement's.
            _run(engine, "rollup_new")
        if self._kept != before:
            with suppress(OSError):
                self._save()

    def whole(self) -> list[Rollup]:
        """Return the rollups that are kept, whole, and of data files of this lake. Makes none."""
        return [rollup for rollup in _load(self._derived) if rollup.covers <= self.paths.keys()]

    @property
    def _derived(self) -> Derived:
        return Derived(self.folder, MANIFEST, FORMAT)

    def _bound(self, engine: duckdb.DuckDBPyConnection) -> set[str]:
        """Return the data files that hold segments which the snapshot does not take."""
        cut = dict(engine.execute("SELECT producer_id, last_segment FROM cut").fetchall())
        return {one["file_name"] for one in self._facts if one["last_segment"] > cut.get(one["producer_id"], -1)}

    def _complete(self, engine: duckdb.DuckDBPyConnection, bound: set[str]) -> list[Rollup]:
        """Make rollups of the data files that none covers, as far as the snapshot takes all of them; return the new ones."""
        known = frozenset[str]().union(*(rollup.covers for rollup in self._kept))
        new = sorted(self.paths.keys() - known - bound)
        if not new:
            return []
        from metering.file_states import file_states

        left_out = self._left_out(engine, new)
        fates = self._fates()
        # A month at a time: memory does not grow with the history.
        together: dict[tuple[str, date], list[str]] = {}
        for name in new:
            together.setdefault((fates[name], self.days[name].replace(day=1)), []).append(name)
        # The largest first: the others are read while its states are written.
        names_of_sets = sorted((together[key] for key in sorted(together)), key=len, reverse=True)
        sets = [self._file_set(engine, names, left_out) for names in names_of_sets]
        with ThreadPoolExecutor(WRITERS) as writers, closing(file_states(sets)) as told:
            made = [self._make(engine, writers, *one, told, left_out) for one in zip(names_of_sets, sets, strict=True)]
            new_ones = [one.result() for one in made]
        self._kept += new_ones
        return new_ones

    def _file_set(self, engine: duckdb.DuckDBPyConnection, names: Sequence[str], left_out: pa.Table) -> FileSet:
        """Return what is asked of some data files: the cells that spans share, and the events that do not count."""
        import pyarrow.compute as pc

        from metering.file_states import FileSet

        out = {self.paths[name]: left_out.filter(pc.equal(left_out["file_name"], name)) for name in names}
        return FileSet(
            [self.paths[name] for name in names],
            self._boundaries(engine, *self._days_of(names)),
            {path: table for path, table in out.items() if table.num_rows},
        )

    def _days_of(self, names: Sequence[str]) -> tuple[datetime, datetime]:
        """Return when the first day of some data files begins, and the last one ends."""
        days = [datetime.combine(self.days[name], datetime.min.time(), UTC) for name in names]
        return min(days), max(days) + _DAY

    def _left_out(self, engine: duckdb.DuckDBPyConnection, names: Sequence[str]) -> pa.Table:
        """Return the events of data files that do not count, with their file; only files that may hold such are read."""
        excluded = engine.execute("SELECT producer_id, segment FROM rollup_excluded").fetchall()
        segments: dict[str, list[int]] = {}
        for producer_id, segment in excluded:
            segments.setdefault(producer_id, []).append(segment)
        wanted = set(names)
        met = {
            one["file_name"]
            for one in self._facts
            if one["file_name"] in wanted
            and any(one["first_segment"] <= at <= one["last_segment"] for at in segments.get(one["producer_id"], ()))
        }
        _view(engine, "rollup_file", [self.paths[name] for name in sorted(met) or names[:1]], filename=True)
        return fetch(engine, read_sql("metering", "rollup_left_out_new"))

    def _fates(self) -> dict[str, str]:
        """Return what compaction will do to each data file: leave it alone, or rewrite it some time, and with which others.

        Only rollups of files with one fate are added up: what compaction replaces then takes little with it.
        """
        newest = max(self.days.values())
        sizes = {name: path.stat().st_size for name, path in self.paths.items()}
        of_day: dict[date, int] = {}
        for name, day in self.days.items():
            of_day[day] = of_day.get(day, 0) + sizes[name]
        fates = {}
        for name, day in self.days.items():
            is_over = day < newest - _DAY
            if sizes[name] >= SETTLED_BYTES or (is_over and sizes[name] * GROWTH >= of_day[day]):
                fates[name] = SETTLED
            else:
                fates[name] = LATE if is_over else day.isoformat()
        return fates

    def _make(
        self,
        engine: duckdb.DuckDBPyConnection,
        writers: Executor,
        names: Sequence[str],
        file_set: FileSet,
        told: Iterator[pa.Table | Sums],
        left_out: pa.Table,
    ) -> Future[Rollup]:
        """Work out the states of some data files, and have them kept as a rollup. `told`: see `file_states`, of all sets."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from metering.questions import register

        register(
            engine, "rollup_shared", pa.table({"boundary": pa.array(file_set.boundaries, pa.timestamp("us", tz="UTC"))})
        )
        states = self._add_up_files(engine, names, file_set.boundaries, told)
        first, last = self._days_of(names)
        _run(engine, "rollup_own_cell", {"first": first, "last": last})
        if _count(engine, "rollup_own_cell"):
            if states is not None:
                _insert_sums(engine, states)
                states = None
            self._make_own(engine, names)
        out = left_out.filter(pc.is_in(left_out["file_name"], pa.array(names, pa.string()))).drop_columns("file_name")
        out = out.sort_by([(name, "ascending") for name in ("producer_id", "segment", "row")])
        return writers.submit(self._rollup, names, self._copy(engine) if states is None else states, out)

    def _rollup(self, names: Sequence[str], states: _Kept | Sums, left_out: pa.Table) -> Rollup:
        """Return a rollup of states that are in a file, or write that first. Needs no engine."""
        kept = states if isinstance(states, tuple) else self._write_sums(states)
        return Rollup(frozenset(names), *kept, self._write(left_out)[1])

    def _add_up_files(
        self,
        engine: duckdb.DuckDBPyConnection,
        names: Sequence[str],
        shared: Sequence[datetime],
        told: Iterator[pa.Table | Sums],
    ) -> Sums | None:
        """Return the states of data files over the shared cells; None where they are in `rollup_new` instead.

        By the column where names repeat and quantities fit, which is several times quicker; else by the statement.
        """
        from metering.file_states import Sums

        _run(engine, "rollup_new")
        has_wide = False
        sums = next(told)
        while not isinstance(sums, Sums):
            has_wide = True
            _insert(engine, sums)
            sums = next(told)
        if sums.is_too_sparse:
            _run(engine, "rollup_new")
            self._add_by_statement(engine, names, shared)
        elif has_wide:
            _insert_sums(engine, sums)
        else:
            return sums
        return None

    def _add_by_statement(
        self, engine: duckdb.DuckDBPyConnection, names: Sequence[str], shared: Sequence[datetime]
    ) -> None:
        for start, end in pairwise(shared):
            inside = [
                self.paths[name]
                for name in names
                if start < (begins := datetime.combine(self.days[name], datetime.min.time(), UTC)) + _DAY
                and end > begins
            ]
            if inside:
                _view(engine, "rollup_file", inside)
                _run(engine, "rollup_event")
                _run(engine, "rollup_cell", {"cell_start": start, "cell_end": end})

    def _make_own(self, engine: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
        engine.execute("DELETE FROM rollup_new USING (SELECT DISTINCT tenant_id FROM rollup_own_cell) AS own"
                       " WHERE own.tenant_id = rollup_new.tenant_id")  # fmt: skip
        _view(engine, "rollup_file", [self.paths[name] for name in names])
        _run(engine, "rollup_event")
        _run(engine, "rollup_own")

    def _boundaries(self, engine: duckdb.DuckDBPyConnection, first: datetime, last: datetime) -> list[datetime]:
        """Return the boundaries of the shared cells: months of UTC, and where many spans begin or end."""
        spans = _count(engine, "span")
        asked = fetch(engine, read_sql("metering", "rollup_boundary")).to_pylist()
        common = [row["boundary"] for row in asked if row["spans"] * SHARED_BOUNDARIES_MAX >= spans]
        start = first.replace(day=1)
        months = [add_months(start, 0)]
        while months[-1] < last:
            months.append(add_months(start, len(months)))
        chosen = {one.astimezone(UTC) for one in common if months[0] < one < months[-1]}
        return sorted({*months, *chosen})

    def _copy(self, engine: duckdb.DuckDBPyConnection) -> _Kept:
        """Write the states in `rollup_new`; return how many rows, their cells, and the name."""
        cells = engine.execute(
            "SELECT DISTINCT epoch_us(cell_start), epoch_us(cell_end)"
            f" FROM (SELECT DISTINCT cell_start, cell_end FROM rollup_new) LIMIT {CELLS_NAMED_MAX + 1}"
        ).fetchall()
        temporary = self._derived.temporary()
        engine.execute(
            "COPY (SELECT * FROM rollup_new ORDER BY tenant_id, meter, attributes, cell_start)"
            f" TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE {ROWS_PER_GROUP})"
        )
        return _count(engine, "rollup_new"), _if_few(frozenset(cells)), self._derived.adopt(temporary, ".parquet")

    def _write_sums(self, sums: Sums) -> _Kept:
        tables = sums.tables(ROWS_PER_GROUP)
        rows, name = self._write(next(tables), tables)
        return rows, _if_few(sums.cells_met()), name

    def _write(self, table: pa.Table, more: Iterable[pa.Table] = ()) -> tuple[int, str]:
        """Write tables as the row groups of one file; return how many rows, and the name."""
        import pyarrow.parquet as pq

        temporary = self._derived.temporary()
        # Counts and sums are hardly ever the same twice: a dictionary of them is built in vain.
        names = [name for name in table.column_names if name not in STATES]
        rows = 0
        with pq.ParquetWriter(
            temporary,
            table.schema,
            compression="lz4",
            store_schema=False,
            use_dictionary=names,
            write_statistics=["tenant_id", "meter"],
        ) as writer:
            for group in chain([table], more):
                writer.write_table(group, row_group_size=ROWS_PER_GROUP)
                rows += group.num_rows
        return rows, self._derived.adopt(temporary, ".parquet")

    def _open(self, engine: duckdb.DuckDBPyConnection, used: Sequence[Rollup]) -> None:
        """Make the views over the rollups that are used, and the list of stale tenants."""
        import pyarrow as pa

        from metering.file_facts import file_fact_schema
        from metering.questions import register

        _run(engine, "rollup_new")
        _run(engine, "rollup_left_out_none")
        if used:
            # A month asks for the states of a month, however long the history is; of no rollup, it reads the smallest.
            met = _that_meet(used, _span_range(engine)) or [min(used, key=lambda rollup: rollup.rows)]
            _view(engine, "rollup_row", [self.folder / rollup.states for rollup in met])
            engine.read_parquet([str(self.folder / rollup.left_out) for rollup in used]).create_view(
                "rollup_out", replace=True
            )
            engine.execute("INSERT INTO rollup_left_out BY NAME SELECT * FROM rollup_out")
        else:
            engine.execute("CREATE OR REPLACE VIEW rollup_row AS SELECT * FROM rollup_new")
        covered = frozenset[str]().union(*(rollup.covers for rollup in used))
        facts = [one for one in self._facts if one["file_name"] in covered]
        register(engine, "rollup_covered", pa.Table.from_pylist(facts, schema=file_fact_schema()))
        cells = sorted(frozenset[tuple[int, int]]().union(*(rollup.cells or () for rollup in used)))
        instant = pa.timestamp("us", tz="UTC")
        edges = {
            name: pa.array([cell[at] for cell in cells], instant) for at, name in enumerate(("cell_start", "cell_end"))
        }
        register(engine, "rollup_shared_cell", pa.table(edges))
        has_own_cells = len(cells) > CELLS_NAMED_MAX or any(rollup.cells is None for rollup in used)
        _run(engine, "rollup_stale", {"has_own_cells": has_own_cells})

    def _open_rest(self, engine: duckdb.DuckDBPyConnection, unrolled: Sequence[Path]) -> None:
        if unrolled:
            _view(engine, "unrolled_file", unrolled)
        else:
            engine.execute("CREATE OR REPLACE VIEW unrolled_file AS SELECT * FROM stored_event LIMIT 0")
        _run(engine, "rollup_unrolled")
        _run(engine, "state_event_rest")

    def _merge(self, engine: duckdb.DuckDBPyConnection, used: Sequence[Rollup]) -> None:
        """Add up neighbours of like size and fate, so that there are few."""
        fates = self._fates()
        by_fate: dict[str, list[Rollup]] = {}
        for one in used:
            found = {fates[name] for name in one.covers}
            by_fate.setdefault(found.pop() if len(found) == 1 else LATE, []).append(one)
        for members in by_fate.values():
            like = sorted(members, key=lambda one: -one.rows)
            while len(like) > 1 and _are_alike(*like[-2:]):
                pair = like[-2:]
                merged = self._add_up(engine, pair)
                self._kept = [one for one in self._kept if one not in pair] + [merged]
                like[-2:] = [merged]

    def _add_up(self, engine: duckdb.DuckDBPyConnection, pair: Sequence[Rollup]) -> Rollup:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _view(engine, "rollup_part", [self.folder / rollup.states for rollup in pair])
        _run(engine, "rollup_new")
        _run(engine, "rollup_merged")
        # What was left out of either; what does not count any more since then makes its tenants stale, as before.
        out = pa.concat_tables([pq.ParquetFile(self.folder / rollup.left_out).read() for rollup in pair])
        return Rollup(pair[0].covers | pair[1].covers, *self._copy(engine), self._write(out)[1])

    def _save(self) -> None:
        entries = [
            {
                "covers": sorted(one.covers), "rows": one.rows, "states": one.states, "left_out": one.left_out,
                "cells": None if one.cells is None else sorted(one.cells),
            }
            for one in self._kept
        ]  # fmt: skip
        self._derived.save({"rollups": entries}, {name for one in self._kept for name in one.own_files})


def _span_range(engine: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Return when the first span begins and the last one ends, in microseconds since 1970."""
    found = engine.execute("SELECT epoch_us(min(service_start)), epoch_us(max(service_end)) FROM span").fetchall()
    start, end = found[0]
    return (0, 0) if start is None else (start, end)


def _that_meet(rollups: Iterable[Rollup], span: tuple[int, int]) -> list[Rollup]:
    """Return the rollups with a cell that shares an instant with [start, end), and those whose cells are not named."""
    start, end = span
    return [one for one in rollups if one.cells is None or any(a < end and b > start for a, b in one.cells)]


def _are_alike(large: Rollup, small: Rollup) -> bool:
    """Return whether two rollups are worth adding up, and few enough rows to be."""
    return small.rows * GROWTH >= large.rows and small.rows + large.rows <= ROWS_MERGED_MAX


def _load(derived: Derived) -> list[Rollup]:
    """Return the rollups that the manifest names and whose files are what their names say; the others are gone."""
    manifest = derived.load()
    if manifest is None:
        return []
    try:
        named = [
            Rollup(
                frozenset(entry["covers"]),
                entry["rows"],
                None if entry["cells"] is None else frozenset((start, end) for start, end in entry["cells"]),
                entry["states"],
                entry["left_out"],
            )
            for entry in manifest["rollups"]
        ]
    except (ValueError, KeyError, TypeError):
        return []
    return [rollup for rollup in named if all(derived.is_whole(name) for name in rollup.own_files)]


def _insert(engine: duckdb.DuckDBPyConnection, states: pa.Table | None) -> None:
    """Add ROLLUP rows from memory to `rollup_new`, those of one group as one row."""
    from metering.questions import register

    register(engine, "rollup_part_row", states)
    engine.execute("CREATE OR REPLACE VIEW rollup_part AS SELECT * FROM rollup_part_row")
    _run(engine, "rollup_merged")


def _insert_sums(engine: duckdb.DuckDBPyConnection, sums: Sums) -> None:
    import pyarrow as pa

    _insert(engine, pa.concat_tables(sums.tables(ROWS_PER_GROUP)))


def _if_few(cells: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]] | None:
    return cells if len(cells) <= CELLS_NAMED_MAX else None


def _run(engine: duckdb.DuckDBPyConnection, step: str, parameters: dict[str, object] | None = None) -> None:
    engine.execute(read_sql("metering", step), parameters)


def _view(engine: duckdb.DuckDBPyConnection, name: str, paths: Iterable[Path], **options: Any) -> None:
    engine.read_parquet([str(path) for path in paths], hive_partitioning=False, **options).create_view(
        name, replace=True
    )


def _count(engine: duckdb.DuckDBPyConnection, source: str) -> int:
    found = engine.execute(f"SELECT count(*) FROM {source}").fetchall()
    return int(found[0][0])


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
