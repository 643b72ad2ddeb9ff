"""Lint: what is legal and probably wrong, found in the plans and priced on history."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metering.engine import open_engine
from metering.events import encode_attributes, usage_event_schema
from metering.periods import parse_period
from metering.usage import load_events
from rating.lint import CODES, SEVERITIES, Finding, lint_catalog
from rating.lint_history import lint
from tests.rated import terms_of
from tests.rating.sales import at

ROOT = Path(__file__).parents[2]


def catalog(*prices: dict[str, Any], **plan: Any) -> dict[str, Any]:
    return {
        "meters": [{"name": "calls"}, {"name": "fixes", "negative_allowed": True}],
        "plans": [{"name": "pro", "version": 1, "currency": "USD", "prices": list(prices), **plan}],
        "accounts": [{"id": "all", "name": "All", "tenants": ["acme", "globex"]}],
        "subscriptions": [
            {"id": "s1", "tenant": "acme", "plan": "pro", "version": 1, "from": "2026-01-01"},
            {"id": "s2", "tenant": "globex", "plan": "pro", "version": 1, "from": "2026-01-01"},
        ],
    }


def calls(kind: str, **terms: Any) -> dict[str, Any]:
    return {"id": "calls", "type": kind, "meter": "calls", **terms}


def tiers(*steps: tuple[str | None, str, str]) -> list[dict[str, str]]:
    return [
        {**({"up_to": up_to} if up_to else {}), "unit_price": unit_price, "flat_amount": flat}
        for up_to, unit_price, flat in steps
    ]


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings if finding.code != "meter_unpriced"}


VOLUME = calls("volume", tiers=tiers(("100", "0.50", "5"), ("1000", "0.20", "10"), (None, "0.05", "0")))
PLANS = {
    "tier_cliff": [VOLUME],
    "tier_jump": [calls("volume", tiers=tiers(("100", "1", "0"), (None, "2", "0")))],
    "tier_repeated": [calls("graduated", tiers=tiers(("100", "1", "0"), (None, "1", "0")))],
    "prices_overlap": [
        calls("unit", unit_price="1", where={"region": ["eu", "us"]}),
        {**calls("unit", unit_price="2", where={"region": "eu", "size": "big"}), "id": "big"},
    ],
    "price_zero": [calls("unit", unit_price="0")],
    "price_negative": [calls("unit", unit_price="-1")],
    "more_decimals": [{"id": "fee", "type": "flat", "amount": "49.005"}],
    "package_of_one": [calls("package", package_size="1", package_price="2")],
    "flat_at_zero": [calls("graduated", tiers=tiers(("100", "0", "5"), (None, "1", "0")))],
}


@pytest.mark.parametrize("code", PLANS)
def test_a_plan_that_is_probably_wrong_is_found(code: str) -> None:
    assert code.split(maxsplit=1)[0] in codes(lint_catalog(terms_of(catalog(*PLANS[code]))))


PLANS["tier_cliff in stairs"] = [
    calls("stairstep", tiers=[{"up_to": "100", "flat_amount": "60"}, {"flat_amount": "20"}])
]
PLANS["price_zero of percents"] = [calls("graduated_percentage", tiers=[{"percent": "0"}])]
PLANS["tier_repeated of percents"] = [
    calls("graduated_percentage", tiers=[{"up_to": "100", "percent": "2"}, {"percent": "2"}])
]

QUIET = {
    "graduated tiers never fall": [calls("graduated", tiers=tiers(("100", "1", "0"), (None, "0.1", "0")))],
    "filters apart": [
        calls("unit", unit_price="1", where={"region": "eu"}),
        {**calls("unit", unit_price="2", where={"region": "us"}), "id": "us"},
    ],
    "a flat amount from the second tier on": [calls("graduated", tiers=tiers(("100", "1", "0"), (None, "1", "5")))],
    "many decimals in a unit price": [calls("unit", unit_price="0.0000125")],
    "stairs that rise, from nothing": [
        calls(
            "stairstep",
            tiers=[
                {"up_to": "0", "flat_amount": "0"},
                {"up_to": "100", "flat_amount": "20"},
                {"flat_amount": "60"},
            ],
        )
    ],
    "percents": [calls("graduated_percentage", tiers=[{"up_to": "100", "percent": "2.125"}, {"percent": "1"}])],
    "packages": [calls("package", package_size="10", package_price="2")],
}


@pytest.mark.parametrize("case", QUIET)
def test_a_plan_that_is_right_is_left_alone(case: str) -> None:
    assert codes(lint_catalog(terms_of(catalog(*QUIET[case])))) == set()


def test_a_cliff_says_where_and_how_much() -> None:
    found = [one for one in lint_catalog(terms_of(catalog(VOLUME))) if one.code == "tier_cliff"]
    assert [one.edge for one in found] == [100, 1000]
    # 100 x 0.50 + 5 = 55.00, and just above 100 x 0.20 + 10 = 30.00.
    assert (
        "100 unit are worth 55.00 USD, any part of a unit more 30.00 USD, 101 unit 30.20 USD: 25.00 USD less"
        in found[0].message
    )


def test_quotas_are_compared_with_tiers() -> None:
    graduated = calls("graduated", tiers=tiers(("100", "0", "0"), ("500", "1", "0"), (None, "0.5", "0")))
    quota = {"feature": "calls", "type": "metered", "meter": "calls", "reset": "billing_period"}
    blocked = {**quota, "quota": "400", "overage": "blocked"}
    found = lint_catalog(terms_of(catalog(graduated, entitlements=[blocked])))
    assert codes(found) == {"tier_beyond_quota", "quota_above_free_tier"}
    equal = {**quota, "quota": "100", "overage": "allowed"}
    assert codes(lint_catalog(terms_of(catalog(graduated, entitlements=[equal])))) == set()


@pytest.mark.parametrize(
    ("price", "switches", "found"),
    [
        ({}, {}, set()),
        ({"meter": "counted"}, {}, {"tier_unreachable"}),
        ({"meter": "counted", "included": "0.5"}, {}, set()),
        ({"convert": {"divide": "1000", "round": "ceil"}}, {}, {"tier_unreachable"}),
        ({"convert": {"divide": "1000"}}, {}, set()),
        ({"meter": "counted", "tiers": tiers(("1", "3", "0"), ("2", "2", "0"), (None, "1", "0"))}, {}, set()),
        ({"meter": "counted", "tiers": tiers(("1.5", "3", "0"), ("2", "2", "0"), (None, "1", "0"))}, {}, set()),
        (
            {"meter": "counted", "tiers": tiers(("1.5", "3", "0"), ("2", "2", "0"), (None, "1", "0"))},
            {"tier_edge": "lower"},
            {"tier_unreachable"},
        ),
    ],
    ids=["any decimals", "counted", "shifted", "whole thousands", "not rounded", "whole", "its edge", "lower edges"],
)
def test_a_tier_between_two_whole_steps_is_never_reached(
    price: dict[str, Any], switches: dict[str, str], found: set[str]
) -> None:
    steps = tiers(("1.2", "3", "0"), ("1.8", "2", "0"), (None, "1", "0"))
    asked = catalog({**calls("graduated", tiers=steps), **price}, switches=switches)
    asked["meters"].append({"name": "counted", "aggregation": "count"})
    assert codes(lint_catalog(terms_of(asked))) & {"tier_unreachable"} == found


def test_edges_of_any_size_are_looked_at() -> None:
    """Of 29 digits a quotient does not fit into Decimal's own 28."""
    low, high = f"{2 * 10**28}.2", f"{2 * 10**28}.8"
    asked = catalog(
        {**calls("graduated", tiers=tiers((low, "0", "0"), (high, "0", "1"), (None, "0", "2"))), "meter": "counted"}
    )
    asked["meters"].append({"name": "counted", "aggregation": "count"})
    assert "tier_unreachable" in codes(lint_catalog(terms_of(asked)))


