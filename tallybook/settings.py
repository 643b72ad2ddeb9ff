"""What a workspace is told: where its books are, what runs by itself, whom to deliver to and whom to alert.

Enters: `tallybook.toml` (or `tallybook.yaml`) in the workspace, then environment variables, which win: `TALLYBOOK_SECTION_NAME`,
as `TALLYBOOK_BOOKS_URL`; tables are JSON there. Leaves: frozen settings. Refuses: unknown keys, secrets in the file, and to
print a secret: whatever shows settings, errors among them, shows `***` in its place.

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
    [list_prices.gpu_hours]               # one section per meter that no plan sells: what a unit of it is worth
    unit_price = "0.02"
    currency = "USD"
    [reconciliation]
    floor = "5"                           # findings that are likely worth less are told in one line per control
    [discount_authority]                  # what anybody may give away; one section below it per person who may approve more
    percent_max = "10"
    [discount_authority.approvers.ana]
    percent_max = "30"
    amount_max = {USD = "500"}            # of discounts that are money, per billing period
    [[waivers]]                           # findings that are not to be chased, one such section for each
    control = "NO_SUBSCRIPTION"
    tenant = "acme"
    why = "trial, extended by sales"
    amount_max = "50"
    currency = "USD"
    until = 2026-12-31
    who = "ben"
    approved_by = "ana"
    [run]
    grace_minutes = 180                   # what `tallybook run` does, and when; TALLYBOOK_RUN_GRACE_MINUTES
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from billing_adapters.file_adapter.columns import Format
from entitlements.webhook import Webhook
from metering.errors import CodedError
from metering.periods import zone
from rating.catalog_times import Currency
from rating.errors import NotFound
from tallybook.books_url import parse_books_url
from tallybook.errors import BadSettings
from tallybook.hiding import hide, is_secret, secrets_around, secrets_of_url
from tallybook.steps import BY_NAME
from tallybook.triggers import Every, parse_trigger

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import URL

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
# usage_detail = true

# [run]
# What `tallybook run` does by itself, and when; `tallybook steps` lists the steps.
# from = 2026-11-01
# timezone = "Europe/Berlin"
# grace_minutes = 180
"""


PREFIX = "TALLYBOOK_"
# What others read: where the workspace is, and which instance of a marketplace this is.
NO_SETTINGS = frozenset({"TALLYBOOK_WORKSPACE", "TALLYBOOK_INSTANCE"})
# What Kubernetes puts into every container for a service that is called tallybook, or tallybook-run.
_OF_KUBERNETES = re.compile(r"TALLYBOOK(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_\w+)?)", re.IGNORECASE)
# A part of a path that is so long was made up, not named.
GUESSED_NEVER = 16
# What a YAML error quotes of the file may be a secret; a character may be said.
_QUOTED = re.compile(r"'[^']{3,}'")


class _Section(BaseModel):
    # An error that shows what it refuses would show a secret that stands in the wrong place.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BooksSettings(_Section):
    """Where the books are kept. A URL may hold a password."""

    url: SecretStr = SecretStr("sqlite:///books.sqlite")


class AlertSettings(_Section):
    """Where alerts are posted, and what signs them (from the environment alone). A URL may hold a password or a token."""

    webhook: SecretStr | None = None
    secret: SecretStr | None = None


class StripeKey(_Section):
    """The secret key of Stripe, from the environment alone; the adapters read it there."""

    key: SecretStr | None = None


class FileSettings(_Section):
    """In which formats runs are published, and whether every usage event is listed (a file as large as the usage itself)."""

    formats: tuple[Format, ...] = Field(default=tuple(Format), min_length=1)
    usage_detail: bool = False


def _no_float(given: object) -> object:
    if isinstance(given, float):
        raise ValueError('a number with a point is not exact in TOML; write it as text, such as "0.02"')
    return given


ExactNumber = Annotated[Decimal, BeforeValidator(_no_float), Field(ge=0, max_digits=24, decimal_places=12)]


