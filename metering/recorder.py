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
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from metering.acknowledge import DiskAcknowledger
from metering.bound import Bound, Place, place_in
from metering.clock import SystemClock
from metering.context import required_tenant
from metering.corrections import correction_text
from metering.errors import BadEvent, JournalFull, NotYetDurable
from metering.events import check_event_time, check_key
from metering.forks import here as _here
from metering.forks import notice_fork, recorders
from metering.health import look
from metering.journal import NO_SEGMENT, Row, pack_event
from metering.journal_format import WHOLE, WHOLE_BITS
from metering.keeper import Keeper, ShipperChild
from metering.layout import Layout
from metering.meterings import Meterings
from metering.producer import Producer
from metering.recorder_settings import check_choice, check_settings
from metering.series import SeriesBook, encode_quantity

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from metering.acknowledge import Ack
    from metering.clock import Clock
    from metering.corrections import Origin
    from metering.events import AttributeValue
    from metering.health import Health
    from metering.journal import Segment
    from metering.series import Quantity, Series
    from metering.ship import Shipped

    # Kind, number, wide quantity, event time in ns (None: now), key.
    Draft = tuple[int, int, str | None, int | None, str | None]

# How many full segments may wait for the keeper before a caller seals them itself.
BACKLOG_MAX = 4
# After the disk said no, callers that drop do not ask it again for this long.
REFUSAL_S = 0.1


