"""What the section [delivery.aws_marketplace] says beside the adapter's own settings.

Enters: the section. Leaves: options. Refuses: values of another kind, as BadSettings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from billing_adapters.aws_marketplace_adapter.feeds import FeedShape
from billing_adapters.aws_marketplace_adapter.licence_states import FINAL_WINDOW
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTION = "aws_marketplace"


@dataclass(frozen=True, slots=True)
class MarketplaceOptions:
    """`products` to ask for beside those of buyers; `queue` of notices; `meters` of dimensions that have other names.

    `topics`: of SNS, whose messages are believed by their signature; none: all that is in the queue is believed.
    `contract_only`: products of which nothing beyond the contract is billed, so that nothing is metered. `subscribed`: by
    product, the dimensions of which everything is billed: its buyers have contracts that include nothing.
    `reports`: by name, which column of another usage report says what. `final_window`: how long AWS takes records of a licence
    that ended. `addresses`: of services that are elsewhere (a fake).
    """

    products: tuple[str, ...] = ()
    queue: str | None = None
    topics: tuple[str, ...] = ()
    meters: Mapping[str, str] = field(default_factory=dict)
    final_window: timedelta = FINAL_WINDOW
    addresses: Mapping[str, str] = field(default_factory=dict)
    contract_only: frozenset[str] = frozenset()
    subscribed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reports: Mapping[str, FeedShape] = field(default_factory=dict)

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> MarketplaceOptions:
        """Take its keys out of a section of the settings. Raises BadSettings."""
        try:
            return cls(
                products=tuple(options.pop("products", ())),
                queue=options.pop("queue", None),
                topics=tuple(options.pop("topics", ())),
                addresses=dict(options.pop("addresses", {})),
                contract_only=frozenset(options.pop("contract_only", ())),
                subscribed={name: tuple(held) for name, held in options.pop("subscribed", {}).items()},
                meters=dict(options.pop("dimensions", {})),
                reports={name: _shape(said) for name, said in options.pop("reports", {}).items()},
                final_window=timedelta(minutes=options.pop("final_minutes", FINAL_WINDOW // timedelta(minutes=1))),
            )
        except (TypeError, ValueError) as refused:
            raise BadSettings(f"[delivery.{SECTION}] cannot be used: {refused}") from refused


def _shape(said: Mapping[str, Any]) -> FeedShape:
    """Return the shape of a report as a section says it; `deleted_values` of the column `deleted` say that a fact is gone."""
    columns = dict(said)
    deleted = (columns.pop("deleted", ""), tuple(columns.pop("deleted_values", ())))
    return FeedShape(**{**columns, "newest": tuple(columns.pop("newest", ())), "deleted": deleted})
