"""Hours of software in a buyer's own account: all that this workspace recorded of a meter, hour by hour, for MeterUsage.

Enters: a workspace inside the buyer's account, and which meter is which dimension (`meters` of the settings). Leaves: intents of
closed hours that were not told yet, in order. Refuses: meters that do not add up over time, and hours that are still open, for a
call before the hour ends closes it.

There is one buyer, so all tenants of the workspace count, known to the catalog or not. An hour is told what was used until its
end minus all that was told before: late usage, fractions, and what an outage let expire come with a later hour.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from billing_adapters.aws_marketplace_adapter import MeteredHour
from billing_adapters.outbox import Outbox
from billing_adapters.usage_totals import UsageTotal
from metering.numbers import exact_sum
from metering.usage import open_evidence
from tallybook.allocated_hours import Allocations, added
from tallybook.entitlements import Entitlements
from tallybook.errors import BadSettings
from tallybook.metered_hours import HOUR, last_told
from tallybook.metered_windows import ADDITIVE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from billing_adapters.adapter import Adapter, Intent
    from tallybook.workspace import Workspace

# Who pays for what runs in a buyer's account: the one buyer, whom only AWS knows.
BUYER = "buyer"


def instance_intents(
    workspace: Workspace,
    adapter: Adapter,
    meters: Mapping[str, str],
    since: datetime,
    complete_until: datetime,
    allocations: Allocations | None = None,
) -> list[Intent]:
    """Return the intents of all hours that can be told now, of every meter that the settings name. Raises BadSettings."""
    _check(workspace, meters)
    made: list[Intent] = []
    outbox = Outbox(workspace.books, adapter.capabilities, workspace.clock)
    hours = {name: _untold(workspace, adapter, f"{BUYER} {name}", since, complete_until) for name in meters.values()}
    if not any(hours.values()):
        return []
    tenants = _tenants(workspace)
    asked = [
        (tenant, meter, since, start + HOUR)
        for meter, name in meters.items()
        for start in hours[name]
        for tenant in tenants
    ]
    used = dict(zip(asked, Entitlements(workspace).used(asked), strict=True)) if asked else {}
    split = [(tenant, meter, meters[meter], end - HOUR, end) for tenant, meter, _, end in asked]
    shares = (allocations or Allocations()).of(workspace, split)
    sent = outbox.sent([f"{BUYER} {name}" for name in meters.values()])
    for meter, name in meters.items():
        for start in hours[name]:
            ledger = exact_sum([used[tenant, meter, since, start + HOUR] for tenant in tenants])
            series = f"{BUYER} {name}"
            total = UsageTotal(BUYER, BUYER, name, start, start + HOUR, ledger, sent=sent[series])
            parts = added([shares.get((tenant, meter, name, start, start + HOUR), ()) for tenant in tenants])
            for intent in adapter.prepare(MeteredHour(total, parts)):
                sent[series] = exact_sum([sent[series], intent.quantity or Decimal(0)])
                made.append(intent)
    return made


def _check(workspace: Workspace, meters: Mapping[str, str]) -> None:
    known = workspace.terms_or_empty().meters
    for meter in meters:
        if meter not in known or known[meter].aggregation not in ADDITIVE:
            raise BadSettings(
                f"[delivery.aws_meter_usage] names meter {meter!r}, which is no sum or count of the catalog"
            )
    if len(set(meters.values())) < len(meters) or not meters:
        raise BadSettings("[delivery.aws_meter_usage.meters] says which meter is which dimension, each once")


def _untold(
    workspace: Workspace, adapter: Adapter, series: str, since: datetime, complete_until: datetime
) -> list[datetime]:
    """Return the starts of the hours that are complete, were not told, and can still be."""
    told = last_told(workspace, adapter.capabilities.name, series)
    start = (since if told is None else told + HOUR).replace(minute=0, second=0, microsecond=0)
    oldest = workspace.now - (adapter.capabilities.window.oldest or timedelta(0))
    hours = []
    # What cannot be told any more goes with the first hour that can.
    start = max(start, oldest.replace(minute=0, second=0, microsecond=0))
    while start + HOUR <= complete_until:
        recover_by = adapter.capabilities.window.recover_by(start)
        if recover_by is None or recover_by > workspace.now:
            hours.append(start)
        start += HOUR
    return hours


def _tenants(workspace: Workspace) -> list[str]:
    files, snapshot = workspace.evidence()
    engine = open_evidence(files, snapshot)
    try:
        return [name for (name,) in engine.execute("SELECT DISTINCT tenant_id FROM stored_event ORDER BY 1").fetchall()]
    finally:
        engine.close()
