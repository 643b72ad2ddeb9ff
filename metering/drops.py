"""What a producer dropped for want of room, kept where it outlives the producer: in the file that is its lock.

Enters: the count of a producer's life, and where its chain of segments stands. Leaves: both in the kernel's pages, for
whoever gets the lock of the dead. Refuses: to need room when there is none. The place is written full of zeros when the
producer's folder is made, before there is anything to drop.

A trailer tells the count too, but a producer that drops has no room for a next segment, and may be killed before it
seals one. A producer that never dropped anything never writes here.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from dataclasses import dataclass, field

from metering.journal_format import Chain

# dropped, told, sealed_to, rows_before, previous_sha256 (zeros: none); behind it the crc32 of these bytes.
_FIELDS = struct.Struct("<QQQQ32s")
_CHECK = struct.Struct("<I")
# One sector: a power cut leaves the old bytes or the new ones.
PLACE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Drops:
    """The events that a producer dropped in its life so far, and how many of them a trailer has `told`.

    That trailer is of segment `sealed_to`, the last one sealed; `chain` is what the segment behind it inherits.
    """

    dropped: int = 0
    told: int = 0
    sealed_to: int = 0
    chain: Chain = field(default_factory=Chain)

    @property
    def are_told(self) -> bool:
        return self.told >= self.dropped


def make_place(file: int) -> None:
    """Take the room for the count, now that there is some. Raises OSError."""
    if os.pwrite(file, bytes(PLACE_BYTES), 0) != PLACE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_drops(file: int, drops: Drops) -> None:
    """Overwrite the count in place. The bytes survive the death of the process when this returns. Raises OSError."""
    previous = bytes.fromhex(drops.chain.previous_sha256 or "")
    fields = _FIELDS.pack(drops.dropped, drops.told, drops.sealed_to, drops.chain.rows_before, previous)
    os.pwrite(file, fields + _CHECK.pack(zlib.crc32(fields)), 0)


def read_drops(file: int) -> Drops:
    """Return what was written last; nothing dropped where nothing, or nothing that can be believed, was written."""
    content = os.pread(file, PLACE_BYTES, 0)
    if len(content) < _FIELDS.size + _CHECK.size or not any(content):
        return Drops()
    fields = content[: _FIELDS.size]
    if _CHECK.unpack_from(content, _FIELDS.size)[0] != zlib.crc32(fields):
        return Drops()
    dropped, told, sealed_to, rows_before, previous = _FIELDS.unpack(fields)
    return Drops(dropped, told, sealed_to, Chain(rows_before, previous.hex() if any(previous) else None))
