"""The details of events, decoded by the column: keys, and times of their own.

Enters: the slots of a journal body, and which of them are said to be details. Leaves: per detail its fields and its key, for
those that are beyond doubt. Refuses: to judge the others. Whatever is not exactly as the recorder writes it (a chain that
breaks, a piece that is short, a checksum that differs, a wide quantity) is left to the one who looks row by row.

The checksum is affine: the crc32 of a message is that of as many zeros, with one table's entry for each byte, chosen by
the byte's distance from the end, joined to it by xor. So all rows of one length are checked by one lookup per column.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from metering.journal_format import DETAIL, DETAIL_CHECKED, HAS_KEY, NO_SLOT, SLOT, TEXT, TEXT_BYTES

Array = np.ndarray[Any, Any]

# A key of 128 bytes takes five pieces.
_PIECES_MAX = 6
_DETAIL = np.dtype(
    {
        "names": ["recorded_ns", "series", "following", "flags", "crc"],
        "formats": ["<i8", "<u4", "<u4", "u1", "<u4"],
        "offsets": [0, 8, 12, 16, 20],
        "itemsize": SLOT,
    }
)
_LINK_BYTES = 4
_TEXT_AT = 5


@dataclass(frozen=True, slots=True)
class Details:
    """One entry per detail that was asked for. Only those of `is_sure` mean anything."""

    is_sure: Array
    recorded_ns: Array
    series: Array
    has_key: Array
    text: Array  # one row of bytes per detail, filled up with zeros
    lengths: Array


def read_details(body: bytearray, links: Array) -> Details:
    """Return the details in these slots of a body."""
    slots = np.frombuffer(body, np.uint8).reshape(-1, SLOT)
    is_sure = links < len(slots)
    heads = slots[np.where(is_sure, links, 0)]
    is_sure &= heads[:, -1] == DETAIL
    fields = heads.reshape(-1).view(_DETAIL)
    text, lengths, is_whole = _read_texts(slots, fields["following"].astype(np.int64), is_sure)
    is_sure &= is_whole
    checked = np.concatenate((heads[:, : DETAIL_CHECKED.size], text), axis=1)
    is_sure &= crc32_of_rows(checked, lengths + DETAIL_CHECKED.size) == fields["crc"]
    has_key = (fields["flags"] & HAS_KEY) != 0
    return Details(is_sure, fields["recorded_ns"], fields["series"].astype(np.int64), has_key, text, lengths)


def key_array(count: int, rows: Array, details: Details) -> pa.Array:
    """Return one key per row of a segment, null where it has none; `rows` says of which rows the details are."""
    has_key = details.is_sure & details.has_key
    is_valid = np.zeros(count, np.bool_)
    is_valid[rows[has_key]] = True
    lengths = np.zeros(count + 1, np.int32)
    lengths[rows[has_key] + 1] = details.lengths[has_key]
    text = details.text[has_key]
    # Row by row, each cut to its length: the order of `rows` is that of the segment.
    content = text[np.arange(text.shape[1]) < details.lengths[has_key][:, None]]
    validity = pa.py_buffer(np.packbits(is_valid, bitorder="little"))
    offsets = pa.py_buffer(np.cumsum(lengths, dtype=np.int32))
    keys = pa.StringArray.from_buffers(count, offsets, pa.py_buffer(content), validity)
    keys.validate(full=True)
    return keys


def _read_texts(slots: Array, following: Array, is_asked: Array) -> tuple[Array, Array, Array]:
    """Return bytes, lengths, and whether the chain was read to its end, of all chains at once, piece after piece."""
    pieces = [np.zeros((len(following), 0), np.uint8)]
    lengths = np.zeros(len(following), np.int64)
    is_whole = is_asked.copy()
    is_open = is_asked & (following != NO_SLOT)
    while is_open.any():
        if len(pieces) > _PIECES_MAX:
            is_whole &= ~is_open
            break
        is_inside = is_open & (following < len(slots))
        found = slots[np.where(is_inside, following, 0)]
        size = found[:, _LINK_BYTES].astype(np.int64)
        following = np.ascontiguousarray(found[:, :_LINK_BYTES]).view("<u4")[:, 0].astype(np.int64)
        goes_on = following != NO_SLOT
        # A piece that another follows is full: so is each that was ever written.
        is_piece = is_inside & (found[:, -1] == TEXT) & (size <= TEXT_BYTES) & (~goes_on | (size == TEXT_BYTES))
        is_whole &= is_piece | ~is_open
        is_open &= is_piece
        size[~is_open] = 0
        is_text = np.arange(TEXT_BYTES) < size[:, None]
        pieces.append(np.where(is_text, found[:, _TEXT_AT : _TEXT_AT + TEXT_BYTES], 0).astype(np.uint8))
        lengths += size
        is_open &= goes_on
    return np.concatenate(pieces, axis=1), lengths, is_whole


def crc32_of_rows(messages: Array, lengths: Array) -> Array:
    """Return the crc32 of each row of bytes, of its first `lengths` bytes: what zlib says of each."""
    tables = _crc_tables(messages.shape[1])
    columns = np.ascontiguousarray(messages.T)
    found = np.zeros(len(messages), np.uint32)
    for length in np.unique(lengths).tolist():
        members = np.flatnonzero(lengths == length)
        crc = np.full(len(members), zlib.crc32(bytes(length)), np.uint32)
        for place in range(length):
            column = columns[place] if len(members) == len(messages) else columns[place][members]
            crc ^= tables[length - 1 - place][column]
        found[members] = crc
    return found


@functools.lru_cache(maxsize=4)
def _crc_tables(size: int) -> Array:
    """Return, for each distance from the end and each byte there, by what it changes the crc32 of zeros."""
    tables = np.empty((max(size, 1), 256), np.uint32)
    tables[0] = [zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0") for byte in range(256)]
    for place in range(1, size):
        before = tables[place - 1]
        tables[place] = tables[0][before & 0xFF] ^ (before >> 8)
    return tables
