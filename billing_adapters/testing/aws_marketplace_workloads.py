"""MeterUsage and RegisterUsage as AWS answers them: software in the buyer's account, each call signed by its workload's role.

Enters: calls as botocore sends them; the key id of the signature names the workload. Leaves: record ids, and signed answers.
Refuses: other regions, other products, buyers without a subscription, hours that are too old, in the future or taken.
Source: reference/providers.md, section 2.3.

An instance, task or pod is told apart by dimension and hour: the first write stays, an identical repeat answers the same record.
Bedrock AgentCore is told apart by the client token alone, and all its calls are summed.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.testing.aws_marketplace_records import check_allocations
from billing_adapters.testing.aws_refusal import Refused
from billing_adapters.testing.aws_wire import instant_of
from metering.clock import from_us, iso_utc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from billing_adapters.testing.aws_wire import Asked
    from metering.clock import Clock


@dataclass(frozen=True, slots=True)
class _Workload:
    product_code: str
    is_summed: bool
    is_entitled: bool
    dimensions: frozenset[str]
    is_container: bool


class Workloads:
    """`metered` is what counts of instances: (instance, dimension, hour) -> quantity; `summed` of AgentCore: every call.

    `running` are the key ids of containers that registered.
    """

    def __init__(self, clock: Clock, region: str) -> None:
        self.metered: dict[tuple[str, str, str], Decimal] = {}
        self.allocated: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self.summed: list[tuple[str, str, str, Decimal]] = []
        self.running: set[str] = set()
        self._clock = clock
        self._region = region
        self._held: dict[str, _Workload] = {}
        self._by_token: dict[str, tuple[dict[str, Any], str]] = {}
        self._records: dict[tuple[str, str, str], str] = {}

    def add(
        self,
        key_id: str,
        *,
        product_code: str,
        is_summed: bool = False,
        is_entitled: bool = True,
        dimensions: frozenset[str] = frozenset(),
        is_container: bool = True,
    ) -> None:
        """Let a workload run, whose role signs with `key_id`. Again: change it. No dimensions: any."""
        self._held[key_id] = _Workload(product_code, is_summed, is_entitled, dimensions, is_container)

    def meter_usage(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer one call."""
        request, workload = asked.parameters, self._held.get(asked.key_id)
        if asked.region != self._region:
            raise Refused("InvalidEndpointRegionException", f"the workload is in {self._region}, not {asked.region}")
        if request.get("DryRun"):
            raise (
                Refused("UnauthorizedException", "this role may not meter")
                if workload is None
                else Refused("DryRunOperation", "it would have been metered")
            )
        if workload is None:
            raise Refused("AccessDeniedException", f"{asked.key_id} is the role of no workload")
        self._check(request, workload)
        quantity = Decimal(request.get("UsageQuantityAsDecimal") or request.get("UsageQuantity", 0))
        token = request.get("ClientToken")
        kept = None if token is None else self._by_token.get(token)
        if kept is not None and kept[0] != request:
            raise Refused("IdempotencyConflictException", f"{token} came with other parameters before")
        if kept is not None:
            return {"MeteringRecordId": kept[1]}
        record_id = self._take(asked.key_id, workload, request, quantity)
        if token is not None:
            self._by_token[token] = (request, record_id)
        return {"MeteringRecordId": record_id}

    def register_usage(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer that a container runs, signed with the product's key of version 1."""
        request, workload = asked.parameters, self._held.get(asked.key_id)
        if asked.region != self._region:
            raise Refused("InvalidRegionException", f"the workload is in {self._region}, not {asked.region}")
        if workload is None or not workload.is_container:
            raise Refused("PlatformNotSupportedException", "it does not run in a task of ECS or a pod of EKS")
        if request["ProductCode"] != workload.product_code:
            raise Refused("InvalidProductCodeException", f"the workload is not of product {request['ProductCode']}")
        if request["PublicKeyVersion"] != 1:
            raise Refused("InvalidPublicKeyVersionException", f"there is no version {request['PublicKeyVersion']}")
        if not workload.is_entitled:
            raise Refused("CustomerNotEntitledException", "the buyer has no subscription")
        self.running.add(asked.key_id)
        told = {
            "nonce": request.get("Nonce"),
            "productCode": request["ProductCode"],
            "publicKeyVersion": request["PublicKeyVersion"],
            "iat": self._clock.now_us() // 1_000_000,
        }
        return {"Signature": self.sign({"alg": "PS256", "typ": "JWT"}, told)}

    def sign(self, head: Mapping[str, Any], body: Mapping[str, Any]) -> str:
        """Return a JWT by the product's key."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS

        text = ".".join(_part(orjson.dumps(dict(one))) for one in (head, body))
        padding = PSS(mgf=MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
        return f"{text}.{_part(self._key.sign(text.encode(), padding, hashes.SHA256()))}"

    @cached_property
    def _key(self) -> RSAPrivateKey:
        from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

        return generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def public_key(self) -> bytes:
        """Return the PEM that AWS Marketplace shows the seller."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def _check(self, request: dict[str, Any], workload: _Workload) -> None:
        if request["ProductCode"] != workload.product_code:
            raise Refused("InvalidProductCodeException", f"the workload is not of product {request['ProductCode']}")
        if not workload.is_entitled:
            raise Refused("CustomerNotEntitledException", "the buyer has no subscription")
        if workload.dimensions and request["UsageDimension"] not in workload.dimensions:
            raise Refused("InvalidUsageDimensionException", f"no dimension {request['UsageDimension']}")
        if "UsageQuantity" in request and "UsageQuantityAsDecimal" in request:
            raise Refused("ValidationException", "UsageQuantity and UsageQuantityAsDecimal exclude each other")
        now, at = from_us(self._clock.now_us()), instant_of(request["Timestamp"])
        if at > now or now - at >= timedelta(hours=6):
            raise Refused("TimestampOutOfBoundsException", f"{iso_utc(at)} is out of bounds at {iso_utc(now)}")
        if "UsageAllocations" in request:
            check_allocations(request, Refused, "UsageQuantity")

    def _take(self, who: str, workload: _Workload, request: dict[str, Any], quantity: Decimal) -> str:
        hour = _hour(instant_of(request["Timestamp"]))
        key = (who, request["UsageDimension"], iso_utc(hour))
        if workload.is_summed:
            self.summed.append((*key, quantity))
            return f"increment-{len(self.summed):08}"
        if self.metered.setdefault(key, quantity) != quantity:
            raise Refused("DuplicateRequestException", f"{key} is taken with {self.metered[key]}")
        self.allocated.setdefault(key, request.get("UsageAllocations", []))
        return self._records.setdefault(key, f"usage-{len(self._records) + 1:08}")


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
