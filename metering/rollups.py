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

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from metering.durable import TEMPORARY_PREFIX
from metering.engine import fetch, read_sql
from metering.periods import add_months

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import duckdb

# Below this, reading the events is as quick as looking anything up.
SCAN_BYTES_MAX = 32 * 1024 * 1024
# From this size on compaction leaves a data file alone (metering.lake_upkeep).
SETTLED_BYTES = 64 * 1024 * 1024
GROWTH = 2
# Reading the events of more tenants than this one by one costs more than making the rollups again.
STALE_TENANTS_MAX = 1000
SHARED_BOUNDARIES_MAX = 16
GARBAGE_AGE_S = 3600
FORMAT = 1
MANIFEST = "rollups.json"
SETTLED, LATE = "settled", "late"


_FILE_NAME = re.compile(r"event_date=(\d{4}-\d{2}-\d{2})/(part-[0-9a-f]{32}-[0-9a-f]{64}\.parquet)$")
_DAY = timedelta(days=1)

# Which files of rollups this process has hashed already, by path: (size, mtime in ns).
_verified: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True, slots=True)
class Rollup:
    """The data files that a rollup covers, by name, and its own files: states, what was left out, segments covered."""

    covers: frozenset[str]
    rows: int
    states: str
    left_out: str
    segments: str

    @property
    def own_files(self) -> tuple[str, str, str]:
        return self.states, self.left_out, self.segments


