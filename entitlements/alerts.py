"""Alerts: a threshold of a quota, of units or of money was reached; told once to the books, and at least once to whoever listens.

Enters: how far use is in a window, and the thresholds that somebody declared. Leaves: one row per crossing in the books, and
calls of a receiver (a callback, or `Webhook`) until it took each. Refuses: to raise the same crossing twice in a window, also
when two processes see it at once, and to forget one whose receiver was away.

Raising is an insert under (tenant, feature, threshold, window). Delivering is an outbox: the row says who tries and when
next, in a transaction of its own; then the receiver is called; then the row says that it took it. A crash in between tells
the receiver again: `alert_id` is the same, so it can tell.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import orjson
from sqlalchemy import select, update

from entitlements.books import alerts
from metering.backoff import full_jitter_s
from metering.books import insertion
from metering.clock import SystemClock, from_us
from metering.numbers import exact_arithmetic, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from entitlements.leases import QuotaKey
    from metering.clock import Clock

# How long who tries to deliver has it to itself; past that it is taken for dead, and another tries.
CLAIM = timedelta(seconds=60)
RETRY_BASE_S, RETRY_MAX_S = 5.0, 3600.0
ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Threshold:
    """A level of use that somebody wants to hear of: `percent` of the quota, a `quantity` of units, an `amount` of money.

    Reached means at or above it. A percentage is exact, and may be over 100.
    """

    kind: Literal["percent", "quantity", "amount"]
    value: Decimal
    currency: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in {"percent", "quantity", "amount"} or not self.value.is_finite() or self.value <= 0:
            raise ValueError(f"a threshold is a percent, quantity or amount above zero, not {self.kind} {self.value}")
        if (self.kind == "amount") != (self.currency is not None):
            raise ValueError("an amount has a currency, and nothing else has one")

    def __str__(self) -> str:
        """Return its name in the books: `percent:80`, `quantity:1000`, `amount:50 USD`."""
        return f"{self.kind}:{trimmed(self.value)}{'' if self.currency is None else f' {self.currency}'}"


@dataclass(frozen=True, slots=True)
class Level:
    """How far use is in a window: units, the quota in the same units (None: unlimited), and money spent so far."""

    quantity: Decimal = Decimal(0)
    quota: Decimal | None = None
    amount: Decimal | None = None
    currency: str | None = None

    def reaches(self, threshold: Threshold) -> bool:
        if threshold.kind == "quantity":
            return self.quantity >= threshold.value
        if threshold.kind == "amount":
            return self.currency == threshold.currency and self.amount is not None and self.amount >= threshold.value
        # Multiplied, not divided: exact. Of a quota of zero any use is more than every percentage, and no use is none.
        if self.quota is None or self.quantity <= 0:
            return False
        with exact_arithmetic():
            return self.quantity * 100 >= threshold.value * self.quota

    def of(self, threshold: Threshold) -> Decimal:
        """Return the number that reached it: money for an amount, else units."""
        return (self.amount or Decimal(0)) if threshold.kind == "amount" else self.quantity


def crossing(before: Level, after: Level, thresholds: Sequence[Threshold]) -> list[Threshold]:
    """Return the thresholds that were not reached before and are reached now, in the order in which they were given."""
    return [one for one in thresholds if after.reaches(one) and not before.reaches(one)]


@dataclass(frozen=True, slots=True)
class Alert:
    """One crossing: whose, of what, in which window (its end open), and the level that was seen."""

    alert_id: str
    tenant: str
    feature: str
    threshold: str
    window_start: datetime
    window_end: datetime | None
    level: Decimal
    raised_at: datetime

    def as_dict(self) -> dict[str, str | None]:
        """Return it for JSON: numbers as text, times in UTC."""
        return {
            "alert_id": self.alert_id,
            "tenant": self.tenant,
            "feature": self.feature,
            "threshold": self.threshold,
            "window_start": self.window_start.astimezone(UTC).isoformat(),
            "window_end": None if self.window_end is None else self.window_end.astimezone(UTC).isoformat(),
            "level": trimmed(self.level),
            "raised_at": self.raised_at.astimezone(UTC).isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one pass over the pending alerts did. `failures` are what receivers raised; those alerts are tried again."""

    delivered: int
    failures: tuple[Exception, ...]


