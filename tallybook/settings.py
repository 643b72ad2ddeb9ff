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
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import make_url

from billing_adapters.file_adapter.columns import Format
from entitlements.webhook import Webhook
from rating.errors import NotFound
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from metering.layout import Layout

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


class Settings(_Section):
    """All settings of a workspace."""

    books: BooksSettings = Field(default_factory=BooksSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    # What a section may hold is the adapter's to say.
    delivery: dict[str, dict[str, Any]] = Field(default_factory=dict)
    files: FileSettings = Field(default_factory=FileSettings)
    # By control, what its settings are here. Which there are is said by the heads of the controls.
    controls: dict[str, dict[str, Any]] = Field(default_factory=dict)

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

    def books_url(self, layout: Layout) -> str:
        """Return the books' URL; a relative SQLite path is relative to the workspace, not to the current folder."""
        url = make_url(os.environ.get("TALLYBOOK_BOOKS_URL", self.books.url))
        if url.get_backend_name() == "sqlite" and url.database:
            url = url.set(database=str(layout.root / url.database))
        return url.render_as_string(hide_password=False)


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
