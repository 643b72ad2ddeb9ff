"""The fake Stripe is faithful: what reference/providers.md, section 3, says of Stripe is what the real SDK meets here."""

from __future__ import annotations

import sys
from datetime import timedelta
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
import stripe

from billing_adapters.testing.contract import BEGINNING
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.clock import FixedClock
from tests.billing_adapters import stripe_world  # noqa: F401 (it turns the SDK's telemetry off)

NOW_S = int(BEGINNING.timestamp())


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(BEGINNING)


@pytest.fixture
def fake(clock: FixedClock) -> StripeFake:
    return StripeFake(clock)


@pytest.fixture
def v1(fake: StripeFake) -> Any:
    return fake.client().v1


@pytest.fixture
def customer(v1: Any) -> str:
    return str(v1.customers.create({"name": "Acme"}).id)


def key(text: str) -> dict[str, str]:
    return {"idempotency_key": text}


def open_invoice(v1: Any, customer: str, *amounts: int, **more: Any) -> Any:
    made = v1.invoices.create({"customer": customer, "currency": "usd", **more})
    if amounts:
        v1.invoices.add_lines(made.id, {"lines": [{"amount": amount} for amount in amounts]})
    return v1.invoices.finalize_invoice(made.id, {})


# --- idempotency and failures -------------------------------------------------------------------------------------------


def test_a_key_replays_for_a_day_and_is_a_new_request_after_it(v1: Any, clock: FixedClock) -> None:
    first = v1.customers.create({"name": "A"}, key("k"))
    clock.advance(timedelta(hours=23, minutes=59))
    assert v1.customers.create({"name": "A"}, key("k")).id == first.id
    clock.advance(timedelta(minutes=1))
    assert v1.customers.create({"name": "A"}, key("k")).id != first.id


def test_a_key_with_other_parameters_is_refused(v1: Any) -> None:
    v1.customers.create({"name": "A"}, key("k"))
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        v1.customers.create({"name": "B"}, key("k"))


def test_an_answered_500_is_replayed_and_nothing_is_done_again(v1: Any, fake: StripeFake) -> None:
    fake.fail("error_after")
    for _ in range(3):
        with pytest.raises(stripe.APIError):
            v1.customers.create({"name": "A"}, key("k"))
    assert len(fake.store.all("customer")) == 1
    fake.fail("error")
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            v1.customers.create({"name": "B"}, key("other"))
    assert len(fake.store.all("customer")) == 1


def test_what_fails_validation_or_is_throttled_is_not_kept(v1: Any, fake: StripeFake) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        v1.customers.create({"nam": "A"}, key("k"))
    for how, error in (("throttled", stripe.RateLimitError), ("conflict", stripe.APIError)):
        fake.fail(how)
        with pytest.raises(error):
            v1.customers.create({"name": "A"}, key("k"))
    assert v1.customers.create({"name": "A"}, key("k")).name == "A"


def test_a_lost_answer_is_done_and_one_that_did_not_arrive_is_not(v1: Any, fake: StripeFake) -> None:
    for how, there in (("lost", 1), ("away", 1)):
        fake.fail(how)
        with pytest.raises(stripe.APIConnectionError):
            v1.customers.create({"name": "A"})
        assert len(fake.store.all("customer")) == there


def test_more_writes_than_the_rate_are_refused_until_a_second_is_over(clock: FixedClock) -> None:
    v1 = StripeFake(clock, writes_per_s=2).client().v1
    for _ in range(2):
        v1.customers.create({"name": "A"})
    with pytest.raises(stripe.RateLimitError):
        v1.customers.create({"name": "A"})
    clock.advance(timedelta(seconds=1))
    v1.customers.create({"name": "A"})


def test_keys_that_are_not_known_or_may_not(fake: StripeFake, clock: FixedClock) -> None:
    other = StripeFake(clock, api_key="sk_test_other").client()
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient("sk_test_wrong", http_client=fake.client()._requestor._client).v1.customers.list()
    assert other.v1.customers.list().data == []
    fake.is_revoked = True
    with pytest.raises(stripe.PermissionError):
        fake.client().v1.customers.list()


# --- shapes -------------------------------------------------------------------------------------------------------------


def test_words_that_stripe_does_not_list_are_refused(v1: Any, customer: str) -> None:
    """The SDK's types end every list of words with `|str`, so that its own check lets them pass."""
    with pytest.raises(stripe.InvalidRequestError, match="collection_method"):
        v1.invoices.create({"customer": customer, "collection_method": "later"})
    with pytest.raises(stripe.InvalidRequestError, match="reason"):
        v1.credit_notes.create({"invoice": "in_1", "amount": 1, "reason": "because"})


