"""Whether a message of SNS is of AWS and of a topic that is ours to believe: its signature, by the certificate that it names.

Enters: the text of a message, and the topics that are believed. Leaves: nothing where all is right. Refuses (EventRefused) other
topics, other signers, what was changed on the way, and certificates from anywhere but https://sns.REGION.amazonaws.com: who may
write into the queue could name a certificate of their own. Source: reference/providers.md, section 6.

Messages that are none of SNS are left alone: EventBridge signs nothing, and the policy of the queue speaks for it.
"""

from __future__ import annotations

import base64
import http.client
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from billing_adapters.errors import EventRefused

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Mapping

# What is signed, by the kind of message, in this order; a subject only where there is one.
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_ADDRESS = re.compile(
    r"https://sns\.[a-z]{2}(?:-[a-z]+)+-\d{1,2}\.amazonaws\.com(?:\.cn)?/[A-Za-z0-9._-]{1,200}\.pem", re.ASCII
)
_HASHES = {"1": "SHA1", "2": "SHA256"}
CERTIFICATE_BYTES_MAX = 65_536
CERTIFICATES_KEPT = 20
TIMEOUT_S = 10.0


class SignedTopics:
    """The check of one listener: `topics` are ARNs. Certificates are fetched once and kept; `fetch` is for tests."""

    def __init__(self, topics: Collection[str], *, fetch: Callable[[str], bytes] | None = None) -> None:
        self._topics = frozenset(topics)
        self._fetch = fetch or fetch_certificate
        self._kept: dict[str, bytes] = {}

    def check(self, text: str) -> None:
        """Raise EventRefused for a message of SNS that is not signed by AWS, or of another topic."""
        try:
            body = orjson.loads(text)
        except ValueError:
            # Who reads it says so.
            return
        if not isinstance(body, dict) or body.get("Type") not in _SIGNED:
            return
        if body.get("TopicArn") not in self._topics:
            raise EventRefused(f"a message of topic {body.get('TopicArn')!r}, which the settings do not name")
        _verify(body, self._certificate(str(body.get("SigningCertURL"))))

    def _certificate(self, address: str) -> bytes:
        if not _ADDRESS.fullmatch(address):
            raise EventRefused(
                f"a message names a certificate that is not at https://sns.REGION.amazonaws.com: {address!r}"
            )
        if address not in self._kept:
            if len(self._kept) >= CERTIFICATES_KEPT:
                self._kept.clear()
            self._kept[address] = self._fetch(address)
        return self._kept[address]


def fetch_certificate(address: str, *, context: ssl.SSLContext | None = None) -> bytes:
    """Return what is at an https address, of at most 64 KiB; no redirect is followed. Raises EventRefused."""
    parts = urlsplit(address)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        content = answer.read(CERTIFICATE_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException) as error:
        raise EventRefused(f"the certificate of a message could not be fetched ({error}); it is tried again") from error
    finally:
        connection.close()
    if answer.status != 200 or len(content) > CERTIFICATE_BYTES_MAX:
        raise EventRefused(f"{address} answered {answer.status} with {len(content)} bytes, which is no certificate")
    return content


def signed_text(body: Mapping[str, Any]) -> bytes:
    """Return the text that a signature is of: each name and its value, a line each."""
    names = [name for name in _SIGNED[body["Type"]] if name != "Subject" or body.get(name) is not None]
    missing = [name for name in names if not isinstance(body.get(name), str)]
    if missing:
        raise EventRefused(f"a message of SNS has no {missing[0]}")
    return "".join(f"{name}\n{body[name]}\n" for name in names).encode()


def _verify(body: Mapping[str, Any], certificate: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import load_pem_x509_certificate

    version = str(body.get("SignatureVersion"))
    if version not in _HASHES:
        raise EventRefused(f"signature version {version!r} is not known")
    text = signed_text(body)
    try:
        signature = base64.b64decode(str(body.get("Signature")), validate=True)
        key = load_pem_x509_certificate(certificate).public_key()
        if not isinstance(key, RSAPublicKey):
            raise EventRefused("the certificate of a message has no RSA key")
        key.verify(signature, text, PKCS1v15(), getattr(hashes, _HASHES[version])())
    except (ValueError, InvalidSignature) as wrong:
        raise EventRefused(f"message {body['MessageId']} of {body['TopicArn']} is not signed by AWS") from wrong
