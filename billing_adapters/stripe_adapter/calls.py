"""One conversation with Stripe about one item: its keys, its pace, what is kept on the way.

Enters: the SDK's client, an item, a desk. Leaves: objects of the SDK. Refuses: calls without a key of ours, and calls faster than
the pace or beyond the lease.

A key is the delivery, its generation, and the step. The generation is raised when a call was *answered* by a failure of
Stripe's own, because that answer is replayed under the old key for a day; who comes next looks first, and then writes under
a new key. Silence does not raise it: the same key is what makes the same call harmless.

Keys live for a day. Of an invoice only finalizing counts, and it names its draft. What has effect with one call, and could come
later than its key lives, is written `in_time`: over the connection of the look before it, or not at all (`one_connection`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import stripe

from billing_adapters.stripe_adapter.answers import is_answered_500
from billing_adapters.stripe_adapter.one_connection import IN_TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from billing_adapters.adapter import Desk, Item

PAGE = 100
# How far Stripe's clock and ours may be apart when we look for what was made since.
CLOCKS_APART_S = 86_400


class Calls:
    """The calls of one item. `client` is a `stripe.StripeClient` that retries nothing by itself."""

    def __init__(self, client: Any, item: Item, desk: Desk) -> None:
        self.client = client
        self.item = item
        self._desk = desk
        self._progress = dict(item.progress)

    def kept(self, name: str) -> str | None:
        """Return what an attempt of this item kept under a name."""
        return self._progress.get(name) or None

    def keep(self, **progress: str) -> None:
        """Keep something for whoever comes next."""
        self._progress.update(progress)
        self._desk.keep(self.item.delivery_id, **progress)

    def linked(self, kind: str, our_id: str) -> str | None:
        return self._desk.linked(kind, our_id)

    def link(self, kind: str, our_id: str, provider_id: str) -> str:
        return self._desk.link(kind, our_id, provider_id)

    @property
    def since_s(self) -> int:
        """From when on anything of this item can have been made, by Stripe's clock."""
        return int(self.item.enqueued_at.timestamp()) - CLOCKS_APART_S

    def read(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Read something, in the provider's pace."""
        self._desk.spend()
        return call(*arguments)

    def write(self, step: str, call: Callable[..., Any], *arguments: Any, in_time: bool = False) -> Any:
        """Write something under the key of a step. `in_time`: only over the connection of the read just before it."""
        return self.write_shared(f"{self.item.delivery_id}:{step}", call, *arguments, in_time=in_time)

    def write_shared(self, key: str, call: Callable[..., Any], *arguments: Any, in_time: bool = False) -> Any:
        """Write something under a key that other items may use as well."""
        self._desk.spend()
        generation = self._progress.get("generation", "1")
        options: dict[str, Any] = {"idempotency_key": f"{key}:{generation}"}
        if in_time:
            options["headers"] = {IN_TIME: "1"}
        try:
            return call(*arguments, options)
        except stripe.StripeError as error:
            if is_answered_500(error):
                self.keep(generation=str(int(generation) + 1))
            raise

    def pages(self, call: Callable[..., Any], *arguments: Any, **params: Any) -> Iterator[Any]:
        """Yield the rows of a list, page by page, in the provider's pace."""
        after: dict[str, Any] = {}
        while True:
            page = self.read(call, *arguments, {**params, **after, "limit": PAGE})
            yield from page.data
            if not page.has_more:
                return
            after = {"starting_after": page.data[-1].id}


def metadata_of(thing: Any) -> Mapping[str, str]:
    """Return the metadata of an object of the SDK as a mapping."""
    found: Mapping[str, str] = thing.metadata.to_dict() if thing.metadata is not None else {}
    return found
