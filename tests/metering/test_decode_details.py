"""Details decoded by the column: the same as one by one, whatever was written and whatever became of it."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import decode
from metering.decode import decode_segment
from metering.decode_details import Details, crc32_of_rows, read_details
from metering.journal_format import DETAIL, SLOT, TEXT
from metering.recorder import Recorder
from metering.segments import StoredSegment, producer_folders, read_segment


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_the_checksum_of_all_rows_is_that_of_each(messages: list[bytes]) -> None:
    width = max(1, *(len(one) for one in messages))
    matrix = np.frombuffer(b"".join(one.ljust(width, b"\0") for one in messages), np.uint8).reshape(-1, width)
    found = crc32_of_rows(matrix, np.array([len(one) for one in messages]))
    assert found.tolist() == [zlib.crc32(one) for one in messages]


def segment_of_keys(root: Path) -> StoredSegment:
    with Recorder(root, ship="none", seal_interval_s=3600.0) as usage:
        usage.record("tokens", tenant="acme")
        for number, length in enumerate((1, 25, 26, 27, 52, 53, 128)):
            usage.record("tokens", tenant="acme", quantity=number, key="\u00e9" * (length // 2) + "k" * (length % 2))
        usage.record("tokens", tenant="acme", quantity=2**70, key="wide")
        usage.record("tokens", tenant="acme", quantity=2**70)
    (path,) = (path for folder in producer_folders(root / "journal") for path in folder.sealed())
    return read_segment(path)


def test_keys_of_every_length_come_out_as_they_went_in(tmp_path: Path) -> None:
    keys = decode_segment(segment_of_keys(tmp_path), None).events["idempotency_key"].to_pylist()
    lengths = [None if key is None else len(key.encode()) for key in keys]
    assert lengths == [None, 1, 25, 26, 27, 52, 53, 128, 4, None]
    assert keys[8] == "wide"


def unsure(body: bytearray, links: object) -> Details:
    """Be sure of nothing, so that every row is looked at by itself."""
    details = read_details(body, links)  # type: ignore[arg-type]
    details.is_sure[:] = False
    return details


def test_any_damage_is_judged_as_if_each_row_were_looked_at_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = segment_of_keys(tmp_path)
    body = bytes(stored.body)
    places = [slot * SLOT for slot in range(len(body) // SLOT) if body[slot * SLOT + SLOT - 1] in {DETAIL, TEXT}]
    # A flipped bit in every byte of every detail and text; the bits differ from byte to byte.
    for place in (start + byte for start in places for byte in range(SLOT)):
        stored.body[:] = body
        stored.body[place] ^= 1 << place % 7
        by_column = decode_segment(stored, None)
        with monkeypatch.context() as slow:
            slow.setattr(decode, "read_details", unsure)
            one_by_one = decode_segment(stored, None)
        assert by_column.events.equals(one_by_one.events), place
        assert by_column.dead_letters.equals(one_by_one.dead_letters), place
