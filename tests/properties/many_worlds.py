"""Many worlds in one catalog, for the tests that ask one question of each: rating fifty lines costs what rating three does.

What enters: worlds of one month. What leaves: one world in which each has plans, subscriptions, tenants and a payer of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

from tests import oracle
from tests.oracle import Line, LineKey
from tests.properties.strategies import World

# What `strategies` names: plans and their prices, subscriptions, tenants, the account.
NAMED = re.compile(r"p\d+(-\d+(-again)?)?|s\d+|t\d+|payer")


def together(worlds: Sequence[World]) -> World:
    """Return one world of all of them, their events in turn, so that a part of it is a part of each."""
    (month,) = {world.month for world in worlds}
    catalogs = [_renamed(world.catalog, number) for number, world in enumerate(worlds)]
    rows = {
        name: list(chain.from_iterable(made[name] for made in catalogs)) for name in catalogs[0] if name != "meters"
    }
    events = [[_moved(event, number) for event in world.events] for number, world in enumerate(worlds)]
    in_turn = [event for turn in zip_longest(*events) for event in turn if event is not None]
    # Meters mean the same in all worlds.
    return World({"meters": catalogs[0]["meters"], **rows}, in_turn, month)


def lines_of(worlds: Sequence[World]) -> dict[LineKey, Line]:
    """Return the oracle's lines of `together`, asked of each world alone."""
    return {
        (_renamed(subscription, number), start, _renamed(price, number), group): line
        for number, world in enumerate(worlds)
        for (subscription, start, price, group), line in oracle.lines(*world).items()
    }


def _moved(event: dict[str, Any], number: int) -> dict[str, Any]:
    # Two segments are all that a world has; which of two events is the last stays as it was.
    tenant = _renamed(event["tenant_id"], number)
    return {**event, "tenant_id": tenant, "segment": event["segment"] + 2 * number}


def _renamed(part: Any, number: int) -> Any:
    if isinstance(part, dict):
        return {_renamed(name, number): _renamed(value, number) for name, value in part.items()}
    if isinstance(part, list):
        return [_renamed(value, number) for value in part]
    return f"w{number}-{part}" if isinstance(part, str) and NAMED.fullmatch(part) else part
