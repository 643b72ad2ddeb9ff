"""Which Stripe customer a billing account is: mapped, linked, found, or made; one per account.

Enters: an account. Leaves: a customer's id, kept in the books. Refuses: to make a second one while the first can be found: by our
link, by `search` (for what is older than its lag), by the idempotency key (for what is younger than a day), and, for who begins
again, by listing what was made since. It is made in time after looking, or not at all.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from billing_adapters.stripe_adapter.calls import metadata_of

if TYPE_CHECKING:
    from billing_adapters.stripe_adapter.calls import Calls
    from billing_adapters.stripe_adapter.documents import StripeSettings

KIND = "customer"
NAME_CHARACTERS = 256
METADATA = "tallybook_account"


def find_customer(calls: Calls, account_id: str, settings: StripeSettings) -> str | None:
    """Return the customer of an account, None if it has none yet. Writes nothing at Stripe; keeps what it finds."""
    known = settings.customers.get(account_id) or calls.linked(KIND, account_id)
    if known is not None:
        return known
    quoted = account_id.replace("\\", "\\\\").replace("'", "\\'")
    found = calls.read(calls.client.v1.customers.search, {"query": f"metadata['{METADATA}']:'{quoted}'"}).data
    if not found and calls.item.is_resumed:
        made = calls.pages(calls.client.v1.customers.list, created={"gte": calls.since_s})
        found = [one for one in made if metadata_of(one).get(METADATA) == account_id]
    if not found:
        return None
    # The oldest one, should there be several, so that everybody takes the same.
    oldest = min(found, key=lambda one: (one.created, one.id))
    return calls.link(KIND, account_id, oldest.id)


def customer_of(calls: Calls, account_id: str, name: str, settings: StripeSettings) -> str:
    """Return the customer of an account, made if there is none."""
    found = find_customer(calls, account_id, settings)
    if found is not None:
        return found
    # Not the item's key: two items of one account must not make two customers.
    who = hashlib.sha256(account_id.encode()).hexdigest()[:32]
    params = {"name": name[:NAME_CHARACTERS], "metadata": {METADATA: account_id}}
    made = calls.write_shared(f"tallybook:customer:{who}", calls.client.v1.customers.create, params, in_time=True)
    return calls.link(KIND, account_id, made.id)