class ListPrice(_Section):
    """What a unit of a meter is listed at, where no plan says so: money at stake of what nobody sells yet."""

    unit_price: ExactNumber
    currency: Currency


class ReconciliationSettings(_Section):
    """What is looked at one by one: findings that are likely worth `floor` or more, in their own currency."""

    floor: ExactNumber = Decimal(0)


class Authority(_Section):
    """How much may be given away: percent of what a plan asks for, and money per billing period, by currency."""

    percent_max: Annotated[ExactNumber, Field(le=100, decimal_places=6)] = Decimal(0)
    amount_max: dict[Currency, ExactNumber] = Field(default_factory=dict)


class DiscountAuthority(Authority):
    """What anybody may give away without approval, and who may approve how much."""

    approvers: dict[Annotated[str, Field(min_length=1)], Authority] = Field(default_factory=dict)


Named = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class DeclaredWaiver(_Section):
    """Findings of a control that are not to be chased: which, why, up to how much together, until when, and who says so."""

    control: Named
    tenant: Named | None = None
    meter: Named | None = None
    reason: Named | None = None
    why: Named
    amount_max: ExactNumber | None = None
    currency: Currency | None = None
    quantity_max: ExactNumber | None = None
    until: date
    who: Named
    approved_by: Named

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.amount_max is None and self.quantity_max is None:
            raise ValueError("a waiver has a ceiling; write amount_max and currency, or quantity_max")
        if (self.amount_max is None) != (self.currency is None):
            raise ValueError("amount_max and currency belong together; write both")
        if self.who.casefold() == self.approved_by.casefold():
            raise ValueError(f"{self.who} cannot approve a waiver of their own; another person must")
        return self

    @property
    def expires_at(self) -> datetime:
        """Return the midnight in UTC with which it is over."""
        return datetime.combine(self.until, time(), UTC)


class RunSettings(_Section):
    """What runs by itself, and when. `from`: months and hours before it are not ours; by default those before the first run."""

    model_config = ConfigDict(populate_by_name=True)

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


class Settings(BaseSettings):
    """All settings of a workspace."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    books: BooksSettings = Field(default_factory=BooksSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    # What a section may hold is the adapter's to say.
    delivery: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)
    stripe: StripeKey = Field(default_factory=StripeKey)
    files: FileSettings = Field(default_factory=FileSettings)
    # By control, what its settings are here. Which there are is said by the heads of the controls.
    controls: dict[str, dict[str, Any]] = Field(default_factory=dict)
    # By meter.
    list_prices: dict[str, ListPrice] = Field(default_factory=dict)
    reconciliation: ReconciliationSettings = Field(default_factory=ReconciliationSettings)
    waivers: tuple[DeclaredWaiver, ...] = ()
    # None: nobody said who may give away what, and nothing is compared.
    discount_authority: DiscountAuthority | None = None
    run: RunSettings = Field(default_factory=RunSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the signature is pydantic's)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over what the file says, which is given as arguments."""
        if isinstance(env_settings, EnvSettingsSource):
            said = env_settings.env_vars.items()
            env_settings.env_vars = {name: value for name, value in said if not _OF_KUBERNETES.fullmatch(name)}
        return env_settings, init_settings

    def webhook(self) -> Webhook | None:
        """Return who receives alerts. None: nobody was named. Raises BadSettings without a secret to sign with."""
        if self.alerts.webhook is None:
            return None
        if self.alerts.secret is None:
            raise BadSettings("alerts are posted signed; put the secret of the webhook into TALLYBOOK_ALERTS_SECRET")
        try:
            return Webhook(self.alerts.webhook.get_secret_value(), secret=self.alerts.secret.get_secret_value().encode)
        except ValueError as refused:
            raise BadSettings(f"the webhook of alerts cannot be used: {refused}") from refused

    def without_secrets(self, text: str) -> str:
        """Return a text in which every secret of these settings, and of the environment, stands as `***`."""
        kept = {one.get_secret_value() for one in (self.alerts.secret, self.stripe.key) if one is not None}
        webhook = "" if self.alerts.webhook is None else self.alerts.webhook.get_secret_value()
        told = [pair for section in self.delivery.values() for pair in section.items() if isinstance(pair[1], str)]
        named = {value for name, value in told if is_secret(name)}
        urls = [self.books.url.get_secret_value(), webhook, *(value for _, value in told if "://" in value)]
        # Who knows the path of such an address may post to it, where it was made to be hard to guess.
        parts = urlsplit(webhook)
        paths = {parts.path} if any(len(one) >= GUESSED_NEVER for one in parts.path.split("/")) else set()
        return hide(text, {*kept, *named, *paths, parts.query, *secrets_around()}.union(*map(secrets_of_url, urls)))

    def _books_url(self) -> URL:
        return parse_books_url(self.books.url.get_secret_value())

    def books_url(self, layout: Layout) -> str:
        """Return the books' URL; a relative SQLite path is relative to the workspace, not to the current folder."""
        url = self._books_url()
        if url.get_backend_name() == "sqlite" and url.database:
            url = url.set(database=str(layout.root / url.database))
        return url.render_as_string(hide_password=False)


