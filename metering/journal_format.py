"""The bytes of a journal segment: one header page, then slots of 32 bytes. README.md draws them.

Enters: bytes of a header page. Leaves: its parts, or None where a part was never written or is damaged.
Refuses: to guess. A part counts only with its length and its crc.

Kinds are words of the extended Hamming code (8, 4): any two differ in at least four bits, and all from zero, so that up
to three flipped bits make an unknown kind (a damaged row), never another kind or an empty slot.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mmap
    from collections.abc import Collection, Iterable

# The second one counts for batches only: numbers, codes and instants as narrow as they are. Both are read.
FORMAT, BATCH_FORMAT = 1, 2
MAGIC = b"TALLYJNL"
PAGE = 4096
SLOT = 32
SEGMENT_BYTES_MIN = 64 * 1024
HOLES_MAX = 64

# The parts of the header page. The last 512 bytes are kept free for a signature of the trailer.
HEADER_AT, CHAIN_AT, CLOSED_AT, HOLES_AT, TRAILER_AT, SIGNATURE_AT = 8, 512, 764, 768, 1536, 3584

SERIES, TEXT, DETAIL = 0x0F, 0x33, 0x3C
WHOLE, NANO, WHOLE_DETAILED, NANO_DETAILED, WIDE_DETAILED = 0x55, 0x5A, 0x66, 0x69, 0x96
AUXILIARY_KINDS = (SERIES, TEXT, DETAIL)
EVENT_KINDS = (WHOLE, NANO, WHOLE_DETAILED, NANO_DETAILED, WIDE_DETAILED)

# Integers up to this are stored as they are; the sum of two still fits a signed 64-bit word. Whoever has no time to spare asks
# whether anything is left of one after so many bits: nothing is of those from 0 to one below it, something of all others.
WHOLE_BITS = 62
WHOLE_MAX = 2**WHOLE_BITS
NO_SLOT = 0xFFFFFFFF
HAS_KEY = 1

EVENT_SLOT = struct.Struct("<qqqI3xB")  # quantity, event time in ns, check, link, kind
DETAIL_SLOT = struct.Struct("<qIIBxxxI7xB")  # recorded_at in ns, series, text, flags, crc, kind
SERIES_SLOT = struct.Struct("<IIB22sB")  # next text, crc, length, bytes, kind
TEXT_SLOT = struct.Struct("<IB26sB")  # next text, length, bytes, kind
SERIES_BYTES, TEXT_BYTES = 22, 26
DETAIL_CHECKED = struct.Struct("<qIIB")

DETAILED = {WHOLE: WHOLE_DETAILED, NANO: NANO_DETAILED, WIDE_DETAILED: WIDE_DETAILED}

_PART = struct.Struct("<II")
_WORD = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself when it is created."""

    producer_id: str
    segment: int
    kind: str
    created_at: int
    slots: int
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Chain:
    """What a segment inherits from the one before: its producer's rows so far and the hash of that trailer."""

    rows_before: int = 0
    previous_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Trailer:
    """What a sealed segment promises: how many rows it holds, and the hash of its body with the holes zeroed."""

    producer_id: str
    segment: int
    kind: str
    rows: int
    rows_before: int
    dropped: int
    body_bytes: int
    sha256: str
    previous_sha256: str | None
    created_at: int
    sealed_at: int
    holes: tuple[int, ...]
    format: int = FORMAT

    def encode(self) -> bytes:
        return encode_json(fields_of(self))

    def next_chain(self) -> Chain:
        return Chain(self.rows_before + self.rows, hashlib.sha256(self.encode()).hexdigest())


def fields_of(part: Header | Chain | Trailer) -> dict[str, Any]:
    """Return the fields of a part by name, as they are: a tenth of the price of `asdict`, which copies each of them."""
    return {name: getattr(part, name) for name in part.__slots__}


def count_rows(kinds: bytes) -> int:
    """Return how many rows the slots hold. An unknown kind is a damaged row, and counts."""
    return len(kinds) - kinds.count(0) - sum(kinds.count(kind) for kind in AUXILIARY_KINDS)


def sealing_trailer(
    header: Header,
    chain: Chain,
    body: bytes | bytearray,
    kinds: bytes,
    holes: Collection[int],
    *,
    sealed_at: int,
    dropped: int = 0,
) -> Trailer:
    """Return the trailer of a journal segment. A hole may be stored into at any later time, so it is hashed as zeros."""
    if holes:
        # A copy only where it is needed: this runs beside callers that want the processor.
        body = bytearray(body)
        zero_holes(body, holes)
    return Trailer(
        producer_id=header.producer_id,
        segment=header.segment,
        kind=header.kind,
        rows=count_rows(kinds),
        rows_before=chain.rows_before,
        dropped=dropped,
        body_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        previous_sha256=chain.previous_sha256,
        created_at=header.created_at,
        sealed_at=sealed_at,
        holes=tuple(sorted(holes)),
    )


def zero_holes(body: bytearray, holes: Iterable[int]) -> None:
    for slot in holes:
        body[slot * SLOT : (slot + 1) * SLOT] = bytes(SLOT)


def new_page(header: Header) -> bytearray:
    """Return a header page that holds nothing but what is known at creation."""
    page = bytearray(PAGE)
    page[: len(MAGIC)] = MAGIC
    put_part(page, HEADER_AT, encode_json(fields_of(header)))
    return page


def put_part(pages: mmap.mmap | bytearray, at: int, content: bytes) -> None:
    """Store one part of the header page as length, crc and bytes; the length last, so that half a part reads as none."""
    start = at + _PART.size
    pages[start : start + len(content)] = content
    _WORD.pack_into(pages, at + 4, zlib.crc32(content))
    _WORD.pack_into(pages, at, len(content))


def get_part(page: bytes, at: int) -> dict[str, Any] | None:
    """Return one part of a header page, or None when it was never written or is damaged."""
    length, crc = _PART.unpack_from(page, at)
    content = page[at + _PART.size : at + _PART.size + length]
    if not 0 < length <= PAGE or len(content) != length or zlib.crc32(content) != crc:
        return None
    part: dict[str, Any] = json.loads(content)
    return part


def put_closed_slots(pages: mmap.mmap, slots: int) -> None:
    """Fix how many slots of a segment count. Stored as one more than that: 0 is a segment that is open."""
    _WORD.pack_into(pages, CLOSED_AT, slots + 1)


def get_closed_slots(page: bytes | mmap.mmap) -> int | None:
    (stored,) = _WORD.unpack_from(page, CLOSED_AT)
    return int(stored) - 1 if stored else None


def put_holes(pages: mmap.mmap, holes: list[int]) -> None:
    struct.pack_into(f"<{len(holes)}I", pages, HOLES_AT + 4, *holes)
    _WORD.pack_into(pages, HOLES_AT, len(holes))


def get_holes(page: bytes) -> tuple[int, ...]:
    (count,) = _WORD.unpack_from(page, HOLES_AT)
    return struct.unpack_from(f"<{min(count, HOLES_MAX)}I", page, HOLES_AT + 4)


def encode_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