def test_what_no_plan_prices_and_nobody_uses() -> None:
    two = catalog(calls("unit", unit_price="1"))
    two["plans"].append({**two["plans"][0], "version": 2})
    found = lint_catalog(terms_of(two))
    assert [(one.code, one.meter, one.version) for one in found] == [
        ("meter_unpriced", "fixes", None),
        ("plan_unused", None, 2),
    ]


# --- history ----------------------------------------------------------------------------------------------------------


def on_history(terms: dict[str, Any], *used: tuple[str, str, str, dict[str, str]]) -> dict[str, Finding]:
    rows = [
        {
            "tenant_id": tenant, "meter": meter, "quantity": Decimal(quantity), "event_time": at("2026-10-05"),
            "recorded_at": at("2026-10-05"), "producer_id": "p", "segment": number, "row": 0,
            "attributes": encode_attributes(attributes),
        }
        for number, (tenant, meter, quantity, attributes) in enumerate(used)
    ]  # fmt: skip
    engine = open_engine(threads=1)
    try:
        load_events(engine, pa.Table.from_pylist(rows, schema=usage_event_schema()))
        found = lint(engine, terms_of(terms), parse_period("2026-10"))
    finally:
        engine.close()
    return {f"{one.code} {one.edge}" if one.edge else one.code: one for one in found}


