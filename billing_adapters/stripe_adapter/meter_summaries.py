"""What Stripe's meters have counted: totals of windows, of the customers and meters that are asked for.

Enters: a client, and the series that were told to Stripe. Leaves: a `ProviderList` with PROVIDER_QUANTITIES, one row per account,
meter and window that is over. Refuses: half a list, and windows that are not over, which are still counted.

Stripe lists nothing by itself: a summary is of one meter and one customer. Its `aggregated_value` is a double, good for nine
digits here, and is minutes late. A window in which nothing was counted has no row. Source: reference/providers.md, section 3.2.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import stripe

from billing_adapters.errors import ProviderAway
from billing_adapters.provider_list import QUANTITIES, ProviderList, from_double, provider_table
from billing_adapters.stripe_adapter.answers import answer_of
from billing_adapters.stripe_adapter.calls import metadata_of
from billing_adapters.stripe_adapter.customers import METADATA
from billing_adapters.stripe_adapter.listing import pages
from metering.clock import from_us, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from billing_adapters.provider_list import Asked

ADAPTER = "stripe_meters"
SETTLES = timedelta(minutes=15)
GROUPS = {timedelta(hours=1): "hour", timedelta(days=1): "day"}
_Row = dict[str, Any]


def counted_by_meters(
    client: stripe.StripeClient,
    start: datetime,
    end: datetime,
    *,
    asked: Sequence[Asked],
    customers: Mapping[str, str],
    read_at: datetime,
    spend: Callable[[], object] = lambda: None,
) -> ProviderList:
    """Return what meters counted of the series that are asked for. `customers` wins over what a series says of its customer.

    Raises AdapterMisconfigured for keys and rights, ProviderAway for everything else (a retry may help).
    """
    v1: Any = client.v1
    try:
        meters = {one.event_name: one.id for one in pages(v1.billing.meters.list, {}, spend)} if asked else {}
        known = _customers(v1, asked, customers, spend)
        rows = [
            row
            for one in asked
            if one.name in meters and one.account_id in known
            for row in _windows(v1, meters[one.name], known[one.account_id], one, read_at, spend)
        ]
    except stripe.StripeError as error:
        # 401 and 403 raise AdapterMisconfigured there.
        said = answer_of(error).detail
        raise ProviderAway(
            f"what Stripe's meters counted could not be read to its end: {said}; read it again", adapter=ADAPTER
        ) from error
    return ProviderList(ADAPTER, start, end, read_at, {QUANTITIES: provider_table(QUANTITIES, rows)})


def _customers(
    v1: Any, asked: Sequence[Asked], customers: Mapping[str, str], spend: Callable[[], object]
) -> dict[str, str]:
    """Return the customer of each account that is asked for; where nobody knows it, of all customers the oldest that names it."""
    known = {one.account_id: one.account_ref for one in asked if one.account_ref is not None} | dict(customers)
    wanted = {one.account_id for one in asked} - known.keys()
    if wanted:
        named = [(one.created, one.id, metadata_of(one).get(METADATA)) for one in pages(v1.customers.list, {}, spend)]
        # The newest first, so that the oldest stays.
        known |= {account: identity for _, identity, account in sorted(named, reverse=True) if account in wanted}
    return known


def _windows(
    v1: Any, meter_id: str, customer: str, one: Asked, read_at: datetime, spend: Callable[[], object]
) -> list[_Row]:
    """Return the windows of one series that begin in its span and are over."""
    length_s = one.window // timedelta(seconds=1)
    # Stripe takes whole windows only: the first is the one that holds the start.
    begin_s = to_us(one.start) // 1_000_000 // length_s * length_s
    end_s = min(to_us(one.end), to_us(read_at)) // 1_000_000 // length_s * length_s
    if end_s <= begin_s:
        return []
    span = {"customer": customer, "start_time": begin_s, "end_time": end_s, "value_grouping_window": GROUPS[one.window]}
    return [
        {
            "adapter": ADAPTER,
            "account_id": one.account_id,
            "name": one.name,
            "start": from_us(found.start_time * 1_000_000),
            "end": from_us(found.end_time * 1_000_000),
            "quantity": from_double(found.aggregated_value),
            "status": "counted",
            "provider_id": found.id,
        }
        for found in pages(partial(v1.billing.meters.event_summaries.list, meter_id), span, spend)
    ]
