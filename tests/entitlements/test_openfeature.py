"""The provider behind the real OpenFeature SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

api = pytest.importorskip("openfeature.api", reason="openfeature-sdk is not installed")

from openfeature.evaluation_context import EvaluationContext  # noqa: E402
from openfeature.track import TrackingEventDetails  # noqa: E402

from entitlements.checker import Checker  # noqa: E402
from entitlements.openfeature import EntitlementProvider  # noqa: E402
from entitlements.view import FixedSource, Held, View  # noqa: E402
from metering.recorder import Recorder  # noqa: E402
from tests.entitlements.views import figures, rule_of, static_view  # noqa: E402

ACME = EvaluationContext(targeting_key="acme")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    rules = {**static_view().tenants["acme"].rules, "tokens": rule_of(overage="blocked")}
    view = View({"acme": Held(rules, (figures(10, 4),))})
    with Recorder(tmp_path, ship="none") as usage:
        checker = Checker(FixedSource(view), usage, refresh_interval_s=3600, stale_after_s=7200)
        api.set_provider_and_wait(EntitlementProvider(checker), domain="test")
        yield api.get_client(domain="test")
        api.clear_providers()
        checker.close()


def test_flags_are_features(client: Any) -> None:
    assert client.get_boolean_value("sso", False, ACME) is True
    assert client.get_boolean_value("beta", True, ACME) is False
    assert client.get_boolean_value("tokens", False, ACME) is True
    assert client.get_integer_value("seats", 0, ACME) == 25
    assert client.get_integer_value("tokens", 0, ACME) == 6
    assert client.get_float_value("seats", 0.0, ACME) == 25
    assert client.get_string_value("seats", "", ACME) == "25"
    assert client.get_object_value("tokens", {}, ACME)["remaining"] == "6"


def test_reasons_variants_and_errors(client: Any) -> None:
    details = client.get_boolean_details("sso", False, ACME)
    assert (details.reason, details.variant, details.flag_metadata["reason"]) == (
        "TARGETING_MATCH", "plan pro/1", "granted",
    )  # fmt: skip
    assert client.get_boolean_details("beta", True, ACME).reason == "DISABLED"
    unknown = client.get_boolean_details("other", True, ACME)
    assert (unknown.value, unknown.reason) == (True, "DEFAULT")
    nobody = client.get_boolean_details("sso", False)
    assert (nobody.value, nobody.error_code) == (False, "TARGETING_KEY_MISSING")
    assert client.get_integer_details("sso", 7, ACME).error_code == "TYPE_MISMATCH"


def test_the_asynchronous_calls_of_the_sdk_say_the_same(client: Any) -> None:
    async def ask() -> list[Any]:
        return [
            await client.get_boolean_value_async("sso", False, ACME),
            await client.get_integer_value_async("tokens", 0, ACME),
            await client.get_string_value_async("seats", "", ACME),
            await client.get_boolean_value_async("other", True, ACME),
        ]

    assert asyncio.run(ask()) == [True, 6, "25", True]


def test_tracking_consumes(client: Any) -> None:
    client.track("tokens", ACME, TrackingEventDetails(attributes={"quantity": 4}))
    client.track("tokens", ACME)
    assert client.get_integer_value("tokens", 0, ACME) == 1
