"""The settings as an operator reads them: every value that is in force, and where it comes from.

Enters: the layout of a workspace. Leaves: one row per setting. Refuses: to show a secret: what a variable or a key names as
one is `***`, and a URL is shown without its user, its password and its query.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from tallybook.books_url import shown_url
from tallybook.hiding import HIDDEN, is_secret
from tallybook.settings import PREFIX, load_settings, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metering.layout import Layout

# Of a URL, whatever stands before the last @, and whatever follows the first question mark.
_USER = re.compile(r"://.*@")
_QUERY = re.compile(r"\?.*")


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting: its name with dots, its value as text, and its source: a variable, the file, or `default`."""

    name: str
    value: str
    source: str


def shown_settings(layout: Layout) -> list[Shown]:
    """Return all settings in force, in the order of their names. Raises NotFound, BadSettings."""
    settings = load_settings(layout)
    path, told = read_file(layout)
    return sorted(
        (
            Shown(".".join(name), _text(".".join(name), value), _source(name, told, path.name))
            for name, value in _flat((), settings)
        ),
        key=lambda one: one.name,
    )


def _flat(name: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, BaseModel):
        for field, about in type(value).model_fields.items():
            yield from _flat((*name, about.alias or field), getattr(value, field))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat((*name, str(key)), inner)
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for number, inner in enumerate(value):
            yield from _flat((*name, str(number)), inner)
    else:
        yield name, value


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    text = str(value.get_secret_value() if isinstance(value, SecretStr) else value)
    if name == "books.url":
        return shown_url(text)
    if name != "alerts.webhook" and (isinstance(value, SecretStr) or is_secret(name.rpartition(".")[2])):
        return HIDDEN
    if name == "alerts.webhook":
        # The address itself may be the secret: of it the host is shown.
        address = urlsplit(text)
        return f"{address.scheme}://{address.netloc.rpartition('@')[2]}/{HIDDEN}"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return _QUERY.sub(f"?{HIDDEN}", _USER.sub(f"://{HIDDEN}@", text)) if "://" in text else text


def _source(name: tuple[str, ...], told: Mapping[str, Any], file: str) -> str:
    names = {variable.upper(): variable for variable, value in os.environ.items() if value}
    section, rest = name[0], name[1:]
    # The whole section as JSON, or one of its names: the nearer one wins.
    for variable in (f"{PREFIX}{section}_{rest[0]}" if rest else "", f"{PREFIX}{section}"):
        if found := names.get(variable.upper()):
            return found
    inner: Any = told
    for part in name:
        if isinstance(inner, list):
            inner = inner[int(part)]
        elif isinstance(inner, Mapping) and part in inner:
            inner = inner[part]
        else:
            return "default"
    return file
