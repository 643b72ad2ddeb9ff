"""What a workspace is told: where its books and its lake are.

Enters: `tallybook.toml` in the workspace, then environment variables, which win. Leaves: frozen settings.
Refuses: unknown keys, and to print a password.

    [books]
    url = "sqlite:///books.sqlite"        # or postgresql+psycopg://user@host/books;  TALLYBOOK_BOOKS_URL
    [alerts]
    webhook = "https://example.com/alerts"  # TALLYBOOK_ALERTS_WEBHOOK; its secret in TALLYBOOK_ALERTS_SECRET alone
    [delivery.stripe]                     # one section per adapter; its secrets are in the environment alone
    from = 2026-11-01                     # invoices issued on this day or later
    [files]
    formats = ["csv", "parquet"]          # what a published run consists of; by default all
    [controls.DEAD_LETTER_AGED]           # one section per control whose thresholds are other ones here
    age_max_days = 3
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy.engine import make_url

from billing_adapters.file_adapter.columns import Format
from entitlements.webhook import Webhook
from metering.errors import CodedError
from metering.periods import zone
from rating.errors import NotFound
from tallybook.errors import BadSettings
from tallybook.steps import BY_NAME
from tallybook.triggers import Every, parse_trigger

if TYPE_CHECKING:
    from metering.layout import Layout
    from tallybook.triggers import Trigger

DEFAULT_SETTINGS = """\
# Settings of this Tallybook workspace. Environment variables win over this file.

[books]
# SQLite in this folder, or PostgreSQL: postgresql+psycopg://user:password@host/database  (TALLYBOOK_BOOKS_URL)
url = "sqlite:///books.sqlite"

# [alerts]
# Where `tallybook alerts` posts (TALLYBOOK_ALERTS_WEBHOOK). What signs them is in TALLYBOOK_ALERTS_SECRET, never here.
# webhook = "https://example.com/alerts"

# [delivery.stripe]
# Where `tallybook deliver` sends final invoices issued on this day or later. The key is in TALLYBOOK_STRIPE_KEY, never here.
# from = 2026-11-01

# [files]
# What a published run consists of. By default all formats.
# formats = ["csv", "jsonl", "parquet", "xlsx", "html"]
"""


# Names of environment variables, and of keys, that hold secrets.
_SECRET_NAME = re.compile(r"(^|_)(key|secret|token|password|passwd|credentials?)s?($|_)", re.IGNORECASE)
SECRET_CHARACTERS_MIN = 6


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BooksSettings(_Section):
    """Where the books are kept."""

    url: str = "sqlite:///books.sqlite"


class AlertSettings(_Section):
    """Where alerts are posted."""

    webhook: str | None = None


class FileSettings(_Section):
    """In which formats runs are published."""

    formats: tuple[Format, ...] = Field(default=tuple(Format), min_length=1)


class RunSettings(_Section):
    """What runs by itself, and when. `from`: months and hours before it are not ours; by default those before the first run."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    since: date | None = Field(default=None, alias="from")
    timezone: str = "UTC"
    grace_minutes: int = Field(default=180, ge=0, le=40_320)
    steps: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, words in self.steps.items():
            if name not in BY_NAME:
                raise ValueError(f"there is no step {name!r}; the steps are {', '.join(BY_NAME)}")
            if BY_NAME[name].grain != "pass" and words != "off":
                raise ValueError(f"{name} is done for one {BY_NAME[name].grain} after the other; it can only be off")
        try:
            zone(self.timezone)
            for name in self.steps:
                self.trigger_of(name)
        except CodedError as refused:
            raise ValueError(refused.message) from refused
        return self

    def is_off(self, step: str) -> bool:
        """Return whether a step does not run by itself."""
        return self.steps.get(step, BY_NAME[step].trigger) == "off"

    def trigger_of(self, step: str) -> Trigger | None:
        """Return when a pass runs; of hours and months, when they are looked at. None: never."""
        if self.is_off(step):
            return None
        if BY_NAME[step].grain != "pass":
            return Every(timedelta(minutes=1))
        return parse_trigger(self.steps.get(step, BY_NAME[step].trigger), self.timezone)


class Settings(_Section):
    """All settings of a workspace."""

    books: BooksSettings = Field(default_factory=BooksSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    # What a section may hold is the adapter's to say.
    delivery: dict[str, dict[str, Any]] = Field(default_factory=dict)
    files: FileSettings = Field(default_factory=FileSettings)
    # By control, what its settings are here. Which there are is said by the heads of the controls.
    controls: dict[str, dict[str, Any]] = Field(default_factory=dict)
    run: RunSettings = Field(default_factory=RunSettings)

    def webhook(self) -> Webhook | None:
        """Return who receives alerts. None: nobody was named. Raises BadSettings without a secret to sign with."""
        url = os.environ.get("TALLYBOOK_ALERTS_WEBHOOK", self.alerts.webhook)
        if not url:
            return None
        secret = os.environ.get("TALLYBOOK_ALERTS_SECRET")
        if not secret:
            raise BadSettings("alerts are posted signed; put the secret of the webhook into TALLYBOOK_ALERTS_SECRET")
        try:
            return Webhook(url, secret=secret.encode)
        except ValueError as refused:
            raise BadSettings(f"the webhook of alerts cannot be used: {refused}") from refused

    def without_secrets(self, text: str) -> str:
        """Return a text in which every secret of these settings stands as `***`."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> list[str]:
        password = make_url(os.environ.get("TALLYBOOK_BOOKS_URL", self.books.url)).password
        named = [value for name, value in os.environ.items() if _is_secret(name)]
        # A short one would tear words apart, and protects nothing.
        return [one for one in [str(password or ""), *named] if len(one) >= SECRET_CHARACTERS_MIN]

    def books_url(self, layout: Layout) -> str:
        """Return the books' URL; a relative SQLite path is relative to the workspace, not to the current folder."""
        url = make_url(os.environ.get("TALLYBOOK_BOOKS_URL", self.books.url))
        if url.get_backend_name() == "sqlite" and url.database:
            url = url.set(database=str(layout.root / url.database))
        return url.render_as_string(hide_password=False)


def _is_secret(name: str) -> bool:
    return name.startswith(("TALLYBOOK_", "AWS_", "STRIPE_")) and _SECRET_NAME.search(name) is not None


def load_settings(layout: Layout) -> Settings:
    """Return the settings of a workspace. Raises NotFound where there is none, BadSettings for a file that is not right."""
    try:
        text = layout.settings_file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no workspace at {layout.root}; make one with `tallybook -w {layout.root} init`"
        ) from error
    try:
        return Settings.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise BadSettings(f"{layout.settings_file} cannot be read: {error}") from error
