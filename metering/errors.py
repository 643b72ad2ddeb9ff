"""The errors of metering, drawn as a tree.

    MeteringError
    ├── BadEvent           Terminal   a usage event that cannot be recorded: name, quantity, time, attributes
    ├── UnknownMeter       Terminal   the catalog that was applied does not know this meter
    ├── JournalFull        Retryable  no room: the disk is full or the journal is over its byte limit
    ├── NotYetDurable      Retryable  written and counted, but the disk has not answered: flush again, do not record again
    ├── JournalDamaged     Terminal   bytes of a journal segment are not what was written
    ├── LakeDamaged        Terminal   bytes of a data file are not what was committed
    ├── LakeUnavailable    Retryable  the lake could not be read or committed to just now
    ├── BadEventFile       Terminal   a file of usage events that cannot be imported; nothing of it was applied
    ├── BadPeriod          Terminal   a period or time zone that cannot be understood
    ├── BadSelector        Terminal   a question to usage that has no answer
    └── TooManyGroups      Terminal   more groups than a price declares; nothing was left out, nothing was rated

Every error has a stable `code`, typed attributes, and one of two markers, which decides what a caller does:
`Retryable` (the same call may succeed later) or `Terminal` (it never will; change something first).
A message says what happened, to what, and what to do now. Bad rows of a batch are data (dead letters), not errors.
"""

from __future__ import annotations


class Retryable:
    """Marks an error after which the same call may succeed later."""


class Terminal:
    """Marks an error that the same call will always meet again."""


class CodedError(Exception):
    """What every root is: a message for people, a stable `code` for programs, and `details` as typed attributes."""

    code = "error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__["details"][name]
        except KeyError:
            raise AttributeError(name) from None


class MeteringError(CodedError):
    """The root of what metering raises."""

    code = "metering_error"


class BadEvent(MeteringError, Terminal):
    """A usage event that cannot be recorded. `reason` names the rule: bad_tenant, bad_quantity, bad_event_time..."""

    code = "bad_event"

    def __init__(self, reason: str, message: str, **details: object) -> None:
        super().__init__(message, **details)
        self.reason = reason


class UnknownMeter(MeteringError, Terminal):
    """The applied catalog has no such meter. Add it to `catalog/*.yaml` and apply, or correct the name."""

    code = "unknown_meter"


class JournalFull(MeteringError, Retryable):
    """The journal has no room. The event was not recorded."""

    code = "journal_full"


class NotYetDurable(MeteringError, Retryable):
    """The row is written and counts, but is not known to be on the disk. Retry `flush()`; recording again needs a key."""

    code = "not_yet_durable"


class JournalDamaged(MeteringError, Terminal):
    """A journal segment does not hold the bytes that were written. It is set aside, never deleted."""

    code = "journal_damaged"


class LakeDamaged(MeteringError, Terminal):
    """A data file of the lake has not the hash it was committed with, or the lake is not whole. Nothing is rated from it."""

    code = "lake_damaged"


class LakeUnavailable(MeteringError, Retryable):
    """The lake could not be reached or a commit lost its race too often. Nothing was deleted from the journal."""

    code = "lake_unavailable"


class BadEventFile(MeteringError, Terminal):
    """A file of usage events that cannot be imported: unreadable, cut short, or without the needed columns."""

    code = "bad_event_file"


class BadPeriod(MeteringError, Terminal):
    """A period, billing anchor or time zone that cannot be understood."""

    code = "bad_period"


class BadSelector(MeteringError, Terminal):
    """A question to usage that has no answer: parts that exclude each other, an aggregation that nobody knows."""

    code = "bad_selector"


class TooManyGroups(MeteringError, Terminal):
    """A selector found more groups than its `groups_max`. Raise the limit, or group by an attribute with fewer values."""

    code = "too_many_groups"
