"""Bytes and lines of an event file, unpacked and counted; the one way in which such a file is refused.

Enters: a path. Leaves: a stream of bytes, lines with their limits kept, text that is UTF-8.
Refuses: a broken or cut gzip archive, a line without end, text in another encoding.
"""

from __future__ import annotations

import gzip
import io
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from metering.errors import BadEventFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE_BYTES_MAX = 16 * 1024 * 1024


class _CheckedStream(io.RawIOBase):
    """Bytes of a file, unpacked where it ends in .gz; a broken or cut archive is a BadEventFile, not an early end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        is_packed = path.name.lower().endswith(".gz")
        self._stream = gzip.GzipFile(path, "rb") if is_packed else path.open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            refuse(self._path, None, f"its gzip archive is broken or cut short ({error})", "copy or export it again")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_bytes(path: Path) -> io.BufferedReader:
    """Open the file's bytes, unpacked. Reading raises BadEventFile for an archive that is not whole."""
    return io.BufferedReader(_CheckedStream(path), buffer_size=1024 * 1024)


def byte_lines(path: Path, stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their newline; refuse one over the limit before it fills the memory."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            refuse(path, number, f"it is longer than {LINE_BYTES_MAX} bytes", "check that lines end in a newline")
        yield line


def text_lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """Yield lines as text; refuse the first that is not UTF-8, by its number."""
    for number, line in enumerate(byte_lines(path, stream), start=1):
        try:
            # Spreadsheets begin UTF-8 files with a byte order mark.
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            refuse(path, number, f"it is not UTF-8 ({error.reason})", "save the file as UTF-8")


def refuse(path: Path, line: int | None, what: str, hint: str) -> NoReturn:
    """Raise BadEventFile that names the file, the line where there is one, what is wrong and what to do."""
    where = f"{path}" if line is None else f"{path}, line {line}"
    raise BadEventFile(f"{where}: {what}. Nothing was imported; {hint}", path=str(path), line=line)