def test_a_cliff_is_priced_by_who_stood_before_it() -> None:
    found = on_history(catalog(VOLUME), ("acme", "calls", "90", {}), ("globex", "calls", "20", {}))
    # acme pays 90 x 0.50 + 5 = 50.00 and would pay 30.00 just above 100; globex pays 15.00, and is nowhere near.
    assert (found["tier_cliff 100"].tenants, found["tier_cliff 100"].amount) == (1, Decimal("20.00"))
    assert (found["tier_cliff 1000"].tenants, found["tier_cliff 1000"].amount) == (0, 0)


def test_usage_that_no_price_takes_is_found_with_its_worth() -> None:
    found = on_history(
        catalog(calls("unit", unit_price="0.10", where={"region": "eu"})),
        ("acme", "calls", "10", {"region": "eu"}),
        ("acme", "calls", "70", {"region": "us"}),
        ("globex", "calls", "5", {}),
    )
    unpriced = found["usage_unpriced"]
    assert (unpriced.tenants, unpriced.amount, unpriced.currency) == (2, Decimal("7.50"), "USD")
    assert "2 usage events, quantity 75 unit, of 2 tenants match no price" in unpriced.message


def test_prices_that_charge_the_same_events_are_priced_by_the_smaller() -> None:
    found = on_history(
        catalog(*PLANS["prices_overlap"]),
        ("acme", "calls", "10", {"region": "eu", "size": "big"}),
        ("globex", "calls", "10", {"region": "us", "size": "big"}),
    )
    assert (found["prices_overlap"].tenants, found["prices_overlap"].amount) == (1, Decimal("10.00"))


def test_a_flat_amount_without_usage_says_who_paid_it() -> None:
    found = on_history(catalog(*PLANS["flat_at_zero"]), ("acme", "calls", "10", {}))
    assert (found["flat_at_zero"].tenants, found["flat_at_zero"].amount) == (1, 5)


def test_meters_outside_the_plan_and_prices_without_usage() -> None:
    terms = catalog(calls("unit", unit_price="1"))
    found = on_history(terms, ("acme", "fixes", "3", {}))
    assert found["price_without_usage"].price_id == "calls"
    # No plan has a price on it: said once, and how much of it was used.
    assert "meter_not_in_plan" not in found
    assert found["meter_unpriced"].tenants == 1
    assert found["meter_unpriced"].message.endswith("there were 1 usage events, quantity 3")
    fixes = {"id": "fixes", "type": "unit", "meter": "fixes", "unit_price": "1"}
    terms["plans"].append({"name": "other", "version": 1, "currency": "USD", "prices": [fixes]})
    assert on_history(terms, ("acme", "fixes", "3", {}))["meter_not_in_plan"].meter == "fixes"


