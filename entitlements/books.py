"""What entitlements writes into the books: hard quotas, the leases drawn on them, and alerts.

A quota row is the one place that decides: a lease exists because, in one transaction, `granted` was raised and stayed
within `quota`. What a lease gave and nobody accounted for stays granted, so the sum of all leases never exceeds the quota.
Alerts are an outbox: raised once, delivered at least once.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, Integer, Table, Text, UniqueConstraint

from metering.books import metadata
from metering.columns import ExactDecimal, Instant

# One row per (tenant, feature, window): how much there is, and how much of it was given away. `granted` is what open
# leases hold plus what ended leases spent, in units of the meter. `window_end` is open, null: the quota never starts anew.
# `revision` counts the changes of the row, each of which names the one before. `metered` is what usage said after the end.
# `said_at` is the instant as of which `quota` was worked out: what is said later holds, whoever comes to say it first.
quotas = Table(
    "quotas",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("window_start", Instant, primary_key=True),
    Column("window_end", Instant),
    Column("quota", ExactDecimal, nullable=False),
    Column("granted", ExactDecimal, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("metered", ExactDecimal),
    Column("said_at", Instant),
)

# One row per lease. `quantity` is what it counts for in `granted`: all that it holds while it is open, what was spent of it
# once it is settled. `spent` is what its holder last said. One whose holder died stays open, and counts in full.
leases = Table(
    "leases",
    metadata,
    Column("lease_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("window_start", Instant, nullable=False),
    Column("holder", Text, nullable=False),
    Column("quantity", ExactDecimal, nullable=False),
    Column("spent", ExactDecimal, nullable=False),
    Column("state", Text, nullable=False),
    Column("taken_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("ended_at", Instant),
    ForeignKeyConstraint(
        ["tenant_id", "feature", "window_start"], ["quotas.tenant_id", "quotas.feature", "quotas.window_start"]
    ),
    CheckConstraint("state IN ('open', 'settled')", name="state"),
    Index(None, "tenant_id", "feature", "window_start", "state"),
)

# One row per crossing: (tenant, feature, threshold, window). `alert_id` is the hash of those four, so a receiver that is
# told twice can tell. `level` is what was reached: units for a percentage or a quantity, money for an amount.
alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("threshold", Text, nullable=False),
    Column("window_start", Instant, nullable=False),
    Column("window_end", Instant),
    Column("level", ExactDecimal, nullable=False),
    Column("raised_at", Instant, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Instant, nullable=False),
    Column("delivered_at", Instant),
    Column("last_error", Text),
    UniqueConstraint("tenant_id", "feature", "threshold", "window_start"),
    CheckConstraint("state IN ('pending', 'delivered')", name="state"),
    Index(None, "state", "next_attempt_at"),
)