class Recorder(Meterings):
    """Record usage events into the journal below `root`. One per process and workspace is enough; safe for all threads.

    `ack` says when a call returns: "process", its row survives the death of the process; "disk", also a power cut. One
    fdatasync answers all who wait; who waits over `ack_timeout_s` gets NotYetDurable. `flush_interval_s` bounds what a
    power cut can take of "process". `on_error` says what happens when there is no room: "raise" JournalFull, or
    "drop_and_count" (see `dropped`). Bad values always raise. `ship` is "child" (a process of its own brings sealed
    segments to the lake; it is started once and outlives this one until all is shipped) or "none" (something else does:
    `tallybook ship`, or `ship_now()`).

    >>> usage = Recorder("tallybook-data")                                      # doctest: +SKIP
    >>> usage.record("tokens", tenant="acme", quantity=512, model="gpt-4o")     # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | Path,
        *,
        ack: Ack = "process",
        ack_timeout_s: float = 10.0,
        on_error: Literal["raise", "drop_and_count"] = "raise",
        segment_bytes: int = 1 << 20,
        journal_bytes_max: int = 8 << 30,
        flush_interval_s: float = 0.1,
        seal_interval_s: float = 1.0,
        ship: Literal["child", "none"] = "child",
        clock: Clock | None = None,
    ) -> None:
        self.layout = Layout.of(root)
        self._settings: dict[str, Any] = {
            "ack": ack,
            "ack_timeout_s": ack_timeout_s,
            "on_error": on_error,
            "segment_bytes": segment_bytes,
            "journal_bytes_max": journal_bytes_max,
            "flush_interval_s": flush_interval_s,
            "seal_interval_s": seal_interval_s,
            "ship": ship,
            "clock": clock,
        }
        check_settings(self._settings)
        self._clock: Clock = clock or SystemClock()
        # The system's own clock is read directly: half of what a row costs is what it calls.
        self._now_ns: Callable[[], int] = time.time_ns if clock is None else lambda: self._clock.now_us() * 1000
        self._is_closed = False
        self._waits_for_disk = ack == "disk"
        self._series = SeriesBook(self.layout.meters_file)
        self._start()
        recorders.add(self)

    def _start(self) -> None:
        """Be a process that has recorded nothing: at the beginning, and again in the child of a fork."""
        self._segment: Segment = NO_SEGMENT
        self._producer: Producer | None = None
        self._rows_closed = 0
        # What a parent dropped is in the trailers of the parent.
        self.dropped = 0
        self._roll_lock = threading.RLock()
        self._keeper: Keeper | None = None
        self._acknowledger = DiskAcknowledger(self.flush, self._settings["ack_timeout_s"])
        self._shipper = ShipperChild(self.layout) if self._settings["ship"] == "child" else None
        self._refusal: JournalFull | None = None
        self._refused_until_s = float("-inf")

    def record(
        self,
        meter: str,
        /,
        *,
        tenant: str | None = None,
        quantity: Quantity = 1,
        event_time: datetime | None = None,
        key: str | None = None,
        ack: str | None = None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record one usage event; it survives the death of the process when this returns.

        `tenant` defaults to that of the running work (`with tenant("acme"):`, middleware). `quantity` is exact: int,
        Decimal or text, never float. `event_time` defaults to now; aware, any zone. `key` is the caller's identity for
        the event: of all events of this tenant and meter with the same key, one counts. `ack="disk"` returns when the
        row survives a power cut, too. Raises BadEvent and UnknownMeter (no retry helps), JournalFull (a retry may), and
        NotYetDurable when the row is written and the disk did not answer.
        """
        if tenant is None:
            tenant = required_tenant()
        segment = self._segment
        try:
            series = segment.series[meter, tenant, *attributes.items()]
            if (
                event_time is None
                and key is None
                and ack is None
                and type(quantity) is int
                and not quantity >> WHOLE_BITS
                and _here[0]
            ):
                claim, now_ns = segment.claim, self._now_ns
                offset, now = claim(), now_ns()
                pack_event(segment.pages, offset, quantity, now, quantity ^ series ^ now, series, WHOLE)
                if segment.is_open or segment.holds(offset):
                    return
        # Not seen before in this segment (KeyError), or the segment is full (struct.error) or gone (TypeError).
        except (KeyError, TypeError, ValueError, struct.error):
            pass
        self._write(self._series.check(meter, tenant, attributes), quantity, event_time, key, ack)

    async def record_durably(
        self,
        meter: str,
        /,
        *,
        tenant: str | None = None,
        quantity: Quantity = 1,
        event_time: datetime | None = None,
        key: str | None = None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record one usage event as `record(..., ack="disk")` does, without ever holding up the event loop."""
        series = self._series.check(meter, required_tenant() if tenant is None else tenant, attributes)
        draft = self._draft(series, quantity, event_time, key)
        if not self._append(self._segment, series, draft):
            import asyncio

            # A new segment is opened on the disk: in a thread, as all that waits.
            if await asyncio.to_thread(self._append_or_roll, series, draft) is None:
                return
        await self._acknowledger.wait_async()

    def void(
        self,
        meter: str,
        /,
        *,
        tenant: str | None = None,
        key: str | None = None,
        origin: Origin | None = None,
        ack: str | None = None,
    ) -> None:
        """Record that an earlier event counts for nothing; name it by its `key` or by its `origin`, one of the two.

        The event named is of this tenant, and of this meter where it is named by key; no other can be touched. Nothing is
        edited: the void is an event of its own, and usage is without the event named from the next snapshot on. Voiding
        again changes nothing, and the void may be recorded before the event. Errors as of `record`.
        """
        tenant = required_tenant() if tenant is None else tenant
        series = self._series.check_correction(meter, tenant, {}, correction_text("void", key=key, origin=origin))
        self._write(series, 0, None, None, ack)

    def replace(
        self,
        meter: str,
        /,
        *,
        quantity: Quantity,
        tenant: str | None = None,
        key: str | None = None,
        origin: Origin | None = None,
        event_time: datetime | None = None,
        new_key: str | None = None,
        ack: str | None = None,
        **attributes: AttributeValue | None,
    ) -> None:
        """Record an event that counts in place of an earlier one, named by its `key` or by its `origin`.

        The rest is said whole, as of a new event: `event_time` defaults to now, not to that of the event replaced.
        `new_key` is the identity of the replacement and cannot be `key`, which stays out for ever; with it a retry counts
        once, without it each call counts. Errors as of `record`.
        """
        if new_key is not None and new_key == key:
            raise BadEvent(
                "bad_correction",
                f"key {key!r} is taken out of usage by this replacement; give the replacement another new_key",
            )
        tenant = required_tenant() if tenant is None else tenant
        correction = correction_text("replace", key=key, origin=origin)
        series = self._series.check_correction(meter, tenant, attributes, correction)
        self._write(series, quantity, event_time, new_key, ack)

    def bind(self, meter: str, /, *, tenant: str | None = None, **attributes: AttributeValue | None) -> Bound:
        """Return the fast path for one meter, tenant and set of attributes, checked now. Raises BadEvent, UnknownMeter.

        `tenant` defaults to that of the work that runs now, and stays what it is.
        """
        name = required_tenant() if tenant is None else tenant
        bound = Bound(self, meter, name, attributes)
        bound.checked = self._series.known, self.check(meter, name, attributes)
        return bound

    def check(self, meter: str, tenant: str, attributes: dict[str, AttributeValue | None]) -> Series:
        """Return what these are in the journal, recording nothing. Raises BadEvent, UnknownMeter."""
        return self._series.check(meter, tenant, attributes)

    def record_batch(self, table: Any) -> int:
        """Record every row of a table or none; return how many. The rows are on the disk when this returns.

        `table` is anything with `__arrow_c_stream__` (Arrow, polars, pandas, DuckDB). Columns: tenant_id, meter, quantity
        (integers, decimals or text, never floats), event_time (with a zone), optional idempotency_key, and either
        `attributes` (JSON objects) or any other columns, each an attribute. Raises BadEvent that names the first bad
        rows, with nothing recorded; UnknownMeter; JournalFull, whatever `on_error` says: the table is the caller's still.
        """
        from metering.tables import encode_batch

        notice_fork()
        self._series.load_rules()
        rows, body = encode_batch(table, rules=self._series.rules, recorded_at=self._clock.now_us())
        if rows:
            self._refuse_if_closed()
            with self._roll_lock:
                producer = self._producer_now()
                self._segment = NO_SEGMENT
                number = producer.reserve_batch()
            producer.write_batch(number, rows, body)
        return rows

    def flush(self) -> None:
        """Return when every row recorded before is on the disk. Raises JournalFull or NotYetDurable when the disk refuses.

        Nothing recorded is lost then: the rows stay in the journal, and the next flush tries again.
        """
        notice_fork()
        producer = self._producer
        if producer is None or producer.sync():
            return
        # A file whose fsync failed is given up; sealing copies its rows from memory into a new one.
        self._retire_current()
        producer.seal_before()
        # What could not be sealed just now, for a batch or a writer in its way, is suspect still.
        if not producer.sync():
            raise NotYetDurable(
                f"journal {producer.folder} could not be synced: its rows are written and count, but are not known to be "
                "on the disk; call flush() again",
                folder=str(producer.folder),
            )

    def seal(self) -> None:
        """Seal what was recorded so far, so that it can be shipped now. Raises JournalFull; then nothing is lost."""
        notice_fork()
        producer = self._producer
        if producer is not None:
            if self._segment is not NO_SEGMENT and self._segment.has_rows:
                self._retire_current()
            producer.seal_before(current=self._segment)

    def position(self, *, opens: bool = False) -> tuple[str, int] | None:
        """Return the producer, and the segment in which its last row is at the latest. None: it has recorded nothing.

        With `opens` it becomes a producer now. Raises JournalFull."""
        notice_fork()
        if opens and not self._is_closed:
            with self._roll_lock:
                self._producer_now()
        return None if self._producer is None else (self._producer.producer_id, self._producer.reached)

    def health(self) -> Health:
        """Return how this recorder is doing, in well under a millisecond. Never raises, records nothing, starts nothing."""
        # What the parent of this process has mapped may end earlier by now, and reading behind the end would be SIGBUS.
        notice_fork()
        keeper, producer = self._keeper, self._producer
        return look(
            self.layout,
            producer,
            now_ns=self._now_ns(),
            rows_before=self._rows_closed,
            dropped=self.dropped,
            error=(None if keeper is None else keeper.refusal) or self._refusal,
        )

    def ship_now(self) -> Shipped:
        """Seal, and bring everything of this workspace to the lake in this process. For scripts and notebooks."""
        from metering.lake import Lake
        from metering.ship import ship

        self.seal()
        return ship(self.layout, Lake(self.layout.lake), self._clock)

    def close(self) -> None:
        """Seal, and end this producer. Recording afterwards raises ValueError. Idempotent."""
        notice_fork()
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.stop()
        self._acknowledger.stop()
        with self._roll_lock:
            self._segment = NO_SEGMENT
            producer = self._producer
            if producer is not None:
                producer.close()
                self._rows_closed += producer.rows
            # Only now: who flushes meanwhile must not be told that there is nothing to wait for.
            self._producer = None
        if producer is not None and self._shipper is not None:
            self._shipper.ensure(now=True)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled recorder is its folder and settings, never its state: the process that unpickles is a new producer.
        return _rebuild, (str(self.layout.root), self._settings)

    def _write(
        self, series: Series, quantity: Quantity, event_time: datetime | None, key: str | None, ack: str | None
    ) -> Segment | None:
        """Check the rest and record the slow way; return the segment that took the row, None when it was dropped."""
        # Text to the type checker, so that `**attributes` of a caller's dict[str, str] still pass it.
        if ack is not None:
            check_choice("ack", ack)
        segment = self._append_or_roll(series, self._draft(series, quantity, event_time, key))
        if segment is not None and (self._waits_for_disk if ack is None else ack == "disk"):
            self._acknowledger.wait()
        return segment

    def _draft(self, series: Series, quantity: Quantity, event_time: datetime | None, key: str | None) -> Draft:
        kind, number, wide = encode_quantity(quantity, negative_allowed=series.negative_allowed)
        checked_key = None if key is None else check_key(key)
        time_ns = None if event_time is None else check_event_time(event_time) * 1000
        notice_fork()
        return kind, number, wide, time_ns, checked_key

    def _append(self, segment: Segment, series: Series, draft: Draft) -> bool:
        """Store a row in this segment. Return False when it is full or was sealed meanwhile."""
        kind, number, wide, time_ns, key = draft
        now = self._now_ns()
        if not segment.append(Row(series.text, kind, number, wide, now if time_ns is None else time_ns, now, key)):
            return False
        # Where all wait for the disk, nothing is to be found by the way that does not.
        if series.seen_as is not None and not self._waits_for_disk:
            segment.series[series.seen_as] = segment.defined[series.text]
        return True

    def _append_or_roll(self, series: Series, draft: Draft) -> Segment | None:
        while True:
            segment = self._segment
            if self._append(segment, series, draft):
                return segment
            try:
                self._roll(segment)
            except JournalFull:
                if self._settings["on_error"] == "raise":
                    raise
                self._count_dropped()
                return None

    def _add_slowly(
        self, bound: Bound, quantity: Quantity, event_time: datetime | None, key: str | None, ack: str | None
    ) -> Place:
        """Record for a bound meter, and return where it may record the next time without asking."""
        # Read before the check, which may put a new dictionary there: at worst the next row is checked again.
        known, (checked, series) = self._series.known, bound.checked
        if checked is not known:
            series = self._series.check(bound.meter, bound.tenant, bound.attributes)
            bound.checked = known, series
        segment = self._write(series, quantity, event_time, key, ack)
        if segment is None or self._waits_for_disk:
            return place_in(NO_SEGMENT, self._now_ns, 0)
        return place_in(segment, self._now_ns, segment.defined[series.text])

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
        elif producer.backlog <= BACKLOG_MAX and self._keeper.wake():
            return
        producer.seal_before(current=self._segment)

    def _replace(self, current: Segment) -> None:
        if self._refusal is not None and time.monotonic() < self._refused_until_s:
            raise self._refusal
        # A catalog that changed is noticed here, at the latest one seal interval after it was applied.
        self._series.load_rules()
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
            if segment is not NO_SEGMENT and segment.has_rows:
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
            self._segment = NO_SEGMENT

    def _renew(self) -> None:
        if self._keeper is not None:
            self._keeper.abandon()
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


def _rebuild(root: str, settings: dict[str, Any]) -> Recorder:
    return Recorder(root, **settings)


def _seal_all() -> None:
    for recorder in list(recorders):
        recorder._seal_and_hand_over()  # noqa: SLF001 - this module's own


def _seal_at_process_end() -> None:
    # A forked child of multiprocessing ends without atexit, but runs these; only if that module is there already.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _seal_all, exitpriority=10)


atexit.register(_seal_all)