class AlertBook:
    """The alerts in the books. Safe for all threads and processes; holds no state. `chance` draws from [0, 1)."""

    def __init__(
        self, engine: Engine, clock: Clock | None = None, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._engine = engine
        self._clock = clock or SystemClock()
        self._chance = chance

    def observe(
        self, key: QuotaKey, after: Level, thresholds: Sequence[Threshold], *, before: Level | None = None
    ) -> list[Alert]:
        """Raise what is reached and was not raised in this window yet; return what this call raised. Idempotent.

        `before` spares the books the question when nothing was crossed since; what was raised is known to them either way.
        """
        crossed = crossing(before or Level(), after, thresholds)
        if not crossed:
            return []
        now = from_us(self._clock.now_us())
        raised = []
        with self._engine.begin() as connection:
            for threshold in crossed:
                alert_id = _identity(key, threshold)
                done = connection.execute(
                    insertion(connection, alerts)
                    .values(
                        alert_id=alert_id, tenant_id=key.tenant, feature=key.feature, threshold=str(threshold),
                        window_start=key.start, window_end=key.end, level=after.of(threshold), raised_at=now,
                        state="pending", attempts=0, next_attempt_at=now,
                    )
                    .on_conflict_do_nothing()
                    .returning(alerts.c.alert_id)
                )  # fmt: skip
                if done.one_or_none() is not None:
                    raised.append(
                        Alert(
                            alert_id, key.tenant, key.feature, str(threshold), key.start, key.end,
                            after.of(threshold), now,
                        )
                    )  # fmt: skip
        return raised

    def deliver(self, receive: Callable[[Alert], object], *, limit: int = 100) -> Delivered:
        """Tell the receiver of the alerts that are due, oldest first; what it raises is kept, and tried again later.

        Each is told at least once over all calls of all processes; twice only when somebody died in between.
        """
        delivered, failures = 0, []
        for _ in range(limit):
            claimed = self._claim()
            if claimed is None:
                break
            alert, attempts = claimed
            try:
                receive(alert)
            except Exception as failure:  # noqa: BLE001 (told in the books and to the caller, and tried again)
                self._postpone(alert, attempts, failure)
                failures.append(failure)
            else:
                self._finish(alert)
                delivered += 1
        return Delivered(delivered, tuple(failures))

    def pending(self) -> list[Alert]:
        """Return what was raised and not taken yet, oldest first, due or not."""
        with self._engine.begin() as connection:
            rows = connection.execute(
                select(alerts).where(alerts.c.state == "pending").order_by(alerts.c.raised_at, alerts.c.alert_id)
            ).all()
        return [_alert(row) for row in rows]

    def _claim(self) -> tuple[Alert, int] | None:
        now = from_us(self._clock.now_us())
        due = (
            select(alerts)
            .where(alerts.c.state == "pending", alerts.c.next_attempt_at <= now)
            .order_by(alerts.c.next_attempt_at, alerts.c.alert_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._engine.begin() as connection:
            row = connection.execute(due).one_or_none()
            if row is None:
                return None
            connection.execute(
                update(alerts)
                .where(alerts.c.alert_id == row.alert_id)
                .values(attempts=row.attempts + 1, next_attempt_at=now + CLAIM)
            )
        return _alert(row), row.attempts + 1

    def _postpone(self, alert: Alert, attempts: int, failure: Exception) -> None:
        wait_s = full_jitter_s(attempts, self._chance, base_s=RETRY_BASE_S, cap_s=RETRY_MAX_S)
        # At least a second: a receiver that is away must not be asked again within the same pass.
        next_attempt_at = from_us(self._clock.now_us()) + timedelta(seconds=max(1.0, wait_s))
        said = f"{type(failure).__name__}: {failure}"[:ERROR_CHARACTERS]
        with self._engine.begin() as connection:
            connection.execute(
                update(alerts)
                .where(alerts.c.alert_id == alert.alert_id, alerts.c.state == "pending")
                .values(next_attempt_at=next_attempt_at, last_error=said)
            )

    def _finish(self, alert: Alert) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                update(alerts)
                .where(alerts.c.alert_id == alert.alert_id)
                .values(state="delivered", delivered_at=from_us(self._clock.now_us()), last_error=None)
            )


def _identity(key: QuotaKey, threshold: Threshold) -> str:
    """Return the hash of what makes a crossing unique, so that whoever sees it gives it the same name."""
    start = key.start.astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(orjson.dumps([key.tenant, key.feature, str(threshold), start])).hexdigest()


def _alert(row: object) -> Alert:
    got = row._mapping  # type: ignore[attr-defined]  # noqa: SLF001 (public in SQLAlchemy, in spite of its name)
    return Alert(
        got["alert_id"], got["tenant_id"], got["feature"], got["threshold"], got["window_start"], got["window_end"],
        got["level"], got["raised_at"],
    )  # fmt: skip
