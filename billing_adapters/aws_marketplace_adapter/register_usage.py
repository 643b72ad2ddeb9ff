"""RegisterUsage: a container product that AWS meters by the time that it runs says, when it starts, that it runs.

Enters: the product code and the version of its public key. Leaves: that AWS knows of it; from then on AWS meters by the second.
Refuses to start (RegistrationRefused): a buyer without a subscription, a place that is none of AWS's, and an answer that AWS did
not sign, which somebody who wants to run for nothing would give. Source: reference/providers.md, section 2.3.

Call it once in each task or pod, before anything else; again is harmless. AWS takes it for six hours after the start, so
`ProviderAway` is to be tried again within that time. No hours of such a product are told: `[delivery.aws_meter_usage]` is for
products that meter themselves.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.adapter import Answer
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.errors import ProviderAway, RegistrationRefused
from billing_adapters.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

SERVICE = "aws_register_usage"
ALGORITHM = "PS256"


@dataclass(frozen=True, slots=True)
class Running:
    """What AWS answered. `rotates_at`: from when on another version of the public key is to be named, None: not said."""

    product_code: str
    signature: str
    rotates_at: datetime | None


def register_usage(
    client: Any,
    product_code: str,
    public_key_version: int,
    *,
    public_key: bytes | None = None,
    nonce: Callable[[], str] = lambda: secrets.token_hex(32),
) -> Running:
    """Say that this task or pod runs. `client`: boto3's `meteringmarketplace` with its own role (`clients.make_client`).

    `public_key`: the PEM of the product's key from AWS Marketplace; with it the answer is checked to be AWS's, and to be of this
    call. Raises RegistrationRefused (do not run), ProviderAway (try again), AdapterMisconfigured (rights, region).
    """
    sent = nonce()
    answer = answered(
        SERVICE,
        lambda: client.register_usage(ProductCode=product_code, PublicKeyVersion=public_key_version, Nonce=sent),
    )
    if isinstance(answer, Answer):
        if answer.outcome in {Outcome.RETRY_SAFE, Outcome.UNKNOWN}:
            raise ProviderAway(
                f"AWS did not take that we run ({answer.detail}); say it again, within six hours of the start"
            )
        raise RegistrationRefused(
            f"AWS refuses that {product_code} runs here: {answer.detail}", answer.code or "refused"
        )
    signature = str(answer.get("Signature", ""))
    if public_key is not None:
        expected = {"nonce": sent, "productCode": product_code, "publicKeyVersion": public_key_version}
        _verify(signature, public_key, expected)
    return Running(product_code, signature, answer.get("PublicKeyRotationTimestamp"))


def _verify(signature: str, public_key: bytes, expected: Mapping[str, object]) -> None:
    """Raise RegistrationRefused unless it is a JWT of AWS's key that speaks of this call. The algorithm is pinned."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(public_key)
    if not isinstance(key, RSAPublicKey):
        raise RegistrationRefused(
            "the public key of the product is no RSA key; take the PEM that AWS Marketplace gives"
        )
    try:
        head, body, signed = signature.split(".")
        algorithm = orjson.loads(_bytes_of(head)).get("alg")
        padding = PSS(mgf=MGF1(hashes.SHA256()), salt_length=PSS.AUTO)
        key.verify(_bytes_of(signed), f"{head}.{body}".encode(), padding, hashes.SHA256())
        told = orjson.loads(_bytes_of(body))
    except (ValueError, AttributeError, InvalidSignature) as wrong:
        raise RegistrationRefused("the answer to RegisterUsage is not signed by AWS", "invalid") from wrong
    differing = [name for name, value in expected.items() if str(told.get(name)) != str(value)]
    if algorithm != ALGORITHM or differing:
        raise RegistrationRefused(
            f"the answer to RegisterUsage is of another call: {differing or algorithm}", "invalid"
        )


def _bytes_of(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
