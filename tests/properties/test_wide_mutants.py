"""The rules of held units, of several meters and of what is around them, broken on purpose. See test_mutants.py for the idea.

Each mutant names the form of the prices that it breaks; it is rated over small wide worlds of nothing else.
"""

from __future__ import annotations

from functools import cache
from itertools import count, islice
from typing import NamedTuple

import pytest

from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.checks import lines_differ
from tests.properties.mutated import RATING, USAGE, mutate
from tests.properties.strategies import World
from tests.properties.wide_worlds import wide_world_of

# The worlds of a file are made by the first test that needs them; on a crowded machine that takes minutes.
pytestmark = pytest.mark.timeout(900)

WORLDS = 16
# How many billing periods a small world may have.
FEW = range(1, 6)


class Mutant(NamedTuple):
    form: str
    package: str
    file: str
    find: str
    replace: str


BY_DAY = "charge_graduated_by_day"
MUTANTS = {
    "the last date is not held": Mutant("held", "rating", BY_DAY, "span_day.last_day + 1)", "span_day.last_day)"),
    "every tier holds a unit": Mutant("held", "rating", BY_DAY, "- tier.lower_bound, 0)", "- tier.lower_bound, 1)"),
    "what history left is forgotten": Mutant(
        "held", "rating", BY_DAY, "selected.quantity_sum AS quantity", "selected.quantity_sum * selected.event_count"
    ),
    "a tier is entered at its edge": Mutant(
        "held", "rating", BY_DAY, "held.level > tier.lower_bound OR", "held.level >= tier.lower_bound OR"
    ),
    "flat amounts are whole": Mutant("held", "rating", BY_DAY, "WHEN flats_at_peak THEN", "WHEN true THEN"),
    "flat amounts outlive a level below zero": Mutant(
        "held", "rating", BY_DAY, "WHERE NOT held.flats_at_peak OR held.last_level >= 0", "WHERE true"
    ),
    "days are those of the service": Mutant(
        "held", "rating", BY_DAY, "span_day.full_days\n", "span_day.last_day - span_day.first_day + 1 AS full_days\n"
    ),
    "a volume of held units reaches the tier of its shares": Mutant(
        "held", "rating", "rated_usage_held", "greatest(held.units, 0)", "tiers_reached"
    ),
    "a limit is exceeded when it is reached": Mutant(
        "capacity", "rating", "charge_capacity", "reached.quantity > price_limit", "reached.quantity >= price_limit"
    ),
    "one limit that holds is enough": Mutant(
        "capacity", "rating", "charge_capacity", "JOIN price_limit USING (plan_key, price_id, selector_id)",
        "JOIN price_limit ON price_limit.plan_key = reached.plan_key AND price_limit.price_id = reached.price_id"
        " AND price_limit.selector_id = reached.selector_id AND reached.selector_id = reached.price_id",
    ),
    "capacity without use is due": Mutant(
        "capacity", "rating", "charge_capacity", "bool_or(event_count > 0 OR quantity > 0)", "true"
    ),
    "the widest tier is chosen": Mutant(
        "capacity", "rating", "charge_capacity", "arg_min(tier.flat_amount, tier.tier)", "arg_max(tier.flat_amount, tier.tier)"
    ),
    "a ratio rounds down": Mutant("combination", "metering", "divide_half_away", ">= divisor", ">= 3 * divisor"),
    "the other meter of all groups counts": Mutant(
        "combination", "rating", "usage_combined", "AND other.group_key = mine.group_key", ""
    ),
    "minus is plus": Mutant(
        "combination", "rating", "usage_combined", "mine.quantity - coalesce", "mine.quantity + coalesce"
    ),
    "what only the other meter has is free": Mutant(
        "combination", "rating", "usage_combined", "AND price.combine_by = 'add'", "AND price.combine_by = 'none'"
    ),
    "a difference is also of what only the other meter has": Mutant(
        "combination", "rating", "usage_combined", "AND price.combine_by = 'add'", "AND price.combine_by <> 'none'"
    ),
    "the smallest group is priced": Mutant(
        "largest", "rating", "rated_usage_pooled", "ORDER BY quantity DESC, group_key", "ORDER BY quantity, group_key"
    ),
    "every group has a first flat amount": Mutant(
        "largest", "rating", "rated_usage_pooled", "is_priced AND (NOT", "(NOT"
    ),
    "a part of a period includes all units": Mutant(
        "prorated", "rating", "rated_usage_pooled", "AND price.included_is_by_span", "AND false"
    ),
    "a bucket beyond its promise is not dearer": Mutant(
        "promised", "rating", "charge_bucket_commitment", "sum(ratio_of(beyond, overage))", "sum(0)"
    ),
    "the minimum of a line is never a share": Mutant(
        "clamped", "rating", "charge_line_limit", "coalesce(share.minimum, price", "coalesce(price.line_minimum, price"
    ),
    "a line is not cut to its maximum": Mutant(
        "clamped", "rating", "charge_line_limit", "limited_amount(plain_amount, minimum, maximum)",
        "limited_amount(plain_amount, minimum, NULL)",
    ),
    "a percentage is of the first price alone": Mutant(
        "percent_of", "rating", "charge_percent_of", "coalesce(sum(charge.exact_amount), 0)",
        "coalesce(max(charge.exact_amount), 0)",
    ),
    "a percentage of prices has no minimum": Mutant(
        "percent_of", "rating", "charge_percent_of", "limited_amount(plain_amount, minimum, maximum)",
        "limited_amount(plain_amount, NULL, maximum)",
    ),
    "a pool takes the dearest first, whatever it says": Mutant(
        "pooled", "rating", "rated_usage_matrix", "THEN -1 ELSE 1 END", "THEN -1 ELSE -1 END"
    ),
    "each cell has the whole pool": Mutant(
        "pooled", "rating", "rated_usage_matrix", "greatest(pool - quantity_before, 0)", "greatest(pool, 0)"
    ),
    "all lines of a price share a pool": Mutant(
        "pooled", "rating", "rated_usage_matrix", "PARTITION BY usage.span_id, usage.price_id, usage.group_key",
        "PARTITION BY usage.span_id, usage.price_id",
    ),
    "billionths that are left are lost": Mutant(
        "in_proportion", "rating", "rated_usage_pro_rata", "WHEN place <= units_left THEN 1", "WHEN false THEN 1"
    ),
    "billionths that are left go to the smallest remainders": Mutant(
        "in_proportion", "rating", "rated_usage_pro_rata", "ORDER BY low % units_of_all DESC", "ORDER BY low % units_of_all"
    ),
    "each cell has a share of the whole price": Mutant(
        "in_proportion", "rating", "rated_usage_pro_rata", "PARTITION BY usage.span_id, usage.price_id, usage.group_key",
        "PARTITION BY usage.span_id, usage.price_id",
    ),
    "a group costs what it costs in any tier": Mutant(
        "by_group", "rating", "charge_volume", "AND of_group.tier = tier.tier", "AND of_group.tier >= tier.tier"
    ),
    "no group has a price of its own": Mutant(
        "by_group", "rating", "charge_volume", "coalesce(of_group.unit_price, tier.unit_price)", "tier.unit_price"
    ),
    "tiers begin again in every period": Mutant(
        "lifelong", "rating", "rated_usage_before", "coalesce(earlier.quantity, 0)", "0"
    ),
    "groups climb the tiers of others": Mutant(
        "lifelong", "rating", "rated_usage_before", "AND earlier.group_key = usage.group_key", ""
    ),
    "every period owes the first flat amount": Mutant(
        "lifelong", "rating", "rated_usage_before", "billing_span.service_start = billing_span.since", "true"
    ),
    "what was used before the plan counts": Mutant(
        "lifelong", "metering", "part_state_before", "event.event_time >= span.since", "true"
    ),
    "use at the start of a span was before it": Mutant(
        "lifelong", "metering", "part_state_before", "event.event_time < span.service_start",
        "event.event_time <= span.service_start",
    ),
    "all lines of a price have one limit": Mutant(
        "clamped", "rating", "charge_line_limit", "LEFT JOIN charge USING (span_id, price_id, group_key)",
        "LEFT JOIN charge ON charge.span_id = line.span_id AND charge.price_id = line.price_id",
    ),
    "a tier takes its percentage off all money up to its edge": Mutant(
        "money_off", "rating", "charge_amount_tier", "- tier.lower_bound::DECIMAL(38, 21)", "- 0::DECIMAL(38, 21)"
    ),
    "a tier of money goes on beyond its edge": Mutant(
        "money_off", "rating", "charge_amount_tier", "coalesce(tier.upper_bound::DECIMAL(38, 21), plain.exact_amount)",
        "plain.exact_amount",
    ),
    "all lines of a price climb the tiers of money together": Mutant(
        "money_off", "rating", "charge_amount_tier", "        charge.group_key,\n",
        "        min(charge.group_key) AS group_key,\n",
    ),
    "money that does not reach a tier is raised by it": Mutant(
        "money_off", "rating", "charge_amount_tier", "plain.exact_amount > tier.lower_bound", "true"
    ),
    "a bucket without use owes nothing": Mutant(
        "promised", "rating", "charge_bucket_commitment", "LEFT JOIN spent", "JOIN spent"
    ),
}  # fmt: skip


@cache
def worlds(form: str) -> list[tuple[World, dict[LineKey, Line]]]:
    """Return small worlds of prices of one form, with the oracle's lines; those whose lines are worth something."""
    made = (wide_world_of(seed, plans=1, prices=3, events=20, form=form) for seed in count())
    lines = (
        (world, oracle.lines(*world))
        for world in made
        if len(list(oracle.rated_periods(world.catalog, world.month))) in FEW
    )
    return list(
        islice(
            ((world, found) for world, found in lines if sum(1 for line in found.values() if line.exact) > 1), WORLDS
        )
    )


def is_caught(form: str) -> bool:
    return lines_differ(worlds(form))


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, *mutant[1:], (*USAGE, *RATING))
    assert is_caught(mutant.form)
