"""The settings of a recorder, checked before anything is recorded under them.

Enters: what a caller says of acknowledgement, room, intervals and shipping. Leaves: the same. Refuses, with ValueError: words
that nobody knows, times that nobody can wait for, and a journal without room for one segment. Otherwise the first row would
find them, or the thread that flushes, which then would not.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from metering.journal_format import SEGMENT_BYTES_MIN

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHOICES = {"ack": ("process", "disk"), "on_error": ("raise", "drop_and_count"), "ship": ("child", "none")}
_INTERVALS = ("ack_timeout_s", "flush_interval_s", "seal_interval_s")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError that names the first setting that no recorder can keep to."""
    for name in _CHOICES:
        check_choice(name, settings[name])
    segment, journal = settings["segment_bytes"], settings["journal_bytes_max"]
    if segment < SEGMENT_BYTES_MIN:
        raise ValueError(f"segment_bytes must be at least {SEGMENT_BYTES_MIN}, not {segment}")
    if journal < segment:
        raise ValueError(f"journal_bytes_max of {journal} has no room for one segment of segment_bytes={segment}")
    for name in _INTERVALS:
        # Written so that it refuses a NaN, too.
        if not 0 < settings[name] <= threading.TIMEOUT_MAX:
            raise ValueError(f"{name} must be a time in seconds above 0, not {settings[name]}")


def check_choice(name: str, choice: object) -> None:
    """Raise ValueError unless this is one of the words for this setting."""
    if choice not in _CHOICES[name]:
        raise ValueError(f"{name} is {' or '.join(map(repr, _CHOICES[name]))}, not {choice!r}")
