"""The recorder: where an application says what was used. The hot path of metering.

Enters: a meter, a tenant, a quantity, a time, attributes. Leaves: a row in this process's journal, which survives the
death of the process as soon as the call returns. Refuses: unknown meters and values that break a rule (BadEvent), and
rows for which there is no room (JournalFull): by default in the caller, else dropped and counted.

Nothing waits in memory, so nothing depends on an exit hook: the hooks only seal earlier. No lock is taken and no system
call made per row; threads, signal handlers and asyncio tasks may record at once. A child of a fork is a new producer: the
hook of `os.fork` sees to that, and for forks made in C a byte of memory that the kernel wipes in the child is read per row.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import struct
import sys
import threading
import time
import weakref
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metering.clock import SystemClock
from metering.errors import JournalFull, UnknownMeter
from metering.events import check_event_time, check_key, check_name, check_quantity, encode_attributes
from metering.journal import Row, pack_event
from metering.journal_format import NANO, SEGMENT_BYTES_MIN, WHOLE, WHOLE_MAX, WIDE_DETAILED
from metering.keeper import Keeper, ShipperChild
from metering.layout import Layout
from metering.meters import MeterRule, load_rules
from metering.producer import Producer

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from metering.clock import Clock
    from metering.events import AttributeValue
    from metering.journal import Segment
    from metering.ship import Shipped

    Quantity = int | Decimal | str

# Checked series are kept at most this many at a time, so that attributes of high cardinality cost time, never memory.
CHECKED_MAX = 10_000
# How many full segments may wait for the keeper before a caller seals them itself.
BACKLOG_MAX = 4
# After the disk said no, callers that drop do not ask it again for this long.
REFUSAL_S = 0.1
MADV_WIPEONFORK = 18
_NANO = 10**9
_EXACT = Context(prec=60)


class _NoSegment:
    """Stands where no segment is open yet: whatever is recorded goes the slow way, which opens one."""

    is_open = False
    pages = bytearray()
    claimed_to = 0

    def __init__(self) -> None:
        self.series: dict[tuple[object, ...], int] = {}
        self.defined: dict[bytes, int] = {}

    def claim(self) -> int:
        return 0

    def append(self, row: Row) -> bool:
        del row
        return False

    def holds(self, offset: int) -> bool:
        del offset
        return False


_NO_SEGMENT: Any = _NoSegment()


class _ProcessId:
    """Like the wiped page, where the kernel has none: reads 0 in a child of a fork, at the price of a getpid per row."""

    def __init__(self) -> None:
        self._home = os.getpid()

    def __getitem__(self, _index: int) -> int:
        return os.getpid() == self._home

    def __setitem__(self, _index: int, _one: int) -> None:
        self._home = os.getpid()


def _page_wiped_on_fork() -> mmap.mmap | _ProcessId:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except (AttributeError, OSError):
        return _ProcessId()
    page[0] = 1
    return page


# Its first byte is 1 here and 0 in a child that came of a fork without Python's hooks.
_here: Any = _page_wiped_on_fork()
_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


class _Series(NamedTuple):
    """A meter, tenant and set of attributes that passed every check.

    `text` is their canonical form in the journal; `seen_as` what they may be looked up by, if equality is enough.
    """

    text: bytes
    negative_allowed: bool
    seen_as: tuple[object, ...] | None


class Recorder:
    """Record usage events into the journal below `root`. One per process and workspace is enough; safe for all threads.

    `on_error` says what happens when there is no room: "raise" JournalFull, or "drop_and_count" (see `dropped`). Bad
    values always raise. `flush_interval_s` bounds what a power cut can take; the death of the process takes nothing.
    `ship` is "child" (a process of its own brings sealed segments to the lake; it is started once and outlives this one
    until all is shipped) or "none" (something else does: `tallybook ship`, or `ship_now()`).

    >>> usage = Recorder("tallybook-data")                                      # doctest: +SKIP
    >>> usage.record("tokens", tenant="acme", quantity=512, model="gpt-4o")     # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        *,
        on_error: Literal["raise", "drop_and_count"] = "raise",
        segment_bytes: int = 1 << 20,
        journal_bytes_max: int = 8 << 30,
        flush_interval_s: float = 0.1,
        seal_interval_s: float = 1.0,
        ship: Literal["child", "none"] = "child",
        clock: Clock | None = None,
    ) -> None:
        if segment_bytes < SEGMENT_BYTES_MIN:
            raise ValueError(f"segment_bytes must be at least {SEGMENT_BYTES_MIN}, not {segment_bytes}")
        if on_error not in {"raise", "drop_and_count"} or ship not in {"child", "none"}:
            raise ValueError(f"on_error {on_error!r} or ship {ship!r} is not one of the named choices")
        self.layout = Layout.of(root)
        self.dropped = 0
        self._settings: dict[str, Any] = {
            "on_error": on_error,
            "segment_bytes": segment_bytes,
            "journal_bytes_max": journal_bytes_max,
            "flush_interval_s": flush_interval_s,
            "seal_interval_s": seal_interval_s,
            "ship": ship,
            "clock": clock,
        }
        self._clock: Clock = clock or SystemClock()
        # The system's own clock is read directly: half of what a row costs is what it calls.
        self._now_ns: Callable[[], int] = time.time_ns if clock is None else lambda: self._clock.now_us() * 1000
        self._is_closed = False
        self._checked: dict[tuple[object, ...], _Series] = {}
        self._rules: dict[str, MeterRule] | None = None
        self._rules_mtime_ns: int | None = None
        self._start()
        _recorders.add(self)

    def _start(self) -> None:
        """Be a process that has recorded nothing: at the beginning, and again in the child of a fork."""
        self._segment: Segment = _NO_SEGMENT
        self._producer: Producer | None = None
        self._roll_lock = threading.RLock()
        self._keeper: Keeper | None = None
        self._shipper = ShipperChild(self.layout) if self._settings["ship"] == "child" else None
        self._refusal: JournalFull | None = None
        self._refused_until_s = float("-inf")

    def record(
        self,
        meter: str,
        /,
        *,
        tenant: str,
        quantity: Quantity = 1,
        event_time: datetime | None = None,
        key: str | None = None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record one usage event; it survives the death of the process when this returns.

        `quantity` is exact: int, Decimal or text, never float. `event_time` defaults to now; aware, any zone. `key` is
        the caller's identity for the event: of all events of this tenant and meter with the same key, one counts.
        Raises BadEvent and UnknownMeter (no retry helps), JournalFull (a retry may).
        """
        segment = self._segment
        try:
            series = segment.series[meter, tenant, *attributes.items()]
            if event_time is None and key is None and type(quantity) is int and 0 <= quantity <= WHOLE_MAX and _here[0]:
                offset = segment.claim()
                now = self._now_ns()
                pack_event(segment.pages, offset, quantity, now, quantity ^ now ^ series, series, WHOLE)
                if segment.is_open or segment.holds(offset):
                    return
        # Not seen before in this segment (KeyError), or the segment is full (struct.error) or gone (TypeError).
        except (KeyError, TypeError, ValueError, struct.error):
            pass
        self._write(self._check_series(meter, tenant, attributes), quantity, event_time, key)

    def bind(self, meter: str, /, *, tenant: str, **attributes: AttributeValue | None) -> Bound:
        """Return the fast path for one meter, tenant and set of attributes, checked now. Raises BadEvent, UnknownMeter."""
        bound = Bound(self, meter, tenant, attributes)
        checked = self._checked
        bound.checked = checked, self._check_series(meter, tenant, attributes)
        return bound

    def record_batch(self, table: Any) -> int:
        """Record every row of a table or none; return how many. The rows are on the disk when this returns.

        `table` is anything with `__arrow_c_stream__` (Arrow, polars, pandas, DuckDB). Columns: tenant_id, meter, quantity
        (integers, decimals or text, never floats), event_time (with a zone), optional idempotency_key, and either
        `attributes` (JSON objects) or any other columns, each an attribute. Raises BadEvent that names the first bad
        rows, with nothing recorded; UnknownMeter; JournalFull.
        """
        from metering.tables import encode_batch

        self._notice_fork()
        self._load_rules()
        rows, body = encode_batch(table, rules=self._rules, recorded_at=self._clock.now_us())
        if rows:
            self._refuse_if_closed()
            with self._roll_lock:
                producer = self._producer_now()
                self._segment = _NO_SEGMENT
                number = producer.reserve_batch()
            producer.write_batch(number, rows, body)
        return rows

    def flush(self) -> None:
        """Return when every row recorded before is on the disk. Raises JournalFull when the disk refuses."""
        producer = self._producer
        if producer is not None and not producer.sync():
            # A file whose fsync failed is given up; sealing copies its rows from memory into a new one.
            self._retire_current()
            producer.seal_before()

    def seal(self) -> None:
        """Seal what was recorded so far, so that it can be shipped now. Raises JournalFull; then nothing is lost."""
        producer = self._producer
        if producer is not None:
            if self._segment is not _NO_SEGMENT and self._segment.has_rows:
                self._retire_current()
            producer.seal_before(current=self._segment)

    def ship_now(self) -> Shipped:
        """Seal, and bring everything of this workspace to the lake in this process. For scripts and notebooks."""
        from metering.lake import Lake
        from metering.ship import ship

        self.seal()
        return ship(self.layout, Lake(self.layout.lake), self._clock)

    def close(self) -> None:
        """Seal, and end this producer. Recording afterwards raises ValueError. Idempotent."""
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.stop()
        with self._roll_lock:
            producer, self._producer, self._segment = self._producer, None, _NO_SEGMENT
        if producer is not None:
            producer.close()
            if self._shipper is not None:
                self._shipper.ensure(now=True)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled recorder is its folder and settings, never its state: the process that unpickles is a new producer.
        return _rebuild, (str(self.layout.root), self._settings)

    def _check_series(self, meter: str, tenant: str, attributes: dict[str, AttributeValue | None]) -> _Series:
        with contextlib.suppress(KeyError, TypeError):
            return self._checked[meter, tenant, *attributes.items()]
        # Looked up by equality only where equal means the same: 1 == True == Decimal("1.0") are three attributes.
        is_text = isinstance(meter, str) and isinstance(tenant, str)
        is_text = is_text and all(value is None or isinstance(value, str) for value in attributes.values())
        seen_as = (meter, tenant, *attributes.items()) if is_text else None
        self._load_rules()
        name = check_name(meter, "meter")
        rule = None
        if self._rules is not None:
            rule = self._rules.get(name)
            if rule is None:
                raise UnknownMeter(
                    f"meter {name!r} is not in the catalog that was applied; add it and apply, or correct the name",
                    meter=name,
                )
        text = "\n".join((name, check_name(tenant, "tenant"), encode_attributes(attributes) or "")).encode()
        found = _Series(text, rule is not None and rule.negative_allowed, seen_as)
        if seen_as is not None:
            if len(self._checked) >= CHECKED_MAX:
                self._checked = {}
            self._checked[seen_as] = found
        return found

    def _load_rules(self) -> None:
        try:
            mtime = self.layout.meters_file.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            mtime = None
        if mtime != self._rules_mtime_ns:
            self._rules = load_rules(self.layout.meters_file)
            self._rules_mtime_ns = mtime
            # A new dictionary, not an emptied one: bound meters see by it that what they know may be stale.
            self._checked = {}

    def _write(self, series: _Series, quantity: Quantity, event_time: datetime | None, key: str | None) -> Segment:
        """Check the rest and record the slow way; return the segment that took the row."""
        if type(quantity) is int and 0 <= quantity <= WHOLE_MAX:
            kind, number, wide = WHOLE, quantity, None
        else:
            exact = check_quantity(quantity, negative_allowed=series.negative_allowed)
            kind, number, wide = split_quantity(exact)
        checked_key = None if key is None else check_key(key)
        time_us = None if event_time is None else check_event_time(event_time)
        self._notice_fork()
        while True:
            segment = self._segment
            now = self._now_ns()
            row = Row(series.text, kind, number, wide, now if time_us is None else time_us * 1000, now, checked_key)
            if segment.append(row):
                if series.seen_as is not None:
                    segment.series[series.seen_as] = segment.defined[series.text]
                return segment
            try:
                self._roll(segment)
            except JournalFull:
                if self._settings["on_error"] == "raise":
                    raise
                self._count_dropped()
                return segment

    def _add_slowly(
        self, bound: Bound, quantity: Quantity, event_time: datetime | None, key: str | None
    ) -> tuple[Segment, int]:
        """Record for a bound meter, and return where it may record the next time without asking."""
        # Read before the check, which may put a new dictionary there: at worst the next row is checked again.
        known, (checked, series) = self._checked, bound.checked
        if checked is not known:
            series = self._check_series(bound.meter, bound.tenant, bound.attributes)
            bound.checked = known, series
        segment = self._write(series, quantity, event_time, key)
        # A dropped event left no definition behind.
        slot = segment.defined.get(series.text)
        return (_NO_SEGMENT, 0) if slot is None else (segment, slot)

    def _count_dropped(self) -> None:
        with self._roll_lock:
            self.dropped += 1
            if self._producer is not None:
                self._producer.dropped = self.dropped

    def _roll(self, full: Segment) -> None:
        """Put a new segment in the place of a full one, unless another thread did. Raises JournalFull."""
        self._refuse_if_closed()
        with self._roll_lock:
            if self._segment is not full:
                return
            self._replace(full)
        producer = self._producer_now()
        if self._keeper is None:
            self._start_keeper(producer)
        elif producer.backlog <= BACKLOG_MAX:
            self._keeper.wake()
            return
        producer.seal_before(current=self._segment)

    def _replace(self, current: Segment) -> None:
        if self._refusal is not None and time.monotonic() < self._refused_until_s:
            raise self._refusal
        # A catalog that changed is noticed here, at the latest one seal interval after it was applied.
        self._load_rules()
        try:
            fresh = self._producer_now().open_segment()
        except JournalFull as error:
            if self._settings["on_error"] == "drop_and_count":
                self._refusal, self._refused_until_s = error, time.monotonic() + REFUSAL_S
            raise
        self._refusal = None
        # A signal handler may have replaced it while this thread opened a file; then the fresh one is sealed empty.
        if self._segment is current:
            self._segment = fresh

    def _rotate(self) -> None:
        """Seal what was recorded so far with the next segment already in place, so that no caller waits for it."""
        with self._roll_lock:
            segment, producer = self._segment, self._producer
            if producer is None or self._is_closed:
                return
            if segment is not _NO_SEGMENT and segment.has_rows:
                self._replace(segment)
        producer.seal_before(current=self._segment)

    def _start_keeper(self, producer: Producer) -> None:
        with self._roll_lock:
            if self._keeper is None and not self._is_closed:
                self._keeper = Keeper(
                    sync=lambda: self._sync_changed(producer),
                    prepare=lambda: self._prepare_spare(producer),
                    rotate=self._rotate,
                    seal=lambda: producer.seal_before(current=self._segment),
                    care=self._shipper.ensure if self._shipper is not None else lambda: None,
                    flush_interval_s=self._settings["flush_interval_s"],
                    seal_interval_s=self._settings["seal_interval_s"],
                )

    def _prepare_spare(self, producer: Producer) -> None:
        # Only for who fills segments faster than they are rotated: a rotation opens the next on the keeper's own time.
        if producer.backlog > 1 or self._segment.claimed_to > self._settings["segment_bytes"] // 8:
            producer.prepare_spare()

    def _sync_changed(self, producer: Producer) -> None:
        if not producer.sync_if_changed():
            self.flush()

    def _retire_current(self) -> None:
        with self._roll_lock:
            self._segment = _NO_SEGMENT

    def _notice_fork(self) -> None:
        if not _here[0]:
            _renew_after_fork()

    def _renew(self) -> None:
        if self._producer is not None:
            self._producer.abandon()
        self._start()

    def _seal_and_hand_over(self) -> None:
        # Nothing is lost when the disk refuses here: the shipper reads the open segments of the dead.
        with contextlib.suppress(JournalFull):
            self.seal()
        if self._producer is not None and self._shipper is not None:
            self._shipper.ensure(now=True)

    def _producer_now(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                self.layout.journal,
                segment_bytes=self._settings["segment_bytes"],
                bytes_max=self._settings["journal_bytes_max"],
                now_us=self._clock.now_us,
            )
            self._producer.dropped = self.dropped
            _seal_at_process_end()
        return self._producer

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ValueError("this recorder is closed; make a new one")


class Bound:
    """One meter, tenant and set of attributes, checked once. Holds no rows. Safe for all threads."""

    __slots__ = ("_now_ns", "_place", "_recorder", "attributes", "checked", "meter", "tenant")

    def __init__(
        self, recorder: Recorder, meter: str, tenant: str, attributes: dict[str, AttributeValue | None]
    ) -> None:
        self._recorder = recorder
        self.meter = meter
        self.tenant = tenant
        self.attributes = attributes
        self._now_ns = recorder._now_ns  # noqa: SLF001 - the two halves of one thing
        # What was checked, and the dictionary of checks that it was checked under.
        self.checked: tuple[object, _Series] = (None, _Series(b"", False, None))
        # Segment and series slot change together: one tuple, so that no thread reads one without the other.
        self._place: tuple[Segment, int] = (_NO_SEGMENT, 0)

    def add(self, quantity: Quantity = 1, *, event_time: datetime | None = None, key: str | None = None) -> None:
        """Record one usage event, as `Recorder.record` does, with the same errors."""
        segment, series = self._place
        try:
            if event_time is None and key is None and type(quantity) is int and 0 <= quantity <= WHOLE_MAX and _here[0]:
                offset = segment.claim()
                now = self._now_ns()
                pack_event(segment.pages, offset, quantity, now, quantity ^ now ^ series, series, WHOLE)
                if segment.is_open or segment.holds(offset):
                    return
        except (TypeError, ValueError, struct.error):
            pass
        self._place = self._recorder._add_slowly(self, quantity, event_time, key)  # noqa: SLF001 - as above


def _rebuild(root: str, settings: dict[str, Any]) -> Recorder:
    return Recorder(root, **settings)


def split_quantity(exact: Decimal) -> tuple[int, int, str | None]:
    """Return kind, 64-bit number and wide text of a checked quantity: whole units or 10^-9 where they fit, else text."""
    scaled = int(exact.scaleb(9, _EXACT))
    whole, rest = divmod(scaled, _NANO)
    if not rest and -WHOLE_MAX <= whole <= WHOLE_MAX:
        return WHOLE, whole, None
    if -WHOLE_MAX <= scaled <= WHOLE_MAX:
        return NANO, scaled, None
    return WIDE_DETAILED, 0, str(scaled)


def _renew_after_fork() -> None:
    """Make every recorder of a child process a new producer; what was inherited belongs to the parent."""
    for recorder in list(_recorders):
        recorder._renew()  # noqa: SLF001 - this module's own
    _here[0] = 1


def _seal_all() -> None:
    for recorder in list(_recorders):
        recorder._seal_and_hand_over()  # noqa: SLF001 - this module's own


def _seal_at_process_end() -> None:
    # A forked child of multiprocessing ends without atexit, but runs these; only if that module is there already.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _seal_all, exitpriority=10)


atexit.register(_seal_all)
os.register_at_fork(after_in_child=_renew_after_fork)