def test_a_meter_that_counts_is_asked_for_whole_units_only() -> None:
    terms = catalog(calls("volume", tiers=tiers(("10", "12", "0"), (None, "10", "15"))))
    # 10 are worth 120, 10.000000001 are worth 115.00, 11 are worth 125.
    assert "tier_cliff" in codes(lint_catalog(terms_of(terms)))
    terms["meters"][0]["aggregation"] = "count"
    assert "tier_cliff" not in codes(lint_catalog(terms_of(terms)))


def test_usage_below_zero_is_said() -> None:
    fixes = {"id": "fixes", "type": "unit", "meter": "fixes", "unit_price": "1"}
    found = on_history(catalog(fixes), ("acme", "fixes", "-3", {}), ("globex", "fixes", "2", {}))
    assert found["negative_usage"].tenants == 1
    assert "came out at -3" in found["negative_usage"].message


def test_findings_come_worst_first_and_the_same_every_time() -> None:
    terms = terms_of(catalog(*PLANS["tier_cliff"], {"id": "fee", "type": "flat", "amount": "0"}))
    found = lint_catalog(terms)
    ranks = [SEVERITIES.index(one.severity) for one in found]
    assert ranks == sorted(ranks)
    assert found == lint_catalog(terms)
    assert json.dumps([one.to_json() for one in found])


def test_every_code_is_documented() -> None:
    page = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert rows == {code: severity for code, (severity, _) in CODES.items()}


def test_edges_of_converted_quantities_are_asked_in_the_unit_that_is_priced() -> None:
    thousands = calls(
        "volume",
        convert={"divide": "1000", "round": "ceil"},
        included="2",
        tiers=tiers(("10", "5", "0"), (None, "1", "0")),
    )
    found = on_history(catalog(thousands), ("acme", "calls", "9500", {}))
    # 10 thousands above the 2 included are worth 50.00, the next started thousand makes it 11.00. acme pays 8 x 5.
    cliff = found["tier_cliff 12"]
    assert "12 converted unit are worth 50.00 USD, 13 converted unit 11.00 USD: 39.00 USD less" in cliff.message
    assert (cliff.tenants, cliff.amount) == (1, Decimal("29.00"))


def test_siblings_split_their_events_and_do_not_overlap() -> None:
    prices = [{**price, "sibling": "region"} for price in PLANS["prices_overlap"]]
    assert "prices_overlap" not in codes(lint_catalog(terms_of(catalog(*prices))))


def test_what_is_included_is_not_given_away_again() -> None:
    price = calls("graduated", included="50", tiers=tiers(("100", "0", "0"), (None, "1", "0")))
    assert "included_and_free_tier" in codes(lint_catalog(terms_of(catalog(price))))


def test_a_price_of_buckets_is_not_priced_as_if_it_were_one_quantity() -> None:
    found = on_history(catalog({**VOLUME, "price_per": "day"}), ("acme", "calls", "90", {}))
    assert (found["tier_cliff 100"].tenants, found["tier_cliff 100"].amount) == (None, None)


def test_minimums_that_owe_more_than_a_maximum_allows() -> None:
    prices = [{"id": name, "type": "unit", "meter": name, "unit_price": "1"} for name in ("calls", "fixes")]
    minimums = [{"id": f"least_{name}", "prices": [name], "amount": "60"} for name in ("calls", "fixes")]
    found = lint_catalog(terms_of(catalog(*prices, minimums=minimums, maximums=[{"id": "most", "amount": "100"}])))
    assert [(one.code, one.severity) for one in found] == [("maximum_below_minimum", "error")]
    assert "the maximum most is 100, below the 120 that least_calls, least_fixes owe together" in found[0].message
    fits = catalog(*prices, minimums=minimums, maximums=[{"id": "most", "amount": "120"}])
    assert lint_catalog(terms_of(fits)) == []


