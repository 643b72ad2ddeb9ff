"""How the hours of a marketplace split over tags that the buyer is to see: by attributes of the usage, as the settings say.

Enters: which attribute becomes which tag, by dimension (`allocations` of a section). Leaves: the shares of an hour, each with
its tags and, as its weight, what was used in that hour with them. Refuses: attributes that a meter does not declare, and more
tags than AWS takes. Hours are of meters that add up, so the shares of an hour are all of its use.

The record's quantity is not touched: it is what a contract is worth now less what was told before, and it is shared out by the
weights, to the last decimal. An hour in which nothing was used, which only carries what came late, has no tags.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.aws_marketplace_adapter.records import TAGS_MAX, is_tag_key, tag_value, within_limits
from metering.numbers import exact_sum
from metering.usage import Selector, Span, aggregate, open_evidence
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing_adapters.aws_marketplace_adapter.records import Shares
    from tallybook.workspace import Workspace

# Whose use of which meter, told as which dimension, from when to when.
Hour = tuple[str, str, str, datetime, datetime]
_SET = "allocated"


@dataclass(frozen=True, slots=True)
class Allocations:
    """By dimension, pairs of (attribute, tag key). A dimension that is not named has no tags."""

    tags: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    @classmethod
    def taken_from(cls, name: str, options: dict[str, Any]) -> Allocations:
        """Take `allocations` out of a section of the settings. Raises BadSettings."""
        found = {}
        for dimension, named in options.pop("allocations", {}).items():
            if not isinstance(named, dict) or not 1 <= len(named) <= TAGS_MAX:
                raise BadSettings(
                    f"[delivery.{name}.allocations] {dimension}: write 1 to {TAGS_MAX} attributes, each with its tag: "
                    '{model = "Model"}'
                )
            wrong = [tag for tag in named.values() if not isinstance(tag, str) or not is_tag_key(tag)]
            if wrong or len(set(named.values())) < len(named):
                said = f"AWS takes no tag {wrong[0]!r}" if wrong else "two attributes have the same tag"
                raise BadSettings(f"[delivery.{name}.allocations] {dimension}: {said}; write another")
            found[dimension] = tuple(sorted(named.items()))
        return cls(found)

    def of(self, workspace: Workspace, hours: Sequence[Hour]) -> dict[Hour, Shares]:
        """Return the shares of the hours that have any. Raises BadSettings for an attribute that is not there."""
        asked = [hour for hour in sorted(set(hours)) if hour[2] in self.tags]
        if not asked:
            return {}
        selectors = [self._selector(workspace, meter, name) for meter, name in sorted({hour[1:3] for hour in asked})]
        spans = [
            Span(number, tenant, f"{_SET} {meter} {name}", start, end)
            for number, (tenant, meter, name, start, end) in enumerate(asked)
        ]
        engine = open_evidence(*workspace.evidence())
        try:
            aggregate(engine, spans, selectors)
            rows = engine.execute("SELECT span_id, group_key, quantity FROM usage WHERE quantity > 0").fetchall()
        finally:
            engine.close()
        weights: defaultdict[Hour, dict[tuple[tuple[str, str], ...], Decimal]] = defaultdict(dict)
        for number, group, quantity in rows:
            hour, attributes = asked[number], orjson.loads(group)
            tags = tuple((tag, tag_value(attributes[name])) for name, tag in self.tags[hour[2]] if attributes.get(name))
            # Values of which AWS takes none are no tag; what they leave equal is added up.
            weights[hour][tags] = exact_sum([weights[hour].get(tags, Decimal(0)), quantity])
        return {hour: shares_of(held) for hour, held in weights.items()}

    def _selector(self, workspace: Workspace, meter_name: str, dimension: str) -> Selector:
        meter = workspace.terms_or_empty().meters[meter_name]
        names = tuple(name for name, _ in self.tags[dimension])
        unknown = [name for name in names if meter.attributes and name not in meter.attributes]
        if unknown:
            raise BadSettings(
                f"allocations of {dimension}: meter {meter_name} has no attribute {unknown[0]}; correct tallybook.toml"
            )
        chosen = f"{_SET} {meter_name} {dimension}"
        return Selector(chosen, chosen, meter_name, meter.aggregation, by=names, measure=meter.measure)


def added(parts: Sequence[Shares]) -> Shares:
    """Return shares of several tenants as those of all of them."""
    weights: dict[tuple[tuple[str, str], ...], Decimal] = {}
    for tags, weight in (one for part in parts for one in part):
        key = tuple(sorted(tags.items()))
        weights[key] = exact_sum([weights.get(key, Decimal(0)), weight])
    return shares_of(weights)


def shares_of(held: Mapping[tuple[tuple[str, str], ...], Decimal]) -> Shares:
    """Return weights as shares, the largest first, within what AWS takes of one record."""
    ordered = sorted(held.items(), key=lambda one: (-one[1], one[0]))
    return within_limits([(dict(tags), weight) for tags, weight in ordered])
