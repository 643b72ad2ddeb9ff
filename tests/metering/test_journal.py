"""The journal: what goes into a segment comes out of it, and damage never takes more than its own row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering.clock import FixedClock, from_us
from metering.decode import decode_segment
from metering.errors import BadEvent, JournalDamaged, JournalFull
from metering.events import check_key, check_name, encode_attributes
from metering.journal import Row, Segment
from metering.journal_format import (
    CHAIN_AT,
    DETAIL,
    EVENT_KINDS,
    HEADER_AT,
    PAGE,
    SERIES,
    SLOT,
    TEXT,
    TRAILER_AT,
    WHOLE,
    Chain,
    Header,
    get_holes,
    get_part,
)
from metering.producer import Producer
from metering.recorder import Recorder
from metering.segments import ProducerFolder, producer_folders, read_segment, read_trailer
from metering.series import split_quantity

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def recorder(root: Path, **settings: Any) -> Recorder:
    chosen: dict[str, Any] = {"ship": "none", "seal_interval_s": 3600.0, "clock": FixedClock(NOON), **settings}
    return Recorder(root, **chosen)


def segments(root: Path) -> list[Path]:
    return [path for folder in producer_folders(root / "journal") for path in folder.sealed()]


def rows(root: Path) -> list[dict[str, Any]]:
    return [row for path in segments(root) for row in decode_segment(read_segment(path), None).events.to_pylist()]


def test_the_bytes_of_a_segment_are_what_the_readme_draws(tmp_path: Path) -> None:
    path = tmp_path / "000000000001.open"
    segment = Segment.create(path, Header("p-00", 1, "journal", 1_000_000, 16))
    segment.inherit(Chain(5, "ab"))
    assert segment.append(Row(b"api\nacme\n", WHOLE, 3, None, 2_000_000_000, 2_000_000_000, None))
    assert segment.append(Row(b"api\nacme\n", WHOLE, 4, None, 1_000_000_000, 2_000_000_000, "k"))
    kinds = segment.close_to_writers()
    assert kinds == bytes([SERIES, WHOLE, TEXT, DETAIL, 0x66])
    content = path.read_bytes()
    assert content[:8] == b"TALLYJNL"
    assert len(content) == PAGE + 16 * SLOT
    header = {"created_at": 1000000, "format": 1, "kind": "journal", "producer_id": "p-00", "segment": 1, "slots": 16}
    assert get_part(content[:PAGE], HEADER_AT) == header
    assert get_part(content[:PAGE], CHAIN_AT) == {"previous_sha256": "ab", "rows_before": 5}
    body = content[PAGE:].hex()
    assert [body[start : start + 64] for start in range(0, 5 * 64, 64)] == [
        "ffffffff" + "1612658b" + "09" + b"api\nacme\n".hex().ljust(44, "0") + "0f",
        "0300000000000000" + "0094357700000000" + "0394357700000000" + "00000000" + "000000" + "55",
        "ffffffff" + "01" + b"k".hex().ljust(52, "0") + "33",
        "0094357700000000" + "00000000" + "02000000" + "01" + "000000" + "cedf6121" + "0" * 14 + "3c",
        "0400000000000000" + "00ca9a3b00000000" + "07ca9a3b00000000" + "03000000" + "000000" + "66",
    ]
    segment.release()


def test_kinds_differ_in_at_least_four_bits() -> None:
    kinds = [0, SERIES, TEXT, DETAIL, *EVENT_KINDS]
    assert all((one ^ other).bit_count() >= 4 for one in kinds for other in kinds if one != other)


# Without what is refused anyway, so that little is filtered out.
letters = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
names = st.text(letters, min_size=1, max_size=40).filter(lambda text: _passes(check_name, text, "tenant"))
keys = st.none() | st.text(letters, min_size=1, max_size=128).filter(lambda text: _passes(check_key, text))
quantities = st.integers(0, 10**28) | st.decimals(0, 10**20, places=9).map(Decimal) | st.integers(0, 2**64)
attribute_values = (
    st.integers()
    | st.booleans()
    | st.text(letters, max_size=60).filter(lambda text: _passes(encode_attributes, {"a": text}))
)
attributes = st.dictionaries(st.from_regex(r"\A[a-z_]{1,12}\Z"), attribute_values, max_size=5)
times = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def _passes(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except BadEvent:
        return False
    return True


events = st.lists(st.tuples(names, names, quantities, keys, times, attributes), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events)
def test_what_is_recorded_is_what_is_decoded(tmp_path_factory: pytest.TempPathFactory, recorded: Any) -> None:
    reserved = {"quantity", "event_time", "key", "tenant"}
    root = tmp_path_factory.mktemp("journal")
    expected = []
    with recorder(root, segment_bytes=1 << 16) as usage:
        for meter, tenant, quantity, key, event_time, extra in recorded:
            kept = {name: value for name, value in extra.items() if name not in reserved}
            usage.record(meter, tenant=tenant, quantity=quantity, key=key, event_time=event_time, **kept)
            expected.append(
                {
                    "meter": check_name(meter, "meter"),
                    "tenant_id": check_name(tenant, "tenant"),
                    "quantity": Decimal(quantity),
                    "idempotency_key": key,
                    "event_time": event_time or NOON,
                    "recorded_at": NOON,
                    "attributes": encode_attributes(kept),
                }
            )
    decoded = rows(root)
    assert [{name: row[name] for name in expected[0]} for row in decoded] == expected
    assert [row["row"] for row in decoded] == list(range(len(expected)))


@given(st.decimals(-(10**28), 10**28, places=9))
def test_a_quantity_is_split_without_loss(quantity: Decimal) -> None:
    kind, number, wide = split_quantity(quantity)
    scaled = int(wide) if wide is not None else number * (10**9 if kind == WHOLE else 1)
    assert Decimal(f"{scaled}E-9") == quantity


def three_rows(root: Path) -> Path:
    """Return an open segment of a dead producer with three rows: quantities 1, 2 (with a key), 3."""
    usage = recorder(root)
    usage.record("tokens", tenant="acme", quantity=1, model="m")
    usage.record("tokens", tenant="acme", quantity=2, model="m", key="key-2")
    usage.record("tokens", tenant="acme", quantity=3, model="m")
    (path,) = root.glob("journal/p-*/*.open")
    _die(usage)
    return path


def _die(usage: Recorder) -> None:
    # As a SIGKILL would: files are closed, nothing is sealed.
    keeper, producer = usage._keeper, usage._producer
    assert keeper is not None
    assert producer is not None
    keeper.stop()
    producer.abandon()
    usage._start()


def recover(path: Path) -> Any:
    with ProducerFolder(path.parent) as folder:
        assert folder.is_ours
        folder.recover(now_us=7)
    return decode_segment(read_segment(path.with_suffix(".sealed")), None)


def slot_of_row(content: bytes, number: int) -> int:
    kinds = content[PAGE + SLOT - 1 :: SLOT]
    return [slot for slot, kind in enumerate(kinds) if kind in EVENT_KINDS][number]


def test_the_open_segment_of_a_dead_producer_is_read_to_its_last_row(tmp_path: Path) -> None:
    batch = recover(three_rows(tmp_path))
    assert batch.events["quantity"].to_pylist() == [1, 2, 3]
    assert (batch.rows, batch.rows_before, batch.sealed_at, batch.previous_sha256) == (3, 0, 7, None)


def test_a_torn_row_does_not_count_and_hides_nothing_behind_it(tmp_path: Path) -> None:
    path = three_rows(tmp_path)
    content = bytearray(path.read_bytes())
    slot = slot_of_row(content, 1)
    # The kind is stored last: a write that was cut short leaves it zero.
    content[PAGE + slot * SLOT + SLOT - 1] = 0
    path.write_bytes(content)
    batch = recover(path)
    assert batch.events["quantity"].to_pylist() == [1, 3]
    assert batch.dead_letters.num_rows == 0


def test_any_flipped_bit_of_a_row_makes_a_dead_letter_and_the_others_count(tmp_path: Path) -> None:
    path = three_rows(tmp_path)
    content = path.read_bytes()
    place = PAGE + slot_of_row(content, 1) * SLOT
    # Bytes 28 to 30 carry nothing.
    for byte in (*range(28), 31):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place + byte] ^= 1 << bit
            path.write_bytes(damaged)
            batch = recover(path)
            assert batch.events["quantity"].to_pylist() == [1, 3], f"byte {byte} bit {bit}"
            (letter,) = batch.dead_letters.to_pylist()
            assert (letter["reason"], letter["row"]) == ("damaged", 1)
            assert letter["original"] == bytes(damaged[place : place + SLOT])
            assert batch.rows == 3
            path.with_suffix(".sealed").unlink()


def test_a_flipped_bit_in_a_key_or_a_series_is_seen(tmp_path: Path) -> None:
    path = three_rows(tmp_path)
    content = path.read_bytes()
    for text, survivors in ((b"key-2", [1, 3]), (b"tokens\nacme", [])):
        damaged = bytearray(content)
        damaged[content.index(text)] ^= 1
        path.write_bytes(damaged)
        batch = recover(path)
        assert batch.events["quantity"].to_pylist() == survivors
        assert set(batch.dead_letters["reason"].to_pylist()) == {"damaged"}
        assert batch.events.num_rows + batch.dead_letters.num_rows == batch.rows == 3
        path.with_suffix(".sealed").unlink()


def test_a_damaged_header_costs_no_row(tmp_path: Path) -> None:
    path = three_rows(tmp_path)
    content = path.read_bytes()
    path.write_bytes(bytes(PAGE) + content[PAGE:])
    assert recover(path).events["quantity"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("place", [0, TRAILER_AT, TRAILER_AT + 20, PAGE, PAGE + 40])
def test_a_sealed_segment_is_believed_only_with_its_hash(tmp_path: Path, place: int) -> None:
    with recorder(tmp_path) as usage:
        usage.record("tokens", tenant="acme")
        usage.record("tokens", tenant="acme")
    (path,) = segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamaged) as raised:
        read_segment(path)
    assert str(path) in str(raised.value)


def test_segments_are_chained_and_numbered_without_gaps(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        for number in range(4):
            for _ in range(number + 1):
                usage.record("api", tenant="acme")
            usage.seal()
    trailers = [read_trailer(path) for path in segments(tmp_path)]
    assert [trailer.segment for trailer in trailers] == [1, 2, 3, 4]
    assert [(trailer.rows, trailer.rows_before) for trailer in trailers] == [(1, 0), (2, 1), (3, 3), (4, 6)]
    heads = [trailer.next_chain().previous_sha256 for trailer in trailers]
    assert [trailer.previous_sha256 for trailer in trailers] == [None, *heads[:-1]]


def test_a_slot_that_is_claimed_and_never_stored_becomes_a_hole_and_may_be_stored_late(tmp_path: Path) -> None:
    producer = Producer(tmp_path / "journal", segment_bytes=1 << 16, bytes_max=1 << 30, now_us=lambda: 5)
    segment = producer.open_segment()
    row = Row(b"api\nacme\n", WHOLE, 1, None, 9, 9, None)
    assert segment.append(row)
    late = segment.claim()
    assert segment.append(row)
    kinds = segment.close_to_writers(patience_s=0)
    assert kinds is not None
    slot = (late - PAGE) // SLOT
    assert get_holes(bytes(segment.pages[:PAGE])) == (slot,)
    # The late writer stores now, looks, and learns that it must record again.
    segment.pages[late : late + SLOT] = b"\x55" * SLOT
    assert not segment.holds(late)
    assert not segment.append(row)
    producer.close()
    (path,) = segments(tmp_path)
    batch = decode_segment(read_segment(path), None)
    assert batch.rows == batch.events.num_rows == 2
    assert batch.dead_letters.num_rows == 0


def test_a_slot_behind_the_end_does_not_count_although_the_seal_was_never_finished(tmp_path: Path) -> None:
    """Its writer saw that the segment was closed and recorded again in the next one; then all were killed."""
    producer = Producer(tmp_path / "journal", segment_bytes=1 << 16, bytes_max=1 << 30, now_us=lambda: 5)
    segment = producer.open_segment()
    row = Row(b"api\nacme\n", WHOLE, 1, None, 9, 9, None)
    assert segment.append(row)
    assert segment.close_to_writers() is not None
    assert not segment.append(row)
    assert producer.open_segment().append(row)
    producer.abandon()
    (folder,) = producer_folders(tmp_path / "journal")
    with folder:
        assert folder.recover(now_us=7) == 2
    assert [read_trailer(path).rows for path in folder.sealed()] == [1, 1]


def test_a_spare_that_becomes_a_segment_is_not_touched_by_the_next_spare(tmp_path: Path) -> None:
    producer = Producer(tmp_path / "journal", segment_bytes=1 << 16, bytes_max=1 << 30, now_us=lambda: 5)
    producer.prepare_spare()
    # What open_segment does first; the keeper's turn may come right behind it.
    spare, producer._spare = producer._spare, None
    assert spare is not None
    inode = spare.path.stat().st_ino
    producer.prepare_spare()
    spare.become(producer.folder / "000000000009.open", Header(producer.producer_id, 9, "journal", 5, 16))
    assert spare.path.stat().st_ino == inode
    spare.release()
    assert producer.open_segment().header.segment == 1
    producer.close()
    assert not list(tmp_path.glob("journal/*/*.spare"))


def test_files_are_private_to_their_owner(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="acme/eu")
        folder = next(tmp_path.glob("journal/p-*"))
        assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_control_totals_and_times_follow_the_rows(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="b", quantity="0.5")
        usage.record("api", tenant="a", quantity=2, event_time=datetime(2026, 9, 30, tzinfo=UTC))
        usage.record("api", tenant="b", quantity=1)
    (path,) = segments(tmp_path)
    batch = decode_segment(read_segment(path), None)
    totals = [
        (row["tenant_id"], str(row["event_date"]), row["rows"], row["quantity"]) for row in batch.totals.to_pylist()
    ]
    assert totals == [("a", "2026-09-30", 1, 2), ("b", "2026-10-01", 2, Decimal("1.5"))]
    assert from_us(batch.sealed_at) == NOON


def test_a_refused_row_is_a_dead_letter_that_can_be_replayed(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="a", quantity=2, key="k", region="eu")
    (path,) = segments(tmp_path)
    (letter,) = decode_segment(read_segment(path), {}).dead_letters.to_pylist()
    assert (letter["reason"], letter["meter"], letter["quantity"]) == ("unknown_meter", "api", 2)
    assert json.loads(letter["original"]) == {
        "attributes": '{"region":"eu"}',
        "event_time": "2026-10-01T12:00:00Z",
        "idempotency_key": "k",
        "meter": "api",
        "quantity": "2",
        "recorded_at": "2026-10-01T12:00:00Z",
        "tenant_id": "a",
    }


def test_the_next_spare_never_takes_the_place_of_one_that_is_being_opened(tmp_path: Path) -> None:
    """The keeper allocates ahead while a caller opens: between its taking the spare and its rename there is a moment."""
    producer = Producer(tmp_path / "journal", segment_bytes=1 << 16, bytes_max=1 << 30, now_us=lambda: 5)
    producer.prepare_spare()
    taken, producer._spare = producer._spare, None
    producer.prepare_spare()
    assert taken is not None
    taken.become(producer.folder / "000000000001.open", Header(producer.producer_id, 1, "journal", 5, 8))
    assert producer._spare is not None
    assert producer._spare.path.exists()
    producer.close()


def test_a_sealed_segment_takes_no_more_room_than_its_rows(tmp_path: Path) -> None:
    """A lake that is away for a day must not fill the journal of a process that records once per second."""
    with recorder(tmp_path, segment_bytes=1 << 20, journal_bytes_max=3 << 20) as usage:
        for number in range(1, 301):
            usage.record("api", tenant="acme", quantity=number)
            usage.seal()
        assert usage._producer is not None
        held = [path.stat().st_size for path in usage._producer.folder.glob("*.sealed")]
    assert len(held) >= 300
    assert sum(held) < 2 << 20
    assert [int(row["quantity"]) for row in rows(tmp_path)] == list(range(1, 301))


def test_room_that_the_shipper_makes_is_found_again(tmp_path: Path) -> None:
    size = 1 << 16
    producer = Producer(tmp_path / "journal", segment_bytes=size, bytes_max=3 * size, now_us=lambda: 5)
    opened = [producer.open_segment() for _ in range(3)]
    for _ in range(2):
        with pytest.raises(JournalFull, match=f"holds {3 * size} bytes"):
            producer.open_segment()
    opened[0].path.unlink()
    producer.open_segment()
    with pytest.raises(JournalFull):
        producer.open_segment()
    producer._close_files()