@pytest.mark.parametrize(
    "line",
    [{"amount": 1.5}, {"amount": 1.0}, {"amount": "1E2"}, {"amount": Decimal("1E+2")}, {"amount": "1_0"}, {"amount": True},
     {"amount": 1, "amuont": 2}, {"amount": 1, "quantity_decimal": Decimal("0.0000001")}, {"amount": 1, "api_key": "x"},
     {"amount": 1, "period": {"start": 1}}],
)  # fmt: skip
def test_what_the_sdk_would_let_through_is_refused(v1: Any, customer: str, line: dict[str, Any]) -> None:
    made = v1.invoices.create({"customer": customer})
    with pytest.raises(stripe.InvalidRequestError):
        v1.invoices.add_lines(made.id, {"lines": [line]})


def test_options_are_no_parameters_and_missing_ones_are_missed(v1: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: api_key"):
        v1.customers.create({"api_key": "x"})
    with pytest.raises(stripe.InvalidRequestError, match="Field required"):
        v1.credit_notes.create({"amount": 1})


def test_metadata_has_limits(v1: Any) -> None:
    for metadata in ({"k" * 41: "v"}, {"k": "v" * 501}, {f"k{n}": "v" for n in range(51)}):
        with pytest.raises(stripe.InvalidRequestError):
            v1.customers.create({"metadata": metadata})


# --- invoices -----------------------------------------------------------------------------------------------------------


def test_the_states_of_an_invoice(v1: Any, customer: str) -> None:
    draft = v1.invoices.create({"customer": customer})
    for act in (v1.invoices.void_invoice, v1.invoices.mark_uncollectible):
        with pytest.raises(stripe.InvalidRequestError, match="draft invoice cannot be"):
            act(draft.id, {})
    assert v1.invoices.delete(draft.id).deleted
    with pytest.raises(stripe.InvalidRequestError, match="No such invoice"):
        v1.invoices.retrieve(draft.id)
    opened = open_invoice(v1, customer, 4900)
    for act in (lambda: v1.invoices.delete(opened.id), lambda: v1.invoices.finalize_invoice(opened.id, {}),
                lambda: v1.invoices.add_lines(opened.id, {"lines": [{"amount": 1}]})):  # fmt: skip
        with pytest.raises(stripe.InvalidRequestError, match="open invoice cannot be"):
            act()
    assert v1.invoices.void_invoice(opened.id, {}).status == "void"
    bad = open_invoice(v1, customer, 4900)
    v1.invoices.mark_uncollectible(bad.id, {})
    assert v1.invoices.pay(bad.id, {}).status == "paid"
    with pytest.raises(stripe.InvalidRequestError, match="paid invoice cannot be voided"):
        v1.invoices.void_invoice(bad.id, {})


def test_an_invoice_has_up_to_250_items(v1: Any, customer: str) -> None:
    draft = v1.invoices.create({"customer": customer})
    v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}] * 250})
    with pytest.raises(stripe.InvalidRequestError, match="up to 250 items"):
        v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}]})
    lines = list(v1.invoices.line_items.list(draft.id, {"limit": 100}).auto_paging_iter())
    assert len(lines) == 250
    assert len(v1.invoices.retrieve(draft.id).lines.data) == 10


def test_numbers_are_unique_and_terms_fit_the_method(v1: Any, customer: str) -> None:
    v1.invoices.create({"customer": customer, "number": "INV-1"})
    for params in ({"number": "INV-1"}, {"collection_method": "send_invoice"}, {"days_until_due": 3}):
        with pytest.raises(stripe.InvalidRequestError):
            v1.invoices.create({"customer": customer, **params})


def test_too_little_is_paid_and_owed_with_the_next_invoice(v1: Any, customer: str) -> None:
    little = open_invoice(v1, customer, 49)
    assert (little.status, little.amount_due, little.total) == ("paid", 0, 49)
    following = open_invoice(v1, customer, 1000)
    assert (following.status, following.amount_due, following.total) == ("open", 1049, 1000)


def test_below_zero_is_a_balance_that_the_next_invoice_uses(v1: Any, customer: str) -> None:
    assert open_invoice(v1, customer, -700).status == "paid"
    assert v1.customers.retrieve(customer).balance == -700
    assert open_invoice(v1, customer, 1000).amount_due == 300


