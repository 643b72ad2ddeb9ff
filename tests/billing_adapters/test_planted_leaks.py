"""Every control finds the leak that was planted for it: class, quantity and money to the cent. A clean world has none.

Each control of the folder has a leak here; a control without one, and a leak whose control was taken away, fail.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pytest

from billing_adapters.reconciliation.controls import our_controls
from tests.billing_adapters.planted import captured, in_books
from tests.billing_adapters.world import World, event, letter, statement_of

if TYPE_CHECKING:
    from billing_adapters.reconciliation import Statement
    from billing_adapters.reconciliation.statement import Finding


class Leak(NamedTuple):
    """What must be found: whose, which reason, its class, how many units, what they are worth and on which basis."""

    world: str
    tenant_id: str | None
    reason: str
    finding_class: str
    quantity: str | None = None
    amount: str | None = None
    basis: str = ""


LEAKS = {
    # 1,200 units of one segment, its trailer kept, at 0.01.
    "SEQUENCE_GAP": Leak("capture", "gap", "rows_missing", "LOST", "1200", "12.00", "E1"),
    "BATCH_TOTALS": Leak("capture", "edited", "quantity_differs", "DATA_QUALITY", "1"),
    "DROPPED": Leak("capture", None, "no_room", "LOST", None, None, "E4"),
    # 40 units in the journal of a producer that nobody ships.
    "PRODUCER_NOT_CLOSED": Leak("capture", "waiting", "waits_in_journal", "AT_RISK", "40", "0.40", "E1"),
    # 100 refused rows of 3 units each, 12 days old and more.
    "DEAD_LETTER": Leak("capture", "letters", "bad_quantity", "AT_RISK", "300", "3.00", "E1"),
    "DEAD_LETTER_AGED": Leak("capture", "letters", "waits_too_long", "AT_RISK", "300", "3.00", "E1"),
    "REJECT_RATE": Leak("capture", None, "bad_quantity", "DATA_QUALITY"),
    # One key for 50 further payloads of one unit each.
    "DEDUPE_EXCESS": Leak("capture", "dupes", "key_used_again", "AT_RISK", "50", "0.50", "E1"),
    "DUPLICATE_CONFLICT": Leak("capture", "dupes", "other_payload", "DATA_QUALITY", "50"),
    # 7 units, said again under another key.
    "DEDUPE_MISS": Leak("capture", "copies", "fresh_keys", "OVERBILL", "7", "0.07", "E1"),
    "CORRECTION_UNMATCHED": Leak("capture", "acme", "names_nothing", "DATA_QUALITY"),
    # The witness counts 4,000, metered are 3,500; and 250 of a tenant that was never metered.
    "WITNESS_RATIO": Leak("capture", "ratio", "metered_less", "AT_RISK", "500", "5.00", "E1"),
    "TRAFFIC_WITHOUT_METER": Leak("capture", "untold", "never_metered", "AT_RISK", "250", "2.50", "E1"),
    # 11 silent days of 10 units.
    "METER_SILENT": Leak("capture", "silent", "silent", "AT_RISK", "110", "1.10", "E1"),
    # 5 units in September at 0.05, none in October.
    "METER_SILENT_GLOBAL": Leak("capture", None, "nobody_used_it", "AT_RISK", "5", "0.25", "E3"),
    "CLOCK_SKEW": Leak("capture", None, "ahead", "DATA_QUALITY"),
    # 5,000 where 100 is usual.
    "USAGE_ANOMALY": Leak("capture", "odd", "far_above", "INFO", "4900", "49.00", "E1"),
    "UNKNOWN_TENANT": Leak("capture", "acmee", "unknown_tenant", "AT_RISK", "700", "7.00", "E3"),
    "NO_SUBSCRIPTION": Leak("capture", "ended", "no_subscription", "AT_RISK", "900", "9.00", "E1"),
    # 2,000 units of a meter that no plan prices, listed at 0.02.
    "UNPRICED_METER": Leak("capture", "acme", "no_price", "AT_RISK", "2000", "40.00", "E3"),
    "UNPRICED_CELL": Leak("capture", "cell", "no_amount_tokens", "AT_RISK", "4", None, "E4"),
    "LATE_USAGE_REFUSED": Leak("capture", "tardy", "recorded_too_late", "AT_RISK", "11", "0.11", "E1"),
    # 300 units at 0, which version 1 of the plan sells at 0.01.
    "ZERO_RATED": Leak("capture", "typo", "priced_at_zero", "AT_RISK", "300", "3.00", "E3"),
    # 100 units are stored, and rollups hold 60 of them.
    "ROLLUP_DRIFT": Leak("capture", "stale", "less_than_stored", "AT_RISK", "40", "0.40", "E1"),
    # 500, 400 and 300 units of three free tenants with one tax number: 700 beyond one of them.
    "ALLOWANCE_SPREAD": Leak("capture", None, "shared_tax_number", "INFO", "700", "7.00", "E3"),
    "ENTITLEMENT_OVERUSE": Leak("capture", "over", "overage_allowed_storage", "AT_RISK", "50", "0.50", "E3"),
    # 10 % of 10.00, since January of the year before.
    "DISCOUNT_ENDLESS": Leak("capture", "endless", "without_an_end", "INFO", None, "1.00", "EXACT"),
    # 40 % of 10.00, approved by somebody who may approve 25 %.
    "DISCOUNT_UNAPPROVED": Leak("capture", "generous", "beyond_authority", "AT_RISK", None, "4.00", "EXACT"),
    "GRACE_DIFFERS": Leak("capture", "acme", "provider_is_stricter", "INFO"),
    "CONTROL_NOT_RUN": Leak("capture", None, "not_run", "DATA_QUALITY"),
    # 10,000 units billed at 0.008, on a version that says 0.010 since.
    "PLAN_VERSION_DIFFERS": Leak("books", "upgraded", "other_plan_version", "AT_RISK", "10000", "20.00", "E1"),
    "PRICE_OFF_CATALOG": Leak("books", "rewritten", "price_differs", "AT_RISK", "100", "1.00", "EXACT"),
    "RERATE_DRIFT": Leak("books", "drifted", "rated_otherwise", "AT_RISK", None, "0.50", "EXACT"),
    "TIER_BOUNDARY": Leak("books", "tiers", "tiers_differ", "AT_RISK", "150", "0.10", "EXACT"),
    # 20 % of 250.00, a month after its end.
    "DISCOUNT_EXPIRED": Leak("books", "discounted", "after_its_end", "AT_RISK", None, "50.00", "EXACT"),
    # 10 % of 123.40 in October, the third billing period of two.
    "DISCOUNT_OVERUSED": Leak("books", "welcomed", "after_its_periods", "AT_RISK", None, "12.34", "EXACT"),
    # 100.00 promised, 40.00 booked.
    "TRUE_UP_MISSING": Leak("books", "promised", "no_true_up", "AT_RISK", None, "60.00", "EXACT"),
    # 25.00 paid by a balance of 20.00.
    "BALANCE_OVERAPPLIED": Leak("books", None, "overdrawn", "AT_RISK", None, "5.00", "EXACT"),
    "CURRENCY_DIFFERS": Leak("books", "discounted", "line_and_document", "DATA_QUALITY", None, "30.00", "EXACT"),
    "ROUNDING_RESIDUAL": Leak("books", None, "total_differs", "DATA_QUALITY", None, "1.00", "EXACT"),
    "PERIOD_UNBILLED": Leak("books", "skipped", "not_invoiced", "AT_RISK", None, "12.00", "EXACT"),
    # 7.00 less in the books than the close wrote down.
    "CLOSE_REWRITTEN": Leak("books", None, "less_than_written", "AT_RISK", None, "7.00", "EXACT"),
    # 1,000 units that came after the close.
    "LATE_USAGE": Leak("books", "forgotten", "not_corrected", "TIMING", "1000", "10.00", "E1"),
    # The close saw 300 of 333.3 units that the lake holds of its cut.
    "STORED_ATTRIBUTED": Leak("books", "rounded", "not_attributed", "AT_RISK", "33.3", "0.33", "E1"),
    # Prices were handed 700 units; rating took 600.
    "ATTRIBUTED_RATED": Leak("books", "drifted", "not_rated", "AT_RISK", "100", "1.00", "E1"),
    # 45.00 rated, 40.00 charged.
    "RATED_INVOICED": Leak("books", "promised", "not_charged", "AT_RISK", None, "5.00", "EXACT"),
    # 19 % of 200.00.
    "TAX_MISSING": Leak("books", None, "no_tax_and_no_reason", "AT_RISK", None, "38.00", "EXACT"),
}
_WORLDS = {"capture": captured, "books": in_books}


@cache
def leaking(world: str) -> Statement:
    return _WORLDS[world](is_leaking=True)


def found(control_id: str) -> list[Finding]:
    leak = LEAKS[control_id]
    return [
        one
        for one in leaking(leak.world).findings
        if (one.control_id, one.tenant_id, one.reason) == (control_id, leak.tenant_id, leak.reason)
    ]


def cents(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount.quantize(Decimal("0.01")))


@pytest.mark.parametrize("control_id", LEAKS)
def test_a_planted_leak_is_found_by_its_control(control_id: str) -> None:
    leak = LEAKS[control_id]
    [one] = found(control_id)
    quantity = None if leak.quantity is None else Decimal(leak.quantity)
    assert (one.finding_class, one.estimate_basis) == (leak.finding_class, leak.basis)
    assert one.quantity_difference == quantity
    assert cents(one.amount_likely) == leak.amount
    assert leak.amount is None or one.currency in {"USD", "EUR"}
    if one.amount_likely is not None:
        assert one.amount_low is not None
        assert one.amount_high is not None
        assert 0 <= one.amount_low <= one.amount_likely <= one.amount_high


def test_units_that_do_not_add_up_are_worth_no_sum() -> None:
    # The last of 40, 41 and 42 seats is 42: 123 seats at the list price of 8.00 would be 984.00 that nobody lost.
    [one] = [one for one in leaking("capture").findings if one.meter == "seats"]
    assert (one.control_id, one.reason, one.quantity_difference) == ("UNPRICED_METER", "no_price", Decimal(123))
    assert (one.estimate_basis, one.amount_likely) == ("E4", None)


def test_every_control_has_a_planted_leak() -> None:
    # Those of deliveries and providers have worlds of their own.
    assert {control.control_id for control in our_controls()} - PROVIDED == set(LEAKS)


PROVIDED = frozenset(
    {
        "INVOICE_NOT_DELIVERED", "DELIVERY_PARTIAL", "DELIVERY_DUPLICATE", "PROVIDER_QUANTITY", "PROVIDER_AMOUNT",
        "PROVIDER_ORPHAN", "STATUS_DRIFT", "REFUND_EXCESS", "UNCOLLECTED_AGED", "FRACTION_DROPPED",
        "DELIVERY_ASYNC_ERROR", "INVOICED_DELIVERED", "DELIVERED_HELD", "HELD_COLLECTED",
    }
)  # fmt: skip


def test_a_tier_is_climbed_by_what_is_missing() -> None:
    # 900,000 of a million free units are used and 300,000 are missing: 200,000 x 0.000002, not 300,000 x an average of 0.
    [one] = [one for one in leaking("capture").findings if (one.control_id, one.tenant_id) == ("SEQUENCE_GAP", "tier")]
    assert cents(one.amount_likely) == "0.40"
    assert one.estimate_basis == "E1"


def test_what_is_swallowed_may_be_worth_nothing() -> None:
    [one] = found("DEDUPE_EXCESS")
    assert (one.amount_low, cents(one.amount_high)) == (0, "0.50")


def test_units_that_another_control_counts_are_in_no_bucket_of_their_own() -> None:
    assert [one.bucket for one in found("DEAD_LETTER_AGED")] == [""]
    assert [one.bucket for one in found("DEAD_LETTER")] == ["dead_letter"]


@pytest.mark.parametrize("world", _WORLDS)
def test_a_clean_world_has_no_finding_and_every_control_that_can_run_ran(world: str) -> None:
    statement = _WORLDS[world](is_leaking=False)
    assert [(one.control_id, one.tenant_id, one.detail) for one in statement.findings] == []
    assert statement.verdict == "conserved"
    runs = {run["control_id"]: run["result"] for run in statement.runs.to_pylist()}
    assert set(runs) == {control.control_id for control in our_controls()}
    assert set(runs.values()) <= {"passed", "not_possible"}


def test_a_dead_letter_is_one_finding_however_old_it_grows() -> None:
    world = World()
    batch = world.write(letter("bad_quantity", "acme", "3"))
    [recorded] = batch.dead_letters["recorded_at"].to_pylist()
    [control] = [one for one in our_controls() if one.control_id == "DEAD_LETTER_AGED"]
    ids = [
        [
            one.finding_id
            for one in statement_of(world, controls=[control], looked_at=recorded + timedelta(days=days)).findings
        ]
        for days in (6, 8, 31, 90)
    ]
    assert ids[0] == []
    assert len(ids[1]) == 1
    assert ids[1] == ids[2] == ids[3]


@pytest.mark.parametrize(("minutes", "is_found"), [(59, False), (60, True)])
def test_what_was_just_recorded_may_wait_to_be_shipped(minutes: int, is_found: bool) -> None:
    world = World()
    batch = world.write(event(), is_shipped=False)
    [recorded] = batch.events["recorded_at"].to_pylist()
    [control] = [one for one in our_controls() if one.control_id == "PRODUCER_NOT_CLOSED"]
    statement = statement_of(world, controls=[control], looked_at=recorded + timedelta(minutes=minutes))
    assert [one.rows for one in statement.findings] == [1] * is_found
