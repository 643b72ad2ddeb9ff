"""RegisterUsage against the fake AWS: who may run, who may not, and answers that AWS did not give."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from billing_adapters.aws_marketplace_adapter import register_usage
from billing_adapters.errors import AdapterMisconfigured, ProviderAway, RegistrationRefused
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake
from metering.clock import FixedClock

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def fake() -> MarketplaceFake:
    made = MarketplaceFake(FixedClock(NOW))
    made.workloads.add("task-1", product_code="code-1")
    made.workloads.add("task-2", product_code="code-1", is_entitled=False)
    made.workloads.add("vm-1", product_code="code-1", is_container=False)
    return made


class Answers:
    """A client of somebody who wants to run for nothing: it answers what it likes."""

    def __init__(self, signature: str) -> None:
        self.signature = signature

    def register_usage(self, **_: Any) -> dict[str, Any]:
        return {"Signature": self.signature}


def test_a_container_registers_and_again_is_harmless(fake: MarketplaceFake) -> None:
    for _ in range(2):
        running = register_usage(fake.client(key_id="task-1"), "code-1", 1, public_key=fake.workloads.public_key)
    assert (running.product_code, running.signature.count("."), running.rotates_at) == ("code-1", 2, None)
    assert fake.workloads.running == {"task-1"}
    first, second = (call["Nonce"] for call in fake.calls[-2:])
    assert first != second
    assert len(first) == 64


@pytest.mark.parametrize(
    ("who", "product", "version", "reason"),
    [
        ("task-2", "code-1", 1, "CustomerNotEntitledException"),
        ("vm-1", "code-1", 1, "PlatformNotSupportedException"),
        ("task-1", "code-2", 1, "InvalidProductCodeException"),
        ("task-1", "code-1", 2, "InvalidPublicKeyVersionException"),
        ("task-1", "no code!", 1, "refused"),
    ],
)
def test_who_may_not_run_is_told_so(fake: MarketplaceFake, who: str, product: str, version: int, reason: str) -> None:
    with pytest.raises(RegistrationRefused) as refused:
        register_usage(fake.client(key_id=who), product, version)
    assert refused.value.reason in {reason, "ValidationException"}


def test_another_region_is_a_setting_and_silence_is_tried_again(fake: MarketplaceFake) -> None:
    with pytest.raises(AdapterMisconfigured):
        register_usage(fake.client(key_id="task-1", region="eu-west-1"), "code-1", 1)
    for how in ("lost", "away", "throttled", "error"):
        fake.fail(how)
        with pytest.raises(ProviderAway, match="within six hours"):
            register_usage(fake.client(key_id="task-1"), "code-1", 1)


def test_an_answer_that_aws_did_not_give_is_refused(fake: MarketplaceFake) -> None:
    sign, key = fake.workloads.sign, fake.workloads.public_key
    told = {"nonce": "n", "productCode": "code-1", "publicKeyVersion": 1}
    other = MarketplaceFake(FixedClock(NOW)).workloads
    good = sign({"alg": "PS256"}, told)
    head, body, signed = good.split(".")
    for signature in (
        "", "a.b", "a.b.c", f"{head}.{body}.", f"{head}.{body}.{signed[:-4]}AAAA", other.sign({"alg": "PS256"}, told),
        sign({"alg": "none"}, told), sign({"alg": "PS256"}, {**told, "nonce": "of another call"}),
        sign({"alg": "PS256"}, {**told, "productCode": "code-2"}), sign({"alg": "PS256"}, {**told, "publicKeyVersion": 2}),
    ):  # fmt: skip
        with pytest.raises(RegistrationRefused, match=r"not signed by AWS|of another call"):
            register_usage(Answers(signature), "code-1", 1, public_key=key, nonce=lambda: "n")
    assert register_usage(Answers(good), "code-1", 1, public_key=key, nonce=lambda: "n").signature == good
