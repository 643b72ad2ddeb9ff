"""The errors of tallybook, drawn as a tree.

    TallybookError
    ├── BadSettings   Terminal   tallybook.toml or an environment variable is not right
    └── BooksTooNew   Terminal   a newer release wrote these books

All other errors belong to the package that does the work: metering, entitlements, rating, billing_adapters.
"""

from __future__ import annotations

from metering.errors import CodedError, Terminal


class TallybookError(CodedError):
    """The root of what tallybook itself raises."""

    code = "tallybook_error"


class BadSettings(TallybookError, Terminal):
    """The settings cannot be used. Correct the file or the variable that the message names."""

    code = "bad_settings"


class BooksTooNew(TallybookError, Terminal):
    """The books were written by a newer release. Install that one, or a newer one still."""

    code = "books_too_new"