def test_a_credit_note_adds_up_or_is_refused(v1: Any, customer: str) -> None:
    opened = open_invoice(v1, customer, 4900)
    assert v1.credit_notes.create({"invoice": opened.id, "amount": 900}).pre_payment_amount == 900
    v1.invoices.pay(opened.id, {})
    for more in ({}, {"credit_amount": 499}, {"credit_amount": 500, "out_of_band_amount": 1}):
        with pytest.raises(stripe.InvalidRequestError, match="refunds, credit and out of band"):
            v1.credit_notes.create({"invoice": opened.id, "amount": 500, **more})
    v1.credit_notes.create({"invoice": opened.id, "amount": 500, "credit_amount": 500})
    with pytest.raises(stripe.InvalidRequestError, match="up to 3500"):
        v1.credit_notes.create({"invoice": opened.id, "amount": 3501, "credit_amount": 3501})


def test_lists_are_newest_first_by_cursor_and_search_lags(v1: Any, customer: str, clock: FixedClock) -> None:
    made = []
    for number in range(5):
        made.append(v1.invoices.create({"customer": customer, "metadata": {"n": str(number % 2)}}).id)
        clock.advance(timedelta(seconds=30))
    assert [one.id for one in v1.invoices.list({"limit": 2}).auto_paging_iter()] == made[::-1]
    since = v1.invoices.list({"customer": customer, "created": {"gte": NOW_S + 90}})
    assert [one.id for one in since.data] == made[:2:-1]
    found = v1.invoices.search({"query": "metadata['n']:'0'"})
    assert [one.id for one in found.data] == [made[2], made[0]]


def test_what_a_request_costs_does_not_grow_with_what_is_there(fake: StripeFake, v1: Any, customer: str) -> None:
    """Counted in calls of Python, which are the same every time, unlike seconds."""

    def cost(at: int) -> int:
        counted = 0

        def count(_frame: FrameType, kind: str, _argument: object) -> None:
            nonlocal counted
            counted += kind == "call"

        opened = open_invoice(v1, customer, 1000, number=f"first-{at}", metadata={"n": str(at)})
        sys.setprofile(count)
        try:
            fake.invoices.create({"customer": customer, "number": f"INV-{at}"})
            fake.invoices.list_invoices({"customer": customer, "limit": "1"})
            fake.invoices.list_invoices({"starting_after": opened.id, "limit": "1"})
            fake.store.search("invoice", "", {"query": f"metadata['n']:'{at}'"})
            fake.invoices.create_credit_note({"invoice": opened.id, "amount": "1"})
        finally:
            sys.setprofile(None)
        return counted

    cost(0)
    few = cost(1)
    for _ in range(200):
        v1.credit_notes.create({"invoice": open_invoice(v1, customer, 100).id, "amount": 1})
    assert cost(2) <= few + 20


def test_an_index_never_shows_what_is_gone_or_changed(v1: Any, customer: str, clock: FixedClock) -> None:
    draft = v1.invoices.create({"customer": customer, "number": "INV-1", "metadata": {"n": "old"}})
    line = {"lines": [{"amount": 100}], "invoice_metadata": {"n": "new"}}
    v1.invoices.add_lines(draft.id, line)
    clock.advance(timedelta(minutes=2))
    assert v1.invoices.search({"query": "metadata['n']:'old'"}).data == []
    assert [one.id for one in v1.invoices.search({"query": "metadata['n']:'new'"}).data] == [draft.id]
    v1.invoices.delete(draft.id)
    assert v1.invoices.search({"query": "metadata['n']:'new'"}).data == []
    assert v1.invoices.list({"customer": customer}).data == []
    assert v1.invoices.create({"customer": customer, "number": "INV-1"}).number == "INV-1"


# --- meters and grants --------------------------------------------------------------------------------------------------


@pytest.fixture
def meter(v1: Any) -> str:
    params = {"display_name": "tokens", "event_name": "tokens", "default_aggregation": {"formula": "sum"}}
    return str(v1.billing.meters.create(params).id)


