"""The errors of rating, drawn as a tree.

    RatingError
    ├── CatalogInvalid      Terminal   catalog files with mistakes; all of them, each with file, line and path
    ├── PlanVersionChanged  Terminal   terms that a subscription already uses would change or vanish
    ├── AmountOverflow      Terminal   an amount does not fit the exact decimals that money is kept in
    ├── UsageUnpriced       Terminal   a price takes use that it has no amount for; nothing was booked
    ├── InvariantViolated   Terminal   something that must always hold does not; nothing was booked
    ├── NotFound            Terminal   no such invoice, account, plan version, period or revision in the books
    ├── AlreadyFinal        Terminal   a final invoice or a closed period cannot be changed
    └── BooksUnavailable    Retryable  the books could not be read or written just now

Every error has a stable `code`, typed attributes, and one of two markers of `metering.errors`: `Retryable` (the same
call may succeed later) or `Terminal` (it never will; change something first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.errors import CodedError, Retryable, Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metering.catalog import Mistake


class RatingError(CodedError):
    """The root of what rating raises."""

    code = "rating_error"


class CatalogInvalid(RatingError, Terminal):
    """The catalog files have mistakes; nothing was applied. `mistakes` lists every one of every file."""

    code = "catalog_invalid"

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


class PlanVersionChanged(RatingError, Terminal):
    """Terms in use would change: a used plan version, the aggregation of a meter in use, a deleted subscription.

    `changes` lists each as a sentence. Nothing was applied. Write a new version of the plan instead.
    """

    code = "plan_version_changed"

    def __init__(self, changes: Sequence[str]) -> None:
        super().__init__("\n".join(changes))
        self.changes = tuple(changes)


class AmountOverflow(RatingError, Terminal):
    """An amount does not fit. Nothing was booked; look for a quantity or a unit price in the wrong unit."""

    code = "amount_overflow"


class UsageUnpriced(RatingError, Terminal):
    """A price takes use that it has no amount for: a cell that a matrix does not name, an event without a readable price.

    Nothing was booked, because it would have been free by oversight. Give the price a default, or what is missing.
    """

    code = "usage_unpriced"


class InvariantViolated(RatingError, Terminal):
    """Something that must always hold does not. Nothing was booked; it is a defect or damaged data."""

    code = "invariant_violated"


class NotFound(RatingError, Terminal):
    """The books hold no such thing."""

    code = "not_found"


class AlreadyFinal(RatingError, Terminal):
    """What is final stays as it is; correct it by a credit note or a supplementary invoice."""

    code = "already_final"


class BooksUnavailable(RatingError, Retryable):
    """The books could not be read or written just now. Nothing was half done; the same call may be made again."""

    code = "books_unavailable"