@dataclass(slots=True)
class Rollups:
    """The rollups of one lake, for one question at a time. Safe to use from several processes at once."""

    folder: Path
    paths: dict[str, Path]
    days: dict[str, date]
    _kept: list[Rollup] = field(default_factory=list)

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
        """Make `usage_state` from rollups and from the events that they do not cover. The questions are in the engine.

        Makes the rollups that are missing, and keeps them. The engine must be allowed to write below `folder`.
        """
        _run(engine, "rollup_excluded")
        _run(engine, "rollup_ordered")
        before = _load(self.folder)
        self._kept = [rollup for rollup in before if rollup.covers <= self.paths.keys()]
        used = self._usable(engine, self._kept)
        used += self._complete(engine)
        self._open(engine, used)
        if _count(engine, "rollup_stale") > STALE_TENANTS_MAX:
            self._kept = [rollup for rollup in self._kept if rollup not in used]
            used = self._complete(engine)
            self._open(engine, used)
        covered = frozenset[str]().union(*(rollup.covers for rollup in used))
        self._open_rest(engine, [path for name, path in self.paths.items() if name not in covered])
        _run(engine, "usage_state")
        if used:
            _run(engine, "rollup_state")
        _run(engine, "state_event")
        self._merge(engine, used)
        if self._kept != before:
            with suppress(OSError):
                self._save()

    def _usable(self, engine: duckdb.DuckDBPyConnection, rollups: Sequence[Rollup]) -> list[Rollup]:
        """Return the rollups of which the snapshot takes every segment; open what they cover."""
        return [rollup for rollup in rollups if not self._is_bound(engine, self.folder / rollup.segments)]

    def _is_bound(self, engine: duckdb.DuckDBPyConnection, segments: Path) -> bool:
        engine.read_parquet(str(segments)).create_view("rollup_segments_of", replace=True)
        return _count(engine, "rollup_segments_of LEFT JOIN cut USING (producer_id)"
                              " WHERE rollup_segments_of.last_segment > coalesce(cut.last_segment, -1)") > 0  # fmt: skip

    def _complete(self, engine: duckdb.DuckDBPyConnection) -> list[Rollup]:
        """Make rollups of the data files that none covers, as far as the snapshot takes all of them; return the new ones."""
        known = frozenset[str]().union(*(rollup.covers for rollup in self._kept))
        new = sorted(self.paths.keys() - known)
        if not new:
            return []
        _view(engine, "rollup_file", [self.paths[name] for name in new], filename=True)
        engine.execute(f"CREATE OR REPLACE TABLE rollup_segment AS {read_sql('metering', 'rollup_segment')}")
        bound = {
            name
            for (name,) in engine.execute(
                "SELECT DISTINCT file_name FROM rollup_segment LEFT JOIN cut USING (producer_id)"
                " WHERE rollup_segment.last_segment > coalesce(cut.last_segment, -1)"
            ).fetchall()
        }
        whole = [name for name in new if name not in bound]
        fates = self._fates()
        made = [
            self._make(engine, [name for name in whole if fates[name] == fate])
            for fate in sorted({fates[name] for name in whole})
        ]
        self._kept += made
        return made

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

    def _make(self, engine: duckdb.DuckDBPyConnection, names: Sequence[str]) -> Rollup:
        """Work out the states of some data files, keep them, and return the rollup."""
        _run(engine, "rollup_new")
        first = datetime.combine(min(self.days[name] for name in names), datetime.min.time(), UTC)
        last = datetime.combine(max(self.days[name] for name in names), datetime.min.time(), UTC) + _DAY
        shared = self._boundaries(engine, first, last)
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
        self._make_own(engine, names, first, last)
        engine.execute(
            "CREATE OR REPLACE TABLE rollup_covered_new AS"
            " SELECT producer_id, min(first_segment) AS first_segment, max(last_segment) AS last_segment"
            " FROM rollup_segment WHERE list_contains($names, file_name) GROUP BY ALL",
            {"names": list(names)},
        )
        left_out = (
            "SELECT excluded.* FROM rollup_excluded AS excluded JOIN rollup_covered_new AS covered"
            " ON covered.producer_id = excluded.producer_id"
            " AND excluded.segment BETWEEN covered.first_segment AND covered.last_segment ORDER BY ALL"
        )
        return self._keep(engine, frozenset(names), left_out)

    def _make_own(
        self, engine: duckdb.DuckDBPyConnection, names: Sequence[str], first: datetime, last: datetime
    ) -> None:
        _run(engine, "rollup_own_cell", {"first": first, "last": last})
        if not _count(engine, "rollup_own_cell"):
            return
        engine.execute("DELETE FROM rollup_new USING (SELECT DISTINCT tenant_id FROM rollup_own_cell) AS own"
                       " WHERE own.tenant_id = rollup_new.tenant_id")  # fmt: skip
        _view(engine, "rollup_file", [self.paths[name] for name in names])
        _run(engine, "rollup_event")
        _run(engine, "rollup_own")

    def _boundaries(self, engine: duckdb.DuckDBPyConnection, first: datetime, last: datetime) -> list[datetime]:
        """Return the boundaries of the shared cells, and register them: months of UTC, and where many spans begin or end."""
        spans = _count(engine, "span")
        asked = fetch(engine, read_sql("metering", "rollup_boundary")).to_pylist()
        common = [row["boundary"] for row in asked if row["spans"] * SHARED_BOUNDARIES_MAX >= spans]
        start = first.replace(day=1)
        months = [add_months(start, 0)]
        while months[-1] < last:
            months.append(add_months(start, len(months)))
        chosen = {one.astimezone(UTC) for one in common if months[0] < one < months[-1]}
        shared = sorted({*months, *chosen})
        import pyarrow as pa

        from metering.questions import register

        register(engine, "rollup_shared", pa.table({"boundary": pa.array(shared, pa.timestamp("us", tz="UTC"))}))
        return shared

    def _keep(self, engine: duckdb.DuckDBPyConnection, covers: frozenset[str], left_out: str) -> Rollup:
        """Write `rollup_new` and what goes with it; return the rollup."""
        return Rollup(
            covers,
            _count(engine, "rollup_new"),
            self._write(engine, "SELECT * FROM rollup_new ORDER BY tenant_id, meter, attributes, cell_start"),
            self._write(engine, left_out),
            self._write(engine, "SELECT * FROM rollup_covered_new ORDER BY ALL"),
        )

    def _write(self, engine: duckdb.DuckDBPyConnection, query: str) -> str:
        temporary = self.folder / f"{TEMPORARY_PREFIX}{uuid4().hex}"
        engine.execute(
            f"COPY ({query}) TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480)"
        )
        with temporary.open("rb") as content:
            name = hashlib.file_digest(content, "sha256").hexdigest() + ".parquet"
        temporary.replace(self.folder / name)
        return name

    def _open(self, engine: duckdb.DuckDBPyConnection, used: Sequence[Rollup]) -> None:
        """Make the views over the rollups that are used, and the list of stale tenants."""
        _run(engine, "rollup_new")
        if used:
            _view(engine, "rollup_row", [self.folder / rollup.states for rollup in used])
        else:
            engine.execute("CREATE OR REPLACE VIEW rollup_row AS SELECT * FROM rollup_new")
        for table, name, columns in (
            ("rollup_covered", "segments", "producer_id VARCHAR, first_segment BIGINT, last_segment BIGINT"),
            ("rollup_left_out", "left_out", "producer_id VARCHAR, segment BIGINT, row INTEGER, tenant_id VARCHAR"),
        ):
            engine.execute(f"CREATE OR REPLACE TABLE {table} (rollup BIGINT, {columns})")
            for number, rollup in enumerate(used):
                engine.read_parquet(str(self.folder / getattr(rollup, name))).create_view("rollup_part", replace=True)
                engine.execute(f"INSERT INTO {table} SELECT $number, * FROM rollup_part", {"number": number})
        _run(engine, "rollup_stale")

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
            while len(like) > 1 and like[-1].rows * GROWTH >= like[-2].rows:
                pair = like[-2:]
                merged = self._add_up(engine, pair)
                self._kept = [one for one in self._kept if one not in pair] + [merged]
                like[-2:] = [merged]

    def _add_up(self, engine: duckdb.DuckDBPyConnection, pair: Sequence[Rollup]) -> Rollup:
        _view(engine, "rollup_row", [self.folder / rollup.states for rollup in pair])
        _run(engine, "rollup_new")
        _run(engine, "rollup_merged")
        engine.read_parquet([str(self.folder / rollup.segments) for rollup in pair]).create_view(
            "rollup_part", replace=True
        )
        engine.execute(
            "CREATE OR REPLACE TABLE rollup_covered_new AS"
            " SELECT producer_id, min(first_segment) AS first_segment, max(last_segment) AS last_segment"
            " FROM rollup_part GROUP BY ALL"
        )
        # What was left out of either; what does not count any more since then makes its tenants stale, as before.
        _view(engine, "rollup_out", [self.folder / rollup.left_out for rollup in pair])
        return self._keep(
            engine,
            pair[0].covers | pair[1].covers,
            "SELECT DISTINCT * FROM rollup_out ORDER BY ALL",
        )

    def _save(self) -> None:
        """Write the manifest. Nothing is fsynced: what a power cut tears is found by its hash."""
        entries = [
            {**{name: getattr(one, name) for name in Rollup.__slots__}, "covers": sorted(one.covers)}
            for one in self._kept
        ]
        temporary = self.folder / f"{TEMPORARY_PREFIX}{uuid4().hex}"
        temporary.write_text(json.dumps({"format": FORMAT, "rollups": entries}), encoding="utf-8")
        temporary.replace(self.folder / MANIFEST)
        _delete_garbage(self.folder, {MANIFEST, *(name for one in self._kept for name in one.own_files)})


def _load(folder: Path) -> list[Rollup]:
    """Return the rollups that the manifest names and whose files are what their names say; the others are gone."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            return []
        named = [Rollup(**{**entry, "covers": frozenset(entry["covers"])}) for entry in manifest["rollups"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [rollup for rollup in named if all(_is_whole(folder / name) for name in rollup.own_files)]


def _is_whole(path: Path) -> bool:
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


def _delete_garbage(folder: Path, kept: set[str]) -> None:
    # Another process may be about to open what its manifest named a moment ago.
    oldest = time.time() - GARBAGE_AGE_S
    for entry in os.scandir(folder):
        if entry.name not in kept and entry.stat().st_mtime < oldest:
            Path(entry.path).unlink(missing_ok=True)


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