def test_meter_events_have_a_window_and_an_identifier(
    v1: Any, customer: str, meter: str, clock: FixedClock, fake: StripeFake
) -> None:
    def event(identifier: str, at_s: int = NOW_S, value: str = "12.5") -> dict[str, Any]:
        payload = {"stripe_customer_id": customer, "value": value}
        return {"event_name": "tokens", "identifier": identifier, "timestamp": at_s, "payload": payload}

    v1.billing.meter_events.create(event("a"), key("a"))
    with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier a"):
        v1.billing.meter_events.create(event("a"), key("b"))
    for at_s in (NOW_S - 35 * 86_400 - 1, NOW_S + 301):
        with pytest.raises(stripe.InvalidRequestError, match="35 days"):
            v1.billing.meter_events.create(event("old", at_s))
    for number, value in enumerate(("1E3", "-1", "1" * 16, "", "1.5")):
        v1.billing.meter_events.create(event(f"late-{number}", value=value), key(f"late-{number}"))
    (report,) = fake.meters.report_errors()
    codes = {one["code"]: one["error_count"] for one in report["data"]["reason"]["error_types"]}
    assert codes == {"meter_event_invalid_value": 3, "meter_event_value_too_many_digits": 1}
    samples = report["data"]["reason"]["error_types"][0]["sample_errors"]
    assert samples[0]["request"]["identifier"] == "late-0"
    clock.advance(timedelta(hours=24))
    v1.billing.meter_events.create(event("a", NOW_S), key("c"))
    start_s = NOW_S - NOW_S % 60
    (row,) = v1.billing.meters.event_summaries.list(
        meter, {"customer": customer, "start_time": start_s, "end_time": start_s + 60}
    ).data
    # The identifier was free again after a day: counted once, as the newest event of its identifier.
    assert row.aggregated_value == 14


def test_a_newer_total_of_a_window_overwrites(v1: Any, customer: str, fake: StripeFake) -> None:
    v1.billing.meters.create(
        {
            "display_name": "h",
            "event_name": "hours",
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "hour",
        }
    )
    for number, value in enumerate(("5", "7")):
        payload = {"stripe_customer_id": customer, "value": value}
        v1.billing.meter_events.create({"event_name": "hours", "identifier": f"i{number}", "payload": payload})
    assert [value for _, value in fake.meters.counted["hours"].values()] == [Decimal(7)]


def test_the_stream_takes_a_hundred_and_says_nothing(
    fake: StripeFake, customer: str, meter: str, clock: FixedClock
) -> None:
    session = fake.client().v2.billing.meter_event_session.create()
    stream = stripe.StripeClient(
        session.authentication_token, http_client=fake.client()._requestor._client, max_network_retries=0
    ).v2.billing.meter_event_stream
    one = {"event_name": "tokens", "payload": {"stripe_customer_id": customer, "value": "1"}}
    stream.create({"events": [{**one, "identifier": f"s{number}"} for number in range(100)]})
    stream.create({"events": [{**one, "identifier": "s1"}, {**one, "identifier": "bad", "event_name": "nothing"}]})
    assert len(fake.meters.counted["tokens"]) == 100
    assert [one.code for one in fake.meters.errors] == ["no_meter"]
    with pytest.raises(stripe.InvalidRequestError, match="up to 100"):
        stream.create({"events": [one] * 101})
    clock.advance(timedelta(minutes=15))
    with pytest.raises(stripe.AuthenticationError):
        stream.create({"events": [one]})


def test_credit_grants(v1: Any, customer: str) -> None:
    scope = {"applicability_config": {"scope": {"price_type": "metered"}}}
    money = {"type": "monetary", "monetary": {"currency": "usd", "value": 5000}}
    made = v1.billing.credit_grants.create({"customer": customer, "amount": money, **scope})
    assert (made.category, made.priority) == ("paid", 50)
    assert v1.billing.credit_grants.void_grant(made.id).voided_at == NOW_S
    for wrong in ({"type": "monetary", "monetary": {"currency": "usd", "value": 0}}, {"type": "monetary"}):
        with pytest.raises(stripe.InvalidRequestError):
            v1.billing.credit_grants.create({"customer": customer, "amount": wrong, **scope})


# --- webhooks and the wire ----------------------------------------------------------------------------------------------


def test_events_are_signed_as_stripe_signs_them(v1: Any, customer: str, fake: StripeFake) -> None:
    fake.signed_webhooks()
    opened = open_invoice(v1, customer, 4900)
    (created, _), (finalized, header) = fake.signed_webhooks()
    assert b"invoice.created" in created
    # The tolerance of the SDK looks at this machine's clock, so that only the signature is checked here.
    stripe.WebhookSignature.verify_header(finalized, header, fake.webhook_secret)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(finalized + b" ", header, fake.webhook_secret)
    assert opened.id.encode() in finalized
    assert fake.signed_webhooks() == []


def test_over_http_an_answer_can_be_lost_after_it_was_done(fake: StripeFake) -> None:
    with serve(fake) as url:
        client = stripe.StripeClient(fake.api_key, base_addresses={"api": url}, max_network_retries=0)
        fake.fail("lost")
        with pytest.raises(stripe.APIConnectionError):
            client.v1.customers.create({"name": "Ä & B"}, key("k"))
        assert client.v1.customers.create({"name": "Ä & B"}, key("k")).name == "Ä & B"
        assert [one.name for one in client.v1.customers.list().data] == ["Ä & B"]
        with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
            client.raw_request("post", "/v1/nothing")
