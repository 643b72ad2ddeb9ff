"""What is a secret, and how a text is told without it.

Enters: names, URLs, the environment, a text. Leaves: the secrets in them; the text with `***` in the place of each. Refuses: to
hide what is so short that words would be torn apart, and that protects nothing. What is no URL is a secret as a whole.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "***"
SECRET_CHARACTERS_MIN = 6
# Names of environment variables, and of keys, that hold secrets.
_SECRET_NAME = re.compile(
    r"(^|[_-])((api|access|secret|private)?key|secret|token|password|passwd|passphrase|pwd|credential|authorization|bearer|"
    r"dsn)s?($|[_-])",
    re.IGNORECASE,
)
_OURS = ("TALLYBOOK_", "AWS_", "STRIPE_")
# These hold a secret where a password or a token is part of them.
_URLS = ("TALLYBOOK_BOOKS_URL", "TALLYBOOK_ALERTS_WEBHOOK")


def is_secret(name: str) -> bool:
    """Return whether a variable, or a key of a section, holds a secret, by its name."""
    return _SECRET_NAME.search(name) is not None


def secrets_of_url(url: str) -> set[str]:
    """Return the password of a URL, and the values of its query that are named like secrets, as written and as meant."""
    try:
        address = urlsplit(url)
    except ValueError:
        return {url}
    if url and (not address.scheme or "://" not in url):
        return {url}
    # Whatever stands between the first colon and the last @ of the address; it may hold an @ or a slash of its own.
    _, _, rest = url.partition("://")
    login, has_login, _ = rest.rpartition("@")
    _, _, password = login.partition(":")
    query = [value for name, value in parse_qsl(address.query) if is_secret(name)]
    written = {password if has_login else "", *query}
    return {form for one in written for form in (one, unquote(one), quote(unquote(one), safe=""), quote_plus(one))}


def secrets_around() -> set[str]:
    """Return the secrets of the environment: those of ours, of AWS and of Stripe."""
    said = dict(os.environ)
    named = {value for name, value in said.items() if name.upper().startswith(_OURS) and is_secret(name)}
    return named.union(*(secrets_of_url(said.get(name, "")) for name in _URLS))


def hide(text: str, found: Iterable[str]) -> str:
    """Return a text in which each of the secrets stands as `***`."""
    # The longest first: one may be a part of another.
    for one in sorted((one for one in set(found) if len(one) >= SECRET_CHARACTERS_MIN), key=len, reverse=True):
        text = text.replace(one, HIDDEN)
    return text