def load_settings(layout: Layout) -> Settings:
    """Return the settings of a workspace. Raises NotFound where there is none, BadSettings for a file that is not right."""
    path, told = read_file(layout)
    _refuse_unknown_variables()
    if "stripe" in told or "secret" in (told.get("alerts") or {}):
        raise BadSettings(
            f"{path} holds a secret; take it out, and put it into TALLYBOOK_STRIPE_KEY or TALLYBOOK_ALERTS_SECRET"
        )
    try:
        return Settings(**told)
    except (ValidationError, SettingsError, TypeError) as error:
        raise BadSettings(f"{path}, or a variable {PREFIX}..., cannot be used: {error}") from None


def read_file(layout: Layout) -> tuple[Path, dict[str, Any]]:
    """Return the settings file of a workspace and what it says. Raises NotFound, BadSettings."""
    there = [path for path in (layout.settings_file, layout.settings_yaml) if path.exists()]
    if not there:
        raise NotFound(f"there is no workspace at {layout.root}; make one with `tallybook -w {layout.root} init`")
    if len(there) > 1:
        raise BadSettings(f"there are two files of settings, {there[0].name} and {there[1].name}; remove one")
    (path,) = there
    try:
        # Some editors begin a file with a mark of its encoding.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = "it is not written in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise BadSettings(f"{path} cannot be read: {what}") from None
    try:
        told = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, Loader=_Yaml)  # noqa: S506 (is safe)
    except (tomllib.TOMLDecodeError, yaml.MarkedYAMLError) as error:
        # The mark of a YAML error shows the line, and the line may hold a password.
        where = str(error)
        if isinstance(error, yaml.MarkedYAMLError):
            where = f"{_QUOTED.sub('...', error.problem or '')} {_place(error)}"
        raise BadSettings(f"{path} cannot be read: {where}") from None
    if not isinstance(told or {}, dict):
        raise BadSettings(f"{path} cannot be read: write sections, as `books:`")
    return path, told or {}


def _refuse_unknown_variables() -> None:
    """Raise BadSettings for a variable of ours that is in no section: with a letter wrong it would say nothing, silently."""
    sections = tuple(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)
    for name in map(str.upper, os.environ):
        is_ours = name.startswith(PREFIX) and name not in NO_SETTINGS and not _OF_KUBERNETES.fullmatch(name)
        if is_ours and not any(name == one or name.startswith(f"{one}_") for one in sections):
            known = ", ".join(Settings.model_fields)
            raise BadSettings(f"the variable {name} is no setting; write {PREFIX}SECTION_NAME, with one of {known}")


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return "" if mark is None else f"(line {mark.line + 1}, column {mark.column + 1})"


class _Yaml(yaml.SafeLoader):
    """YAML that refuses a key that stands twice, as TOML does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        made = super().construct_mapping(node, deep=deep)
        if len(made) != len(node.value):
            raise yaml.MarkedYAMLError(problem="a key stands twice", problem_mark=node.start_mark)
        return made
