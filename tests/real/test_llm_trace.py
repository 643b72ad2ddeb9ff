"""A real trace of two language-model services, from its CSV to final invoices, against Decimal straight from the CSV.

28,185 requests of one hour (Azure, 2023-11-16). Each is two usage events, input and output tokens. Tenants are derived
from the row number so that their sizes are skewed as in life. The oracle here shares no code with the packages.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from tallybook import Workspace

DATA = Path(__file__).parents[3] / "shared" / "data" / "azure-llm-2023"
TENANTS = 60
TIERS = {
    "input": [("50000", "0"), ("1000000", "0.0000030"), (None, "0.0000021")],
    "output": [("10000", "0.0000150"), ("250000", "0.0000125"), (None, "0.0000113")],
}

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"the trace is not beside the checkout ({DATA.name})")


def trace() -> Iterator[tuple[str, str, str, str, str, str]]:
    """Yield (tenant, service, time, input tokens, output tokens, request), straight from the files."""
    for service in ("conv", "code"):
        with gzip.open(DATA / f"{service}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                # A well-mixed number below 1000, cubed: a quarter of all rows go to tenant 0, few to tenant 59.
                mixed = number * 2_654_435_761 % 2**32 * 1000 // 2**32
                tenant = f"tenant-{mixed**3 * TENANTS // 10**9:02}"
                yield (
                    tenant,
                    service,
                    row["TIMESTAMP"],
                    row["ContextTokens"],
                    row["GeneratedTokens"],
                    f"{service}-{number}",
                )


def catalog() -> str:
    tiers = {
        direction: ", ".join(
            (f'{{up_to: "{up_to}", ' if up_to else "{") + f'unit_price: "{unit_price}"}}' for up_to, unit_price in steps
        )
        for direction, steps in TIERS.items()
    }
    tenants = [f"tenant-{number:02}" for number in range(TENANTS)]
    prices = "".join(
        f"      - {{id: {direction}, meter: tokens, where: {{direction: {direction}}}, by: [service], "
        f"type: graduated, tiers: [{steps}]}}\n"
        for direction, steps in tiers.items()
    )
    return (
        "meters:\n  - {name: tokens, unit: token, aggregation: sum, attributes: [direction, service]}\n"
        f"plans:\n  - name: llm\n    version: 1\n    currency: USD\n    prices:\n{prices}"
        "accounts:\n"
        + "".join(f"  - {{id: pays-{tenant}, name: {tenant}, tenants: [{tenant}]}}\n" for tenant in tenants)
        + "subscriptions:\n"
        + "".join(
            f'  - {{id: sub-{tenant}, tenant: {tenant}, plan: llm, version: 1, from: "2023-01-01"}}\n'
            for tenant in tenants
        )
    )


def write_usage(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tenant_id", "meter", "quantity", "event_time", "idempotency_key", "direction", "service"])
        for tenant, service, time, tokens_in, tokens_out, request in trace():
            writer.writerow([tenant, "tokens", tokens_in, time, f"{request}-in", "input", service])
            writer.writerow([tenant, "tokens", tokens_out, time, f"{request}-out", "output", service])


def expected() -> dict[tuple[str, str, str], tuple[Decimal, Decimal]]:
    """Return quantity and amount per (tenant, direction, service): sum, walk the tiers, round half away once."""
    sums: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    for tenant, service, _, tokens_in, tokens_out, _ in trace():
        sums[tenant, "input", service] += Decimal(tokens_in)
        sums[tenant, "output", service] += Decimal(tokens_out)
    lines = {}
    for (tenant, direction, service), quantity in sums.items():
        amount, lower = Decimal(0), Decimal(0)
        for up_to, unit_price in TIERS[direction]:
            upper = quantity if up_to is None else min(quantity, Decimal(up_to))
            if upper > lower:
                amount += (upper - lower) * Decimal(unit_price)
                lower = upper
        lines[tenant, direction, service] = (quantity, amount.quantize(Decimal("0.01"), ROUND_HALF_UP))
    return lines


def test_the_trace_is_invoiced_to_the_cent(tmp_path: Path) -> None:
    write_usage(tmp_path / "usage.csv")
    with Workspace.init(tmp_path / "workspace", clock=FixedClock(datetime(2023, 12, 1, 1, tzinfo=UTC))) as workspace:
        (workspace.layout.catalog / "llm.yaml").write_text(catalog(), encoding="utf-8")
        workspace.apply()
        (imported,) = workspace.import_files([tmp_path / "usage.csv"])
        assert (imported.stored, imported.dead_letters) == (2 * 28_185, 0)
        invoices = workspace.invoice("2023-11", final=True).invoices
        found = {
            (line.tenant_id, line.price_id, line.group_key): (line.quantity, line.amount)
            for invoice in invoices
            for line in invoice.lines
        }
        wanted = {
            (tenant, direction, f'{{"service":"{service}"}}'): line
            for (tenant, direction, service), line in expected().items()
        }
        assert found == wanted
        assert all(one.matches for one in workspace.verify())
        statement = workspace.reconcile("2023-11")
        assert statement.is_conserved
