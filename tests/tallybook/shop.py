"""A small shop for the tests of workspace and command line: a catalog, a file of usage, a clock that stands still."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from metering.clock import FixedClock
from tallybook import Workspace

CATALOG = """
meters:
  - {name: tokens, unit: token, aggregation: sum, attributes: [direction]}
  - {name: calls, aggregation: count}
plans:
  - name: pro
    version: 1
    currency: USD
    prices:
      - {id: fee, type: flat, amount: "49.00"}
      - {id: tokens_out, meter: tokens, where: {direction: output}, type: graduated,
         tiers: [{up_to: "1000", unit_price: "0"}, {unit_price: "0.0125"}]}
      - {id: calls, meter: calls, type: package, package_size: "10", package_price: "0.50"}
accounts:
  - {id: acme-inc, name: "Acme, Inc.", tenants: [acme]}
  - {id: globex, name: Globex, tenants: [globex]}
subscriptions:
  - {id: sub-acme, tenant: acme, plan: pro, version: 1, from: "2026-01-01"}
  - {id: sub-globex, tenant: globex, plan: pro, version: 1, from: "2026-10-16"}
"""

USAGE = """tenant_id,meter,quantity,event_time,idempotency_key,direction
acme,tokens,1500,2026-10-03T10:00:00Z,a1,output
acme,tokens,1500,2026-10-03T10:00:00Z,a1,output
acme,tokens,777,2026-10-04T10:00:00Z,a2,input
acme,calls,1,2026-10-05T10:00:00Z,,
globex,tokens,400.5,2026-10-20T10:00:00Z,g1,output
globex,calls,1,2026-10-02T10:00:00Z,,
ghost,calls,1,2026-10-02T10:00:00Z,,
"""

LATE = """tenant_id,meter,quantity,event_time,idempotency_key,direction
acme,tokens,80,2026-10-30T10:00:00Z,late1,output
"""

NOVEMBER = datetime(2026, 11, 1, 3, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, 3, tzinfo=UTC)


def open_shop(root: Path, *, now: datetime = NOVEMBER) -> Workspace:
    """Return a workspace with the catalog applied and nothing used yet."""
    workspace = Workspace.init(root, clock=FixedClock(now))
    (workspace.layout.catalog / "shop.yaml").write_text(CATALOG, encoding="utf-8")
    workspace.apply()
    return workspace


def import_text(workspace: Workspace, name: str, text: str) -> None:
    path = workspace.layout.root / name
    path.write_text(text, encoding="utf-8")
    workspace.import_files([path])
