"""What is told too late is in nothing that is billed: not in its own period, and not in a level or a tier that lives on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from metering.events import usage_event_schema
from metering.periods import parse_period
from metering.usage import load_events
from rating.late import limits_between, refuse_late
from rating.whatif import whatif
from tests.rated import engine, engine_lines
from tests.rating.sales import Company, amounts

SEATS = {"id": "seats", "meter": "seats", "type": "unit", "unit_price": "1"}
LEVELS: dict[str, dict[str, Any]] = {
    "sum": {"aggregation": "sum"},
    "last": {"aggregation": "last"},
    "time_weighted_sum": {"aggregation": "time_weighted_sum"},
}


def company(meter: dict[str, Any], **settings: Any) -> Company:
    """Return a company whose plan takes usage for five days after the end of its period."""
    around = {"late_usage_days": "5"}
    return Company([SEATS], meters=[{"name": "seats", "carry": "recurring", **meter}], around=around, **settings)


def use(ours: Company, when: str, quantity: str, recorded: str | None = None) -> None:
    ours.use(when, quantity, meter="seats")
    if recorded:
        ours.events[-1]["recorded_at"] = datetime.fromisoformat(recorded).replace(tzinfo=UTC)


@pytest.mark.parametrize("kind", LEVELS)
def test_a_level_is_not_moved_by_what_was_refused_in_a_period_that_nobody_closed(kind: str) -> None:
    """10 in January, and 5 more that are told on 20 February, 15 days too late. January is never closed; February is 10."""
    ours = company(LEVELS[kind])
    use(ours, "2026-01-10", "10")
    use(ours, "2026-01-20", "5", "2026-02-20")
    assert amounts(ours.invoice("2026-02")) == {"seats": "10.00"}


def test_the_level_is_the_same_whether_its_period_was_closed_or_not() -> None:
    for closed in ((), ("2026-01",)):
        ours = company(LEVELS["sum"])
        use(ours, "2026-01-10", "10")
        for period in closed:
            assert amounts(ours.invoice(period)) == {"seats": "10.00"}
        use(ours, "2026-01-20", "5", "2026-02-20")
        # On time: the fifth day after the end of January is not over yet.
        use(ours, "2026-01-21", "2", "2026-02-05T23:59:59")
        found = [line for invoice in ours.invoice("2026-02") for line in invoice.lines if line.kind == "usage"]
        assert [line.amount for line in found] == [Decimal("12.00")]


def test_a_level_from_before_the_subscription_counts_whenever_it_is_told() -> None:
    """It is of no billing period, and so of no policy."""
    ours = company(LEVELS["sum"], subscription={"from": "2026-02-01"})
    use(ours, "2026-01-20", "5", "2026-02-20")
    assert amounts(ours.invoice("2026-02")) == {"seats": "5.00"}


def test_tiers_that_go_on_are_not_climbed_by_what_was_refused() -> None:
    tiers = [{"up_to": "10", "unit_price": "1"}, {"unit_price": "0.5"}]
    price = {"id": "calls", "meter": "calls", "type": "graduated", "tiers_since": "plan_start", "tiers": tiers}
    ours = Company([price], around={"late_usage_days": "5"})
    ours.use("2026-01-10", "8")
    ours.events[-1]["recorded_at"] += timedelta(days=60)
    ours.use("2026-02-10", "10")
    assert amounts(ours.invoice("2026-02")) == {"calls": "10.00"}


def test_the_most_lenient_plan_decides_also_where_its_period_is_not_over() -> None:
    """A plan by the year, which takes all; the month beside it refused what the year would bill ten months later."""
    plans = [
        {"name": "month", "version": 1, "currency": "USD", "late_usage_days": "0", "prices": [{**SEATS, "id": "m"}]},
        {
            "name": "year",
            "version": 1,
            "currency": "USD",
            "prices": [{**SEATS, "id": "y"}],
            "billing_period": {"every": "year"},
        },
    ]
    catalog = {
        "meters": [{"name": "seats"}],
        "plans": plans,
        "accounts": [{"id": "payer", "name": "Payer", "tenants": ["a"]}],
        "subscriptions": [
            {"id": name, "tenant": "a", "plan": name, "version": 1, "from": "2026-01-01"} for name in ("month", "year")
        ],
    }
    when = datetime(2026, 1, 5, tzinfo=UTC)
    late = {
        "tenant_id": "a", "meter": "seats", "quantity": "3", "event_time": when, "recorded_at": when + timedelta(days=90),
        "attributes": {}, "producer_id": "p", "segment": 1, "row": 0, "idempotency_key": None,
    }  # fmt: skip
    assert [line.quantity for line in engine_lines(catalog, [late], "2026-01").values()] == [3]
    del catalog["subscriptions"][1]
    assert [line.quantity for line in engine_lines(catalog, [late], "2026-01").values()] == [0]


def test_a_comparison_of_one_month_refuses_what_the_months_before_it_refused() -> None:
    ours = company(LEVELS["sum"])
    use(ours, "2026-01-10", "10")
    use(ours, "2026-01-20", "5", "2026-02-20")
    load_events(engine(), pa.Table.from_pylist(ours.events, schema=usage_event_schema()))
    [row] = whatif(engine(), ours.terms, ours.terms, parse_period("2026-02")).to_pylist()
    assert (row["old_amount"], row["new_amount"]) == (Decimal("10.00"), Decimal("10.00"))


def test_what_a_level_is_without_is_counted_as_refused() -> None:
    """The limits that reconciliation asks for by dates are those that rating asks for by spans."""
    ours = company(LEVELS["sum"])
    use(ours, "2026-01-10", "10")
    use(ours, "2026-01-20", "5", "2026-02-20")
    load_events(engine(), pa.Table.from_pylist(ours.events, schema=usage_event_schema()))
    january = parse_period("2026-01").in_zone("UTC")
    refuse_late(engine(), limits_between(ours.terms, january))
    [(refused,)] = engine().execute("SELECT count(*) FROM late_event").fetchall()
    assert refused == 1
