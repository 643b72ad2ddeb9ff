"""`tallybook alerts`: what rules of the catalog reach is raised once per crossing, and delivered at least once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from entitlements.alerts import Alert
from metering.clock import FixedClock
from rating.errors import CatalogInvalid
from tallybook import Workspace
from tallybook.cli import app
from tallybook.errors import BadSettings

CATALOG = """
meters:
  - {name: tokens}
  - {name: disk, aggregation: max}
accounts:
  - {id: a, name: A, tenants: [acme, zoe]}
plans:
  - name: pro
    version: 1
    currency: USD
    prices:
      - {id: fee, type: flat, amount: "20.00", when: in_advance}
      - {id: tokens, type: unit, meter: tokens, unit_price: "0.50"}
    entitlements:
      - {feature: tokens, type: metered, meter: tokens, quota: 100}
      - {feature: disk, type: metered, meter: disk, quota: 50}
subscriptions:
  - {id: s-acme, tenant: acme, plan: pro, version: 1, from: 2026-01-01}
  - {id: s-zoe, tenant: zoe, plan: pro, version: 1, from: 2026-01-01}
"""
RULES = """
alerts:
  - {id: tokens-80, feature: tokens, percent: 80}
  - {id: tokens-120, feature: tokens, percent: "120"}
  - {id: disk-40, feature: disk, quantity: 40, tenants: [acme]}
  - {id: spend-60, amount: "60.00", currency: USD}
