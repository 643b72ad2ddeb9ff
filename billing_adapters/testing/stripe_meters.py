"""Meters, meter events and credit grants of the fake Stripe: providers.md, sections 3.2 and 3.3.

Enters: typed parameters. Leaves: objects; late errors as thin events. Refuses at once: old and future times, an identifier that
was used within 24 h. Refuses later, by an error report with samples: everything else, and on the stream everything.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.testing.stripe_shapes import check_shape
from billing_adapters.testing.stripe_store import Refused, check_metadata, routes
from metering.clock import from_us, iso_utc

if TYPE_CHECKING:
    from billing_adapters.testing.stripe_store import Store

OLDEST_S, FUTURE_S, IDENTIFIER_LIVES_S, SESSION_S = 35 * 86_400, 300, 86_400, 900
STREAM_EVENTS_MAX, DIGITS_MAX, SAMPLES_MAX = 100, 15, 10
WINDOWS_S = {"hour": 3600, "day": 86_400}
_VALUE = re.compile(r"(0|[1-9]\d*)(\.\d+)?")


@dataclass(frozen=True, slots=True)
class LateError:
    """What was taken and cannot be counted. `key`: the Idempotency-Key of its call; `meter` None: there is none of this name."""

    code: str
    identifier: str
    key: str
    meter: str | None


class Meters:
    """The part of an account that prices usage itself."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._identifiers: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        # By meter: (customer, window or event) -> (seconds, value). What is there counts.
        self.counted: dict[str, dict[tuple[str, str], tuple[int, Decimal]]] = {}
        self.errors: list[LateError] = []
        self.reports: dict[str, dict[str, Any]] = {}
        grant = r"/v1/billing/credit_grants/([^/]+)"
        self.routes = routes(
            ("post", "/v1/billing/meters", self.create_meter),
            ("get", "/v1/billing/meters", lambda raw: store.page("billing.meter", "/v1/billing/meters", raw)),
            ("get", r"/v1/billing/meters/([^/]+)/event_summaries", self.summaries),
            ("post", "/v1/billing/meter_events", self.create_event),
            ("post", "/v1/billing/meter_event_adjustments", self.cancel_event),
            ("post", "/v2/billing/meter_events", self.create_event_v2),
            ("post", "/v2/billing/meter_event_session", self.create_session),
            ("post", "/v2/billing/meter_event_stream", self.stream),
            ("get", r"/v2/core/events/([^/]+)", self.event),
            ("post", "/v1/billing/credit_grants", self.create_grant),
            ("get", "/v1/billing/credit_grants", self.list_grants),
            ("get", grant, lambda identity, _params: store.get("billing.credit_grant", identity)),
            ("post", f"{grant}/expire", lambda identity, _params: self._end_grant(identity, "expires_at")),
            ("post", f"{grant}/void", lambda identity, _params: self._end_grant(identity, "voided_at")),
        )

    def create_meter(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("billing._meter_create_params", "MeterCreateParams", raw)
        if self._store.find("billing.meter", "event_name", params["event_name"]):
            raise Refused(400, f"there is a meter for {params['event_name']} already", param="event_name")
        fields = {
            "display_name": params["display_name"],
            "event_name": params["event_name"],
            "event_time_window": params.get("event_time_window"),
            "status": "active",
        }
        return self._store.add("billing.meter", "mtr", fields)

    def create_event(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("billing._meter_event_create_params", "MeterEventCreateParams", raw)
        at_s = params.get("timestamp", self._store.now_s)
        return self._take(params, at_s)

    def create_event_v2(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("v2.billing._meter_event_create_params", "MeterEventCreateParams", raw)
        return self._take(params, _seconds(params.get("timestamp"), self._store.now_s))

    def _take(self, params: dict[str, Any], at_s: int) -> dict[str, Any]:
        now_s = self._store.now_s
        if at_s < now_s - OLDEST_S or at_s > now_s + FUTURE_S:
            raise Refused(400, "the timestamp is not within the past 35 days and the next 5 minutes", param="timestamp")
        identifier = params.get("identifier") or self._store.new_id("mev")
        if now_s - self._identifiers.get(identifier, -IDENTIFIER_LIVES_S) < IDENTIFIER_LIVES_S:
            raise Refused(400, f"An event already exists with identifier {identifier}.", param="identifier")
        self._identifiers[identifier] = now_s
        self._count(params, identifier, at_s)
        answer = {"object": "billing.meter_event", "identifier": identifier, "event_name": params["event_name"]}
        return {**answer, "created": now_s, "livemode": False, "payload": params["payload"], "timestamp": at_s}

    def _count(self, params: dict[str, Any], identifier: str, at_s: int) -> None:
        payload = params["payload"]
        customer, value = payload.get("stripe_customer_id"), str(payload.get("value", ""))
        meters = self._store.find("billing.meter", "event_name", params["event_name"])
        if not meters:
            code = "no_meter"
        elif customer is None:
            code = "meter_event_no_customer_defined"
        elif not self._store.has("customer", customer):
            code = "meter_event_customer_not_found"
        elif not _VALUE.fullmatch(value):
            code = "meter_event_invalid_value"
        elif len(value.replace(".", "").lstrip("0")) > DIGITS_MAX:
            code = "meter_event_value_too_many_digits"
        else:
            window_s = WINDOWS_S.get(meters[0]["event_time_window"] or "")
            place = identifier if window_s is None else str(at_s // window_s)
            # A newer event of the same window takes the place of the older one.
            self.counted.setdefault(params["event_name"], {})[customer, place] = (at_s, Decimal(value))
            return
        meter = meters[0]["id"] if meters else None
        self.errors.append(LateError(code, identifier, self._store.idempotency_key, meter))

    def report_errors(self) -> list[dict[str, Any]]:
        """Take the late errors as reports, one per meter, and send a thin event of each; `GET /v2/core/events/ID` has them.

        Each report has counts by code, and samples only, named by Idempotency-Key.
        """
        errors, self.errors = self.errors, []
        meters = sorted({one.meter or "" for one in errors})
        return [self._report(meter, [one for one in errors if (one.meter or "") == meter]) for meter in meters]

    def _report(self, meter: str, errors: list[LateError]) -> dict[str, Any]:
        counts = Counter(one.code for one in errors)
        types = [
            {
                "code": code,
                "error_count": count,
                "sample_errors": [
                    {"error_message": f"refused: {code}", "request": {"identifier": one.key}}
                    for one in errors
                    if one.code == code
                ][:SAMPLES_MAX],
            }
            for code, count in sorted(counts.items())
        ]
        now = iso_utc(from_us(self._store.now_us))
        kind = "v1.billing.meter.error_report_triggered" if meter else "v1.billing.meter.no_meter_found"
        thin: dict[str, Any] = {"id": self._store.new_id("evt"), "object": "v2.core.event", "type": kind, "created": now,
                                "livemode": False}  # fmt: skip
        if meter:
            thin["related_object"] = {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"}
        reason = {"error_count": len(errors), "error_types": types}
        data = {"developer_message_summary": "", "reason": reason, "validation_start": now, "validation_end": now}
        self.reports[thin["id"]] = {**thin, "data": data}
        self._store.unsent.append(thin)
        return self.reports[thin["id"]]

    def event(self, identity: str, _raw: dict[str, Any]) -> dict[str, Any]:
        found = self.reports.get(identity)
        if found is None:
            raise Refused(404, f"No such event: '{identity}'", code="not_found")
        return found

    def cancel_event(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("billing._meter_event_adjustment_create_params", "MeterEventAdjustmentCreateParams", raw)
        identifier = params.get("cancel", {}).get("identifier", "")
        received = self._identifiers.get(identifier)
        if received is None or self._store.now_s - received >= IDENTIFIER_LIVES_S:
            raise Refused(400, "events can be cancelled within 24 hours of receipt", param="cancel[identifier]")
        counted = self.counted.get(params["event_name"], {})
        for place in [place for place in counted if place[1] == identifier]:
            del counted[place]
        return {"object": "billing.meter_event_adjustment", "status": "complete", "type": "cancel", "livemode": False}

    def summaries(self, identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        meter = self._store.get("billing.meter", identity)
        start_s, end_s = int(raw["start_time"]), int(raw["end_time"])
        length_s = WINDOWS_S.get(raw.get("value_grouping_window", ""), 60)
        if start_s % length_s or end_s % length_s:
            raise Refused(400, "times are whole minutes, or whole windows of the grouping", param="start_time")
        sums: dict[int, Decimal] = {}
        for (customer, _), (at_s, value) in self.counted.get(meter["event_name"], {}).items():
            if customer == raw["customer"] and start_s <= at_s < end_s:
                window_s = at_s // length_s * length_s if "value_grouping_window" in raw else start_s
                sums[window_s] = sums.get(window_s, Decimal(0)) + value
        ends = {start_s: end_s} if "value_grouping_window" not in raw else {at: at + length_s for at in sums}
        rows = [
            {
                "id": f"mtrusg_{identity}_{raw['customer']}_{at}",
                "object": "billing.meter_event_summary",
                # Stripe answers with a double here, and so must its fake.
                "aggregated_value": orjson_number(sums.get(at, Decimal(0))),
                "start_time": at,
                "end_time": ends[at],
            }
            for at in sorted(ends, reverse=True)
        ]
        ids = [row["id"] for row in rows]
        first = ids.index(raw["starting_after"]) + 1 if "starting_after" in raw else 0
        shown = rows[first : first + int(raw.get("limit", 10))]
        return {"object": "list", "url": "", "has_more": first + len(shown) < len(rows), "data": shown}

    # --- the stream ---------------------------------------------------------------------------------------------------

    def create_session(self, _raw: dict[str, Any]) -> dict[str, Any]:
        token = self._store.new_id("token")
        self._sessions[token] = self._store.now_s + SESSION_S
        expires_at = iso_utc(from_us(self._sessions[token] * 1_000_000))
        return {
            "id": self._store.new_id("mes"),
            "object": "v2.billing.meter_event_session",
            "authentication_token": token,
            "expires_at": expires_at,
            "livemode": True,
        }

    def is_session(self, token: str) -> bool:
        """Is this the token of a session that is not over?"""
        return self._sessions.get(token, 0) > self._store.now_s

    def stream(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("v2.billing._meter_event_stream_create_params", "MeterEventStreamCreateParams", raw)
        if len(params["events"]) > STREAM_EVENTS_MAX:
            raise Refused(400, f"a call takes up to {STREAM_EVENTS_MAX} events", param="events")
        for event in params["events"]:
            identifier = event.get("identifier", "")
            try:
                self._take(event, _seconds(event.get("timestamp"), self._store.now_s))
            except Refused as refused:
                if "already exists" not in str(refused):
                    code, key = "timestamp_too_far_in_past", self._store.idempotency_key
                    self.errors.append(LateError(code, identifier, key, self._meter_of(event["event_name"])))
        return {}

    def _meter_of(self, event_name: str) -> str | None:
        return next((one["id"] for one in self._store.find("billing.meter", "event_name", event_name)), None)

    # --- credit grants ------------------------------------------------------------------------------------------------

    def create_grant(self, raw: dict[str, Any]) -> dict[str, Any]:
        params = check_shape("billing._credit_grant_create_params", "CreditGrantCreateParams", raw)
        customer = self._store.get("customer", params.get("customer", ""))
        monetary = params["amount"].get("monetary")
        if monetary is None or monetary["value"] <= 0:
            raise Refused(400, "a grant is an amount of money above zero", param="amount")
        if not 0 <= params.get("priority", 50) <= 100:
            raise Refused(400, "a priority is 0 to 100", param="priority")
        fields = {
            "customer": customer["id"],
            "amount": params["amount"],
            "category": params.get("category", "paid"),
            "priority": params.get("priority", 50),
            "name": params.get("name"),
            "effective_at": params.get("effective_at", self._store.now_s),
            "expires_at": params.get("expires_at"),
            "voided_at": None,
            "metadata": check_metadata(params.get("metadata")),
        }
        return self._store.add("billing.credit_grant", "credgr", fields)

    def list_grants(self, raw: dict[str, Any]) -> dict[str, Any]:
        return self._store.page("billing.credit_grant", "/v1/billing/credit_grants", raw, "customer")

    def _end_grant(self, identity: str, field: str) -> dict[str, Any]:
        found = self._store.get("billing.credit_grant", identity)
        if found["voided_at"] is not None:
            raise Refused(400, "a voided grant stays voided")
        found[field] = self._store.now_s
        return found


def orjson_number(value: Decimal) -> Any:
    """Return a decimal as the JSON number that it would be, which may be a double."""
    import json

    return json.loads(f"{value:f}")


def _seconds(text: str | None, now_s: int) -> int:
    return now_s if text is None else int(datetime.fromisoformat(text).timestamp())
