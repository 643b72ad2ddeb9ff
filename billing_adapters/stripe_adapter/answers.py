"""What Stripe's errors mean, by the retry table of providers.md, section 10.

Enters: an error of the SDK. Leaves: an answer in our words. Raises AdapterMisconfigured for keys and rights, which say nothing of
an item. The SDK itself retries nothing: the client is made with max_network_retries=0, and a 429 it never retries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing_adapters.adapter import Answer
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.outcomes import Outcome

if TYPE_CHECKING:
    import stripe

NOT_SAVED = frozenset({409, 429})


def answer_of(error: stripe.StripeError) -> Answer:
    """Return the answer that an error is. Raises AdapterMisconfigured for 401 and 403."""
    status, code = error.http_status, error.code
    said = str(error.user_message or error)
    if status in {401, 403}:
        raise AdapterMisconfigured(
            f"Stripe refuses our key ({status}): {said}; nothing is lost, correct the key and deliver again",
            adapter="stripe",
            request_id=error.request_id,
        ) from error
    if status == 429 or code == "rate_limit":
        outcome = Outcome.RETRY_SAFE
    elif status is None or status == 409 or status >= 500:
        outcome = Outcome.UNKNOWN
    elif is_other_parameters(error) or is_taken_number(error):
        # Who meets this began before and does not remember it; reading back tells what is there.
        outcome = Outcome.UNKNOWN
    else:
        outcome = Outcome.REJECTED_PERMANENT
    return Answer(outcome, said, code=str(code or status or type(error).__name__), request_id=error.request_id)


def is_answered_500(error: stripe.StripeError) -> bool:
    """Did it fail at Stripe? Then the very same failure is replayed under the same key for a day (v1)."""
    return error.http_status is not None and error.http_status >= 500


def is_missing(error: stripe.StripeError) -> bool:
    """Is the thing that was asked for not there?"""
    return error.http_status == 404


def is_other_parameters(error: stripe.StripeError) -> bool:
    """Was the key used with other parameters before?"""
    return type(error).__name__ == "IdempotencyError"


def is_taken_number(error: stripe.StripeError) -> bool:
    """Is there an invoice with this number already?"""
    return error.http_status == 400 and getattr(error, "param", None) == "number"
