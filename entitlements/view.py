"""The view: what every tenant may use at one instant, compiled so that a check is a look-up.

Enters: the resolved entitlements of each tenant, and what is left of its grants. Leaves: an immutable `View`, made at once
and put in the place of the one before. Refuses: to be edited, and to know where it comes from; a `Source` reads it.

What tenants share is held once: rules by plan, figures by who has used nothing. A tenant of its own costs one small object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from entitlements.decisions import Standing, Value
from metering.clock import EPOCH
from metering.measures import PLAIN

if TYPE_CHECKING:
    from entitlements.features import Entitlement
    from metering.catalog import Meter

# How one more event changes the usage of a meter: what this process used since the view was read is counted so.
#   adds     by its quantity (sum), counts  by one (count), raises  to its quantity if that is more (max),
#   sets     to its quantity (last), hides  in a way that only the lake can tell; the next view knows it.
Fold = Literal["adds", "counts", "raises", "sets", "hides"]
_FOLDS: Mapping[str, Fold] = {"sum": "adds", "count": "counts", "max": "raises", "last": "sets"}


def fold_of(meter: Meter) -> Fold:
    """Return how one more event changes the usage of a meter."""
    # What a period begins with changes nothing of what an event adds. Buckets, shares of days and rounding do, and so does
    # an expression: the quantity of such an event is worked out when it comes to the lake. A count looks at none.
    is_known = meter.expression is None or meter.aggregation == "count"
    is_plain = is_known and replace(meter.measure, carry=PLAIN.carry) == PLAIN
    return _FOLDS.get(meter.aggregation, "hides") if is_plain else "hides"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entitlement as a check reads it, shared by all tenants that have it from the same place.

    `place` is where its figures stand in a tenant's `Held`; None: it has none.
    """

    feature: str
    type: Literal["boolean", "static", "metered"]
    source: str
    is_on: bool = True
    value: Value | None = None
    meter: str | None = None
    fold: Fold = "hides"
    is_hard: bool = False
    stops: bool = False
    opens_on_outage: bool = True
    place: int | None = None

    @classmethod
    def of(
        cls,
        entitlement: Entitlement,
        source: str,
        *,
        fold: Fold = "hides",
        place: int | None = None,
        stops: bool = False,
    ) -> Rule:
        """Return the rule that an entitlement of the catalog says."""
        return cls(
            feature=entitlement.feature,
            type=entitlement.type,
            source=source,
            is_on=entitlement.enabled is not False,
            value=entitlement.typed_value,
            meter=entitlement.meter,
            fold=fold,
            is_hard=entitlement.is_hard,
            stops=stops or entitlement.stops,
            opens_on_outage=entitlement.opens_on_outage,
            place=place,
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What is left of one metered entitlement, in billionths; see `Standing`."""

    limit: int | None = None
    used: int = 0
    remaining: int = 0
    resets_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HardFigures(Figures):
    """What is left of a hard limit, and its window [start, end); `end` None: it never starts anew.

    `next_limit` is what the window after it, which ends at `next_end`, begins with at the least.
    """

    start: datetime = EPOCH
    end: datetime | None = None
    next_end: datetime | None = None
    next_limit: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What one tenant holds: its rules by feature, and the figures of the metered ones.

    `elsewhen` names features that it is entitled to at another time only: a subscription that begins later, or is over.
    """

    rules: Mapping[str, Rule]
    figures: tuple[Figures, ...] = ()
    elsewhen: frozenset[str] = frozenset()

    def standing(self, tenant: str, rule: Rule) -> Standing:
        """Return what is known of one of its rules."""
        numbers = _NONE if rule.place is None else self.figures[rule.place]
        return Standing(
            tenant,
            rule.feature,
            numbers.limit,
            numbers.used,
            numbers.remaining,
            numbers.resets_at,
            rule.value,
            rule.source,
        )


_NONE = Figures()
NOTHING = Held({})


@dataclass(frozen=True, slots=True)
class View:
    """What every tenant may use as of an instant, with usage up to a cut of the lake: {producer: last segment}."""

    tenants: Mapping[str, Held] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    as_of: datetime | None = None

    def held(self, tenant: str) -> Held:
        return self.tenants.get(tenant, NOTHING)


class Source(Protocol):
    """Where views come from. Called from one thread at a time, never on the way of a check."""

    def read(self) -> View:
        """Return the view as of now. Whatever it raises means that the source is away; it is asked again later."""
        ...


@dataclass(frozen=True, slots=True)
class FixedSource:
    """A source that always knows the same: for scripts and tests, and for what a file or a service gave."""

    view: View

    def read(self) -> View:
        return self.view
