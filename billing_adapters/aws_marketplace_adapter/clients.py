"""boto3's clients as these adapters need them: a region that is named, no retries of their own, the environment's keys.

Enters: the name of a service and a region. Leaves: a client. Refuses: retries inside the SDK, because the outbox knows more.
"""

from __future__ import annotations

from typing import Any


def make_client(service: str, region: str, address: str | None = None) -> Any:
    """Return boto3's client of a service, of a session of its own; `address` points it at a fake."""
    import boto3
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "total_max_attempts": 1}, region_name=region)
    return boto3.Session().client(service, region_name=region, endpoint_url=address, config=config)
