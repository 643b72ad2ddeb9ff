"""Settings by file and by environment: the environment wins, what is wrong is named, and no secret is ever shown."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from metering.layout import Layout
from rating.errors import NotFound
from tallybook import Workspace
from tallybook.cli import app
from tallybook.cli_shell import State, exit_code_of, report
from tallybook.errors import BadSettings
from tallybook.runner import Runner
from tallybook.settings import Settings, load_settings
from tallybook.settings_shown import shown_settings

SECRETS = {
    "TALLYBOOK_BOOKS_URL": "postgresql+psycopg://clerk:p4ssw0rd-of-books@127.0.0.1:1/books",
    "TALLYBOOK_STRIPE_KEY": "sk_live_0123456789abcdef",
    "TALLYBOOK_ALERTS_SECRET": "whsec-of-the-alerts",
    "TALLYBOOK_ALERTS_WEBHOOK": "https://user:hook-pass@example.com/alerts?token=hook-token",
    "AWS_SECRET_ACCESS_KEY": "aws+secret/of+the+seller",
}
# A password may stand in the query of a URL, or be written with escapes; a driver shows either form.
QUERY = "postgresql+psycopg://clerk@127.0.0.1:1/books?password=p4ss%2Fin-the-query&sslmode=disable"
ESCAPED = "postgresql+psycopg://clerk:p4ss%40w0rd-escaped@127.0.0.1:1/books"
HIDDEN = ("p4ssw0rd-of-books", "sk_live_0123456789abcdef", "whsec-of-the-alerts", "hook-pass", "hook-token")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tallybook.toml").write_text("", encoding="utf-8")
    return tmp_path / "shop"


def settings_of(root: Path, text: str | None = None) -> Settings:
    if text is not None:
        (root / "tallybook.toml").write_text(text, encoding="utf-8")
    return load_settings(Layout.of(root))


def shown(root: Path) -> dict[str, tuple[str, str]]:
    return {one.name: (one.value, one.source) for one in shown_settings(Layout.of(root))}


def test_the_environment_wins_over_the_file_and_each_value_says_where_it_is_from(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYBOOK_RUN_GRACE_MINUTES", "60")
    monkeypatch.setenv("TALLYBOOK_RUN_FROM", "2026-10-01")
    monkeypatch.setenv("TALLYBOOK_RUN_STEPS", '{"alerts": "off"}')
    monkeypatch.setenv("TALLYBOOK_FILES_FORMATS", '["csv", "html"]')
    monkeypatch.setenv("TALLYBOOK_DELIVERY_AWS_MARKETPLACE", '{"from": "2026-11-02", "region": "us-east-1"}')
    monkeypatch.setenv("TALLYBOOK_ALERTS_WEBHOOK", "")
    told = (
        '[run]\ntimezone = "Europe/Berlin"\ngrace_minutes = 5\n[run.steps]\nship = "every 2 minutes"\n'
        '[alerts]\nwebhook = "https://example.com/a"\n[delivery.stripe]\nfrom = 2026-11-01\n'
    )
    settings = settings_of(root, told)
    assert (settings.run.grace_minutes, settings.run.timezone) == (60, "Europe/Berlin")
    assert settings.run.steps == {"alerts": "off", "ship": "every 2 minutes"}
    assert settings.delivery["aws_marketplace"]["region"] == "us-east-1"
    found = shown(root)
    assert found["run.grace_minutes"] == ("60", "TALLYBOOK_RUN_GRACE_MINUTES")
    assert found["run.from"] == ("2026-10-01", "TALLYBOOK_RUN_FROM")
    assert found["run.timezone"] == ("Europe/Berlin", "tallybook.toml")
    assert found["files.formats"] == ("csv, html", "TALLYBOOK_FILES_FORMATS")
    assert found["delivery.stripe.from"] == ("2026-11-01", "tallybook.toml")
    assert found["delivery.aws_marketplace.region"] == ("us-east-1", "TALLYBOOK_DELIVERY_AWS_MARKETPLACE")
    assert found["alerts.webhook"] == ("https://example.com/***", "tallybook.toml"), "an empty variable says nothing"
    assert found["books.url"] == ("sqlite:///books.sqlite", "default")


def test_settings_may_be_yaml_in_one_file(root: Path) -> None:
    (root / "tallybook.yaml").write_text("run: {grace_minutes: 7}\ndelivery: {stripe: {from: 2026-11-01}}\n")
    with pytest.raises(BadSettings, match="two files"):
        settings_of(root)
    (root / "tallybook.toml").unlink()
    Workspace.init(root).close()
    assert not (root / "tallybook.toml").exists(), "what is there stays"
    assert settings_of(root).run.grace_minutes == 7
    assert shown(root)["delivery.stripe.from"] == ("2026-11-01", "tallybook.yaml")
    (root / "tallybook.yaml").write_text("run: {grace_minutes: 7, grace_minutes: 8}\n")
    with pytest.raises(BadSettings, match=r"stands twice \(line 1"):
        settings_of(root)
    (root / "tallybook.yaml").unlink()
    with pytest.raises(NotFound, match="init"):
        settings_of(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[bokos]\n", "bokos"),
        ('[books]\nuri = "x"\n', r"books\.uri"),
        ("[books\n", "cannot be read"),
        ("[run]\ngrace_minutes = 'soon'\n", r"run\.grace_minutes"),
        ('[stripe]\nkey = "sk_live_0123456789abcdef"\n', "holds a secret"),
        ('[alerts]\nsecret = "whsec-of-the-alerts"\n', "holds a secret"),
        ('[books]\nurl = ["p4ssw0rd-of-books"]\n', r"books\.url"),
        ('[discount_authority]\npercent_max = "120"\n', r"discount_authority\.percent_max"),
        ("[discount_authority]\npercent_max = 0.5\n", "not exact"),
        ('[discount_authority.approvers.ana]\namount_max = {XXL = "5"}\n', r"approvers\.ana\.amount_max"),
        ('[discount_authority.approvers.""]\npercent_max = "5"\n', r"discount_authority\.approvers"),
    ],
)
def test_what_is_wrong_is_named_and_not_shown(root: Path, text: str, said: str) -> None:
    with pytest.raises(BadSettings, match=said) as refused:
        settings_of(root, text)
    shown = "".join(traceback.format_exception(refused.value))
    assert not any(secret in shown for secret in HIDDEN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe[run]", "not written in UTF-8"),
        (b"[run]\nsteps = {ship = 5}\n", r"run\.steps\.ship"),
        (b"[run.steps]\nrating = 'off'\n", "there is no step 'rating'; the steps are ship"),
    ],
)
def test_a_file_that_cannot_be_read_is_bad_input(root: Path, text: bytes, said: str) -> None:
    (root / "tallybook.toml").write_bytes(text)
    with pytest.raises(BadSettings, match=said):
        load_settings(Layout.of(root))


def test_a_folder_is_no_file_and_a_mark_of_the_encoding_is_no_text(root: Path) -> None:
    (root / "tallybook.toml").write_bytes(b"\xef\xbb\xbf[run]\ngrace_minutes = 4\n")
    assert load_settings(Layout.of(root)).run.grace_minutes == 4
    (root / "tallybook.toml").unlink()
    (root / "tallybook.toml").mkdir()
    with pytest.raises(BadSettings, match="Is a directory"):
        load_settings(Layout.of(root))


@pytest.mark.parametrize("text", ["books: {url: *hunter2-secret}", "books: {url: !hunter2-secret x}"])
def test_what_yaml_refuses_is_not_repeated(root: Path, text: str) -> None:
    (root / "tallybook.toml").unlink()
    (root / "tallybook.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadSettings, match=r"\.\.\. \(line 1") as refused:
        load_settings(Layout.of(root))
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//clerk:hunter2-secret@127.0.0.1/books",
        "postgresql+psycopg://clerk:hunter2-secret@127.0.0.1:port/books",
        "mysql://clerk:hunter2-secret@127.0.0.1/books",
    ],
)
def test_a_url_that_is_none_of_books_is_bad_input_and_not_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("TALLYBOOK_BOOKS_URL", url)
    result = CliRunner().invoke(app, ["-w", str(root), "steps"])
    assert isinstance(result.exception, BadSettings)
    assert exit_code_of(result.exception) == 2
    said = result.exception.message + load_settings(Layout.of(root)).without_secrets(f"tried {url}")
    assert "write sqlite:///path or postgresql+psycopg://" in said
    assert "hunter2" not in said


def test_a_variable_whose_section_is_none_is_refused_but_those_of_kubernetes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A service called tallybook, and one called tallybook-run, are told to every container of the namespace.
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8321_TCP", "PORT_8321_TCP_ADDR"):
        monkeypatch.setenv(f"TALLYBOOK_{name}", "tcp://10.0.0.1:8321")
        monkeypatch.setenv(f"TALLYBOOK_RUN_{name}", "tcp://10.0.0.1:8321")
    monkeypatch.setenv("TALLYBOOK_WORKSPACE", str(root))
    assert settings_of(root).run.grace_minutes == 180
    monkeypatch.setenv("TALLYBOOK_RNU_FROM", "2026-10-01")
    with pytest.raises(
        BadSettings, match="TALLYBOOK_RNU_FROM is no setting; write TALLYBOOK_SECTION_NAME, with one of"
    ):
        settings_of(root)


def test_a_variable_that_is_no_setting_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_RUN_GRACE", "60")
    with pytest.raises(BadSettings, match=r"run\.grace"):
        settings_of(root)
    monkeypatch.delenv("TALLYBOOK_RUN_GRACE")
    monkeypatch.setenv("TALLYBOOK_RUN_STEPS", "sk_live_0123456789abcdef")
    with pytest.raises(BadSettings, match="run") as refused:
        settings_of(root)
    assert "sk_live" not in "".join(traceback.format_exception(refused.value))


def test_no_secret_is_shown_anywhere(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    (root / "tallybook.toml").write_text('[delivery.stripe]\nfrom = 2026-11-01\napi_token = "hook-token"\n')
    settings = load_settings(Layout.of(root))
    said = [
        repr(settings),
        str(settings),
        settings.model_dump_json(exclude={"delivery"}),
        repr(settings.alerts),
    ]
    for words in (
        ["settings"],
        ["settings", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["steps"],
        ["ship", "--json"],
    ):
        result = CliRunner().invoke(app, ["-w", str(root), *words])
        said += [result.output, "".join(traceback.format_exception(result.exception)) if result.exception else ""]
    said += [settings.without_secrets(f"{name} is {value}") for name, value in SECRETS.items()]
    said += [record.getMessage() for record in caplog.records]
    assert any("postgresql" in one for one in said), "it was looked at"
    for secret in (*HIDDEN, "aws+secret/of+the+seller"):
        assert not [one for one in said if secret in one], secret


def test_a_section_that_is_missing_is_named(root: Path) -> None:
    """In brackets, as it is written in the file: the console takes nothing in them for markup."""
    Workspace.init(root).close()
    result = CliRunner().invoke(app, ["-w", str(root), "deliver"])
    assert result.exit_code == 0
    assert "add a section [delivery.stripe] to tallybook.toml" in result.stderr
    assert "[[waivers]] of the settings" in CliRunner().invoke(app, ["-w", str(root), "findings", "waivers"]).stderr
    result = CliRunner().invoke(app, ["-w", str(root), "provider", "read", "stripe", "-p", "2026-10"])
    assert isinstance(result.exception, BadSettings)
    assert "there is no section [delivery.stripe] in the settings; there are none" in result.exception.message


def test_an_address_that_is_a_secret_itself_and_logins_of_sections_are_hidden(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TALLYBOOK_ALERTS_WEBHOOK", "https://hooks.example.com/services/T0001/B0002/kZ9wXq3nUv7rTs1p")
    section = '[delivery.stripe]\nfrom = 2026-11-01\naddress = "https://clerk:pa55-of-stripe@127.0.0.1:1/"\n'
    settings = settings_of(root, section)
    assert shown(root)["alerts.webhook"][0] == "https://hooks.example.com/***"
    assert shown(root)["delivery.stripe.address"][0] == "https://***@127.0.0.1:1/"
    told = "POST https://hooks.example.com/services/T0001/B0002/kZ9wXq3nUv7rTs1p and https://clerk:pa55-of-stripe@127.0.0.1:1/"
    said = settings.without_secrets(told)
    State.root = root
    report(RuntimeError(told))
    said += capsys.readouterr().err
    assert "hooks.example.com" in said
    assert not [one for one in ("kZ9wXq3nUv7rTs1p", "B0002", "pa55-of-stripe") if one in said]


@pytest.mark.parametrize(("url", "secret"), [(QUERY, "in-the-query"), (ESCAPED, "w0rd-escaped")])
def test_a_password_is_hidden_wherever_the_url_has_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, secret: str
) -> None:
    monkeypatch.setenv("TALLYBOOK_BOOKS_URL", url)
    assert "127.0.0.1" in shown(root)["books.url"][0]
    asked = (["settings"], ["doctor", "--json"], ["steps"])
    said = [str(shown(root)), *(CliRunner().invoke(app, ["-w", str(root), *words]).output for words in asked)]
    settings = load_settings(Layout.of(root))
    password = unquote(url.partition("password=")[2].partition("&")[0] or url.partition("clerk:")[2].partition("@")[0])
    said += [settings.without_secrets(one) for one in (url, f"password {password} is wrong")]
    # What nobody foresaw is told with its trace, and without them.
    State.root = root
    for error in (RuntimeError(f"{password} was refused"), BadSettings(f"{url} is wrong")):
        try:
            raise error
        except (RuntimeError, BadSettings) as raised:
            report(raised)
    (root / "tallybook.toml").write_text("[nothing]\n", encoding="utf-8")
    report(RuntimeError(f"{password} was refused, and the settings cannot be read"))
    said.append(capsys.readouterr().err)
    assert "was refused" in said[-1]
    assert not [one for one in said if secret in one or password in one]


def test_what_a_step_says_of_a_secret_is_not_written_down(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("No such key: sk_live_0123456789abcdef")

    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", SECRETS["TALLYBOOK_STRIPE_KEY"])
    with Workspace.init(root) as workspace:
        monkeypatch.setattr(workspace, "ship", broken)
        (run,) = Runner(workspace, only=["ship"]).run_due()
        assert run.detail == "RuntimeError: No such key: ***"
    assert "sk_live" not in json.dumps(json.loads(CliRunner().invoke(app, ["-w", str(root), "runs", "--json"]).stdout))
