"""A receiver of alerts over HTTP: one POST each, signed, and taken only when the answer is 2xx.

Enters: an alert, an address, a secret. Leaves: a POST of canonical JSON. Refuses: answers other than 2xx and redirects
(AlertRefused, after which it is told again), and addresses that are not http or https.

`Tallybook-Signature: t=SECONDS,v1=HEX` is the HMAC-SHA256 of `SECONDS.BODY` with the secret: the receiver compares it over the
raw bytes, refuses old times, and keeps the ids it has seen (`alert_id`, also in `Idempotency-Key`).
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from entitlements.errors import AlertRefused
from metering.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from entitlements.alerts import Alert
    from metering.clock import Clock


class Webhook:
    """Posts alerts to one address. `secret` is called for each, so that it may change and is never kept or shown."""

    def __init__(
        self, url: str, *, secret: Callable[[], bytes], timeout_s: float = 10.0, clock: Clock | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the address of a webhook begins with https:// (or http://) and a host")
        self._parts = parts
        self._secret = secret
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()

    def __call__(self, alert: Alert) -> None:
        """Post it. Raises AlertRefused (Retryable) for any answer but 2xx, and when there is none."""
        body = orjson.dumps(alert.as_dict(), option=orjson.OPT_SORT_KEYS)
        seconds = str(self._clock.now_us() // 1_000_000)
        signature = hmac.new(self._secret(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": alert.alert_id,
            "Tallybook-Signature": f"t={seconds},v1={signature}",
        }
        parts = self._parts
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout_s)
        try:
            # This client follows no redirects: where an alert goes is said here, not by an answer.
            connection.request("POST", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as trouble:
            raise AlertRefused(
                f"{parts.hostname} did not answer ({type(trouble).__name__}); alert {alert.alert_id} stays pending",
                alert_id=alert.alert_id,
            ) from trouble
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise AlertRefused(
                f"{parts.hostname} answered {status}; alert {alert.alert_id} stays pending",
                alert_id=alert.alert_id,
                status=status,
            )
