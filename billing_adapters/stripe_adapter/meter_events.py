"""Meter events: for those whose prices live at Stripe, usage instead of invoices.

Enters: a `UsageTotal`. Leaves: meter events, by v1 (one a call) or the v2 stream (100 a call). Refuses: floats, exponents,
quantities below zero, and more digits than Stripe takes. Source: reference/providers.md, section 3.2.

    window   the total of an hour or a day, for a meter with that `event_time_window`: a newer total takes the place of the older
             one, so that a repeat is harmless for as long as Stripe takes the time, and a late event is a new total. Preferred.
    raw      one event per window that is added up. Its identifier is unique for 24 h; past that nobody can tell whether it
             arrived, and it waits for a person.

The identifier and the Idempotency-Key are the sending's name, so that Stripe's late error reports name deliveries
(`meter_reports`). On the stream a key stands for a whole batch, and a report names none of its events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import orjson
import stripe

from billing_adapters.adapter import Answer, Capabilities, Found, Intent, Listing, Numbers, Window
from billing_adapters.outcomes import Outcome
from billing_adapters.provider_list import QUANTITIES
from billing_adapters.stripe_adapter.access import access_of
from billing_adapters.stripe_adapter.answers import answer_of
from billing_adapters.stripe_adapter.calls import Calls
from billing_adapters.stripe_adapter.customers import customer_of
from billing_adapters.stripe_adapter.documents import StripeSettings
from billing_adapters.stripe_adapter.meter_summaries import SETTLES, counted_by_meters
from billing_adapters.usage_totals import UsageTotal, by_overwriting
from metering.clock import iso_utc, to_us
from metering.numbers import trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from billing_adapters.adapter import Desk, Item
    from billing_adapters.provider_list import Asked, ProviderList

WINDOW = Window(oldest=timedelta(days=35), future=timedelta(minutes=5))
STREAM_EVENTS_MAX = 100
ALREADY = "already exists with identifier"


@dataclass(frozen=True, slots=True)
class StripeMeterSettings:
    """`customers` as for invoices. `digits_max` is what Stripe takes of a value (not published; about 15)."""

    mode: Literal["window", "raw"] = "window"
    by_stream: bool = False
    decimals: int = 6
    digits_max: int = 15
    customers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.mode not in {"window", "raw"} or not 0 <= self.decimals <= 12:
            raise ValueError("mode is window or raw, decimals are 0 to 12")


@dataclass(frozen=True, slots=True)
class StripeMeterAdapter:
    """Delivers totals of windows. `client_of` makes a client from a key or a session's token, without retries of its own."""

    client_of: Callable[[str], stripe.StripeClient]
    api_key: str = field(repr=False)
    settings: StripeMeterSettings = field(default_factory=StripeMeterSettings)

    @property
    def capabilities(self) -> Capabilities:
        is_window = self.settings.mode == "window"
        return Capabilities(
            name="stripe_meters",
            kinds=("meter_event",),
            grain="interval",
            natural_key=("customer", "event_name", "window"),
            numbers=Numbers("decimal_text", self.settings.decimals, self.settings.digits_max - self.settings.decimals),
            zero="sent",
            repeat_same="safe",
            repeat_other="overwrites" if is_window else "refused",
            # Summaries are doubles, late, and name no event: they compare totals, and prove nothing of one.
            read_back=None,
            downwards=("a lower total of the window",) if is_window else ("cancel within 24 h",),
            upwards=("a higher total of the window",) if is_window else ("a later event",),
            window=WINDOW,
            key_lives=None if is_window else timedelta(hours=24),
            batch_items=STREAM_EVENTS_MAX if self.settings.by_stream else 1,
            calls_per_s=100,
            listing=Listing((QUANTITIES,), SETTLES, is_double=True, needs_asking=True),
        )

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return the event of a `UsageTotal`."""
        if not isinstance(source, UsageTotal):
            return []
        value = by_overwriting(source, self.settings.decimals)
        text = trimmed(value)
        refusal = None
        if value < 0:
            refusal = f"{text} {source.name} is below zero, and Stripe takes no such event; book a credit note"
        elif len(text.replace(".", "").lstrip("0")) > self.settings.digits_max:
            refusal = f"{text} has more than {self.settings.digits_max} digits; give the meter a larger unit"
        body = {"account_id": source.account_id, "event_name": source.name, "at": iso_utc(source.start), "value": text}
        start = iso_utc(source.start)
        return [
            Intent(
                kind="meter_event",
                natural_key=f"{source.series} {start}",
                payload=orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode(),
                account_id=source.account_id,
                subject=source.subscription_id,
                quantity=value,
                series=source.series,
                recover_by=self.capabilities.window.recover_by(source.start),
                refusal=refusal,
            )
        ]

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        if self.settings.by_stream:
            return self._stream(items, desk)
        return [self._send(item, desk) for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [Found("unclear", "Stripe shows sums, not events")] * len(items)

    def list_held(
        self, start: datetime, end: datetime, *, asked: Sequence[Asked], spend: Callable[[], object], read_at: datetime
    ) -> ProviderList:
        """Return what Stripe's meters counted of the series that are asked for, by windows that are over."""
        client = self.client_of(self.api_key)
        customers = self.settings.customers
        return counted_by_meters(client, start, end, asked=asked, customers=customers, spend=spend, read_at=read_at)

    def _send(self, item: Item, desk: Desk) -> Answer:
        client: Any = self.client_of(self.api_key)
        try:
            event, seconds = self._event(item, desk, client)
            desk.spend()
            made = client.v1.billing.meter_events.create(
                {**event, "timestamp": seconds}, {"idempotency_key": item.sending_id}
            )
            return Answer(Outcome.ACCEPTED, "validated later", made.identifier)
        except stripe.StripeError as error:
            return _judged(error)

    def _stream(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        """Send a batch. The answer is empty, and the same for all; what is wrong comes later, in a report."""
        client: Any = self.client_of(self.api_key)
        try:
            events = [self._event(item, desk, client) for item in items]
            desk.spend(2)
            session = client.v2.billing.meter_event_session.create()
            stream: Any = self.client_of(session.authentication_token)
            timed = [
                {**event, "timestamp": orjson.loads(item.payload)["at"]}
                for (event, _), item in zip(events, items, strict=True)
            ]
            stream.v2.billing.meter_event_stream.create({"events": timed})
        except stripe.StripeError as error:
            return [_judged(error)] * len(items)
        return [Answer(Outcome.ACCEPTED, "validated later", item.sending_id) for item in items]

    def _event(self, item: Item, desk: Desk, client: Any) -> tuple[dict[str, Any], int]:
        body = orjson.loads(item.payload)
        account_id = body["account_id"]
        customers = StripeSettings(customers=self.settings.customers)
        customer = customer_of(Calls(client, item, desk), account_id, account_id, customers)
        payload = {"stripe_customer_id": customer, "value": body["value"]}
        event = {"event_name": body["event_name"], "identifier": item.sending_id, "payload": payload}
        return event, to_us(_instant(body["at"])) // 1_000_000


def make_meters(settings: Mapping[str, Any]) -> StripeMeterAdapter:
    """Return the adapter of the section [delivery.stripe_meters]; the key is in TALLYBOOK_STRIPE_KEY."""
    access = access_of("stripe_meters", settings)
    return StripeMeterAdapter(access.client, access.api_key, StripeMeterSettings(**access.settings))


def _judged(error: stripe.StripeError) -> Answer:
    said = str(error.user_message or error)
    if ALREADY in said:
        return Answer(Outcome.ALREADY_ACCEPTED_SAME, said, code="already_exists", request_id=error.request_id)
    if error.http_status == 400 and getattr(error, "param", None) == "timestamp":
        return Answer(Outcome.EXPIRED, said, code="timestamp", request_id=error.request_id)
    return answer_of(error)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
