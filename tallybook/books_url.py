"""The URL of the books: read, and shown without what is secret in it.

Enters: text of the settings. Leaves: a URL of SQLAlchemy; text for people. Refuses: what is no URL, without repeating it.
"""

from __future__ import annotations

from urllib.parse import quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tallybook.errors import BadSettings
from tallybook.hiding import HIDDEN, is_secret

BOOKS_URLS = "sqlite:///path or postgresql+psycopg://user@host/database"


def parse_books_url(url: str | URL) -> URL:
    """Return the URL of books. Raises BadSettings for what is none, without showing it: it may hold a password."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise BadSettings(f"the URL of the books cannot be read; write {BOOKS_URLS}") from None


def shown_url(url: str) -> str:
    """Return a URL of the books without its password, and without what its query names as a secret."""
    parsed = make_url(url)
    text = parsed.render_as_string(hide_password=True)
    for name, value in parsed.query.items():
        for one in (value,) if isinstance(value, str) else value:
            if is_secret(name):
                text = text.replace(f"{quote_plus(name)}={quote_plus(one)}", f"{quote_plus(name)}={HIDDEN}")
    return text