"""
USAGE = """tenant_id,meter,quantity,event_time
acme,tokens,79,2026-03-10T00:00:00Z
acme,disk,40,2026-03-11T00:00:00Z
zoe,disk,45,2026-03-11T00:00:00Z
acme,tokens,500,2026-02-10T00:00:00Z
"""
MORE = """tenant_id,meter,quantity,event_time
acme,tokens,1,2026-03-12T00:00:00Z
zoe,tokens,120,2026-03-12T00:00:00Z
"""


def import_text(workspace: Workspace, name: str, text: str) -> None:
    path = workspace.layout.root / name
    path.write_text(text, encoding="utf-8")
    workspace.import_files([path])


def open_(root: Path, rules: str = RULES, now: datetime = datetime(2026, 3, 20, tzinfo=UTC)) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(now))
    (root / "catalog" / "all.yaml").write_text(CATALOG + rules, encoding="utf-8")
    workspace.apply()
    return workspace


def said(alerts: list[Alert] | tuple[Alert, ...]) -> list[tuple[str, str, str, Decimal]]:
    return sorted((one.tenant, one.feature, one.threshold, one.level) for one in alerts)


def test_each_crossing_is_raised_once_and_told(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        told: list[Alert] = []
        first = workspace.alerts(told.append)
        # 79 tokens at 0.50 are 39.50, and 20.00 in advance: not yet 60.00. 80 are.
        assert said(first.raised) == [("acme", "disk", "quantity:40", Decimal(40))]
        assert (said(told), first.delivered, first.pending) == (said(first.raised), 1, 0)
        import_text(workspace, "more.csv", MORE)
        second = workspace.alerts(told.append)
        assert said(second.raised) == [
            ("acme", "(spend)", "amount:60 USD", Decimal(60)),
            ("acme", "tokens", "percent:80", Decimal(80)),
            ("zoe", "(spend)", "amount:60 USD", Decimal(80)),
            ("zoe", "tokens", "percent:120", Decimal(120)),
            ("zoe", "tokens", "percent:80", Decimal(120)),
        ]
        assert {(one.window_start, one.window_end) for one in second.raised} == {
            (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
        }
        assert workspace.alerts(told.append).raised == ()
        assert len(told) == 6
    with Workspace(tmp_path, clock=FixedClock(datetime(2026, 4, 2, tzinfo=UTC))) as april:
        assert april.alerts(told.append).raised == (), "a new window begins with nothing used"


LAST = """tenant_id,meter,quantity,event_time
acme,tokens,90,2026-03-31T23:59:59Z
zoe,tokens,130,2026-03-31T23:00:00Z
"""


def at_noon(root: Path, day: int) -> Workspace:
    return Workspace(root, clock=FixedClock(datetime(2026, 4, day, 12, tzinfo=UTC)))


def test_what_was_reached_after_the_last_look_at_a_window_is_raised_for_that_window(tmp_path: Path) -> None:
    """The quota began anew, the billing period is over, and one of the two has cancelled: the crossings were in March."""
    open_(tmp_path, RULES).close()
    catalog = tmp_path / "catalog" / "all.yaml"
    zoe = "tenant: zoe, plan: pro, version: 1, from: 2026-01-01"
    assert zoe in CATALOG
    catalog.write_text(CATALOG.replace(zoe, f"{zoe}, to: 2026-04-01") + RULES, encoding="utf-8")
    with at_noon(tmp_path, 1) as workspace:
        workspace.apply()
        import_text(workspace, "last.csv", LAST)
        raised = workspace.alerts(lambda _: None).raised
        assert said(raised) == [
            ("acme", "(spend)", "amount:60 USD", Decimal(65)),
            ("acme", "tokens", "percent:80", Decimal(90)),
            ("zoe", "(spend)", "amount:60 USD", Decimal(85)),
            ("zoe", "tokens", "percent:120", Decimal(130)),
            ("zoe", "tokens", "percent:80", Decimal(130)),
        ]
        march = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
        assert {(one.window_start, one.window_end) for one in raised} == {march}
        assert workspace.alerts(lambda _: None).raised == ()


def test_a_window_that_is_over_for_more_than_a_day_raises_nothing(tmp_path: Path) -> None:
    open_(tmp_path, RULES).close()
    with at_noon(tmp_path, 2) as workspace:
        import_text(workspace, "last.csv", LAST)
        assert workspace.alerts(lambda _: None).raised == ()


def test_what_the_receiver_does_not_take_is_told_again(tmp_path: Path) -> None:
    def away(_alert: Alert) -> None:
        raise ConnectionError("away")

    with open_(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        first = workspace.alerts(away)
        assert (len(first.raised), first.delivered, len(first.failures), first.pending) == (1, 0, 1, 1)
    told: list[Alert] = []
    with Workspace(tmp_path, clock=FixedClock(datetime(2026, 3, 20, 12, tzinfo=UTC))) as later:
        second = later.alerts(told.append)
    assert (second.raised, second.delivered, second.pending) == ((), 1, 0)
    assert said(told) == said(first.raised)


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, str]]]]:
    got: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_command_posts_to_the_webhook_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = "alerts:\n  - {id: all-time, feature: tokens, quantity: 1}\n"
    workspace = open_(tmp_path, rules, datetime.now(UTC))
    now = datetime.now(UTC).replace(microsecond=0)
    import_text(workspace, "now.csv", f"tenant_id,meter,quantity,event_time\nacme,tokens,7,{now:%Y-%m-%dT%H:%M:%SZ}\n")
    workspace.close()
    command = ["-w", str(tmp_path), "alerts"]
    waiting = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (len(waiting["raised"]), waiting["delivered"], waiting["pending"]) == (1, 0, 1), "nobody was named"
    with receiver() as (url, got):
        monkeypatch.setenv("TALLYBOOK_ALERTS_WEBHOOK", url)
        with Workspace(tmp_path) as unsigned, pytest.raises(BadSettings, match="TALLYBOOK_ALERTS_SECRET"):
            unsigned.alerts()
        monkeypatch.setenv("TALLYBOOK_ALERTS_SECRET", "not a secret at all")
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert [(one["tenant"], one["threshold"], one["level"]) for one in got] == [("acme", "quantity:1", "7")]
    assert got == waiting["raised"]


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("{id: a, feature: tokens}", "one of percent, quantity and amount"),
        ("{id: a, feature: tokens, percent: 80, quantity: 5}", "one of percent, quantity and amount"),
        ("{id: a, percent: 80}", "percent of what"),
        ("{id: a, amount: 5}", "an amount has a currency"),
        ("{id: a, amount: 5, currency: USD, feature: tokens}", "remove the feature"),
        ("{id: a, feature: tokens, quantity: 5, currency: USD}", "has no currency"),
        ("{id: a, feature: token, quantity: 5}", "no plan meters a feature 'token'"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(tmp_path: Path, rule: str, what: str) -> None:
    with pytest.raises(CatalogInvalid, match=what):
        open_(tmp_path, f"alerts:\n  - {rule}\n")
