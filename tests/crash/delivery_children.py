"""A deliverer that is killed at it: `python -m tests.crash.delivery_children URL ADDRESS KEY INVOICES NAME`.

It delivers invoices to the fake Stripe at the address until nothing is open. Leases are short, because the killed do not
give them back.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta

import stripe

from billing_adapters.adapter import Document
from billing_adapters.deliver import Deliverer
from billing_adapters.outcomes import Policy
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings
from tallybook.books import open_books
from tests.billing_adapters.invoices import invoice

POLICY = Policy(base_s=0.05, cap_s=0.2, attempts_max=10_000, lease=timedelta(seconds=1))


def documents(number: int) -> list[Document]:
    return [Document(invoice(n, "49.00", "1.00", "-0.50", account=f"account-{n % 3}")) for n in range(1, number + 1)]


def main() -> None:
    url, address, key, number, name = sys.argv[1:]
    stripe.enable_telemetry = False
    engine = open_books(url)
    client = stripe.StripeClient(key, base_addresses={"api": address}, max_network_retries=0)
    adapter = StripeAdapter(client, StripeSettings(lines_per_call=1))
    deliverer = Deliverer(engine, adapter, name=name, policy=POLICY, calls_per_s=1000)
    deliverer.outbox.enqueue([intent for one in documents(int(number)) for intent in adapter.prepare(one)])
    while deliverer.outbox.next_due_at() is not None:
        deliverer.run()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