def test_a_maximum_below_what_minimums_owe_is_priced_on_history() -> None:
    """Two minimums of 60 below a maximum of 100: without usage acme paid 120, which is 20 more than the maximum says."""
    prices = [{"id": name, "type": "unit", "meter": name, "unit_price": "1"} for name in ("calls", "fixes")]
    minimums = [{"id": f"least_{name}", "prices": [name], "amount": "60"} for name in ("calls", "fixes")]
    found = on_history(catalog(*prices, minimums=minimums, maximums=[{"id": "most", "amount": "100"}]))
    one = found["maximum_below_minimum"]
    assert (one.price_id, one.tenants, one.amount) == ("most", 2, Decimal("40.00"))


def test_a_maximum_below_what_buckets_promise() -> None:
    """5 a day is 140 in the shortest month; a maximum of 100 takes the rest away: 55 of the 155 of a month of 31 days."""
    daily = calls("unit", unit_price="1", price_per="day", bucket_commitment={"amount": "5"})
    capped = catalog(daily, maximums=[{"id": "most", "amount": "100"}])
    [one] = [one for one in lint_catalog(terms_of(capped)) if one.code == "maximum_below_minimum"]
    assert "the maximum most is 100, below the 140 that the buckets of calls owe together" in one.message
    found = on_history(capped)["maximum_below_minimum"]
    assert (found.tenants, found.amount) == (2, Decimal("110.00"))
    kept = catalog(daily, maximums=[{"id": "most", "amount": "140"}])
    assert "maximum_below_minimum" not in codes(lint_catalog(terms_of(kept)))


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (
            {"true_up": False},
            "and what is missing of it is not owed; remove it, or write an overage_factor above 1, or true_up",
        ),
        (
            {"share": "pro_rata"},
            "nothing is dearer beyond it; remove it, or write an overage_factor above 1, or leave out share",
        ),
        ({}, None),
        ({"true_up": False, "overage_factor": "1.5", "share": "pro_rata"}, None),
    ],
)
def test_a_commitment_that_does_nothing(said: dict[str, object], what: str | None) -> None:
    price = {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "1"}
    idle = catalog(price, commitments=[{"id": "promise", "amount": "60", **said}])
    found = [one for one in lint_catalog(terms_of(idle)) if one.code == "commitment_idle"]
    assert [what in one.message for one in found if what] == ([True] if what else [])
    assert len(found) == (what is not None)


def test_a_pot_is_no_floor_of_one_period() -> None:
    """1,200 over twelve months below a maximum of 100 a month: the plan itself has compared them."""
    price = {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "1"}
    pot = {"id": "pot", "amount": "1200", "periods": 12}
    kept = catalog(price, commitments=[pot], maximums=[{"id": "most", "amount": "100"}])
    assert "maximum_below_minimum" not in codes(lint_catalog(terms_of(kept)))


def test_a_switch_that_says_which_limit_wins_is_no_mistake() -> None:
    price = {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "1"}
    limits = {"minimums": [{"id": "least", "amount": "60"}], "maximums": [{"id": "most", "amount": "10"}]}
    said = catalog(price, **limits, switches={"min_max_order": "minimum_first"})
    assert "maximum_below_minimum" not in codes(lint_catalog(terms_of(said)))


def test_lint_reads_a_price_as_its_plan_does() -> None:
    """With lower edges the cliff is at the edge itself, and zero usage may owe nothing."""
    price = calls("volume", tiers=tiers(("100", "1", "5"), (None, "0.5", "0")))
    strict = [one.message for one in lint_catalog(terms_of(catalog(price))) if one.code == "tier_cliff"]
    assert "100 unit are worth 105.00 USD, any part of a unit more 50.00 USD" in strict[0]
    lower = lint_catalog(terms_of(catalog(price, switches={"tier_edge": "lower", "flat_at_zero": "waived"})))
    assert "flat_at_zero" not in codes(lower)
    [cliff] = [one.message for one in lower if one.code == "tier_cliff"]
    assert "any part of a unit more 50.00 USD" in cliff
