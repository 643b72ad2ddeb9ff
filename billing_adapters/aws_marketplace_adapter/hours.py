"""One closed hour of a licence as AWS is told of it: the literal record, made once.

Enters: an `HourTotal`. Leaves: an intent with the record. Refuses: what AWS would refuse, before it can spoil a batch: more than
ten integer digits, names and tags out of form. Source: reference/providers.md, sections 2.1 and 2.2.

Quantities are cut to the decimals that the dimension takes; what is left, and what came late for a sent hour, is carried into a
later hour (`billing_adapters.usage_totals.by_first_write`), for the first write of an hour stays. The timestamp is the hour's
start, or the licence's where that is later: both mean the same hour, and the same one is sent again. It is never in the future,
because only closed hours are told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.adapter import Intent, Window
from billing_adapters.aws_marketplace_adapter.records import (
    WIRE_BYTES_MAX,
    allocations,
    quantity_field,
    refusal_of,
    wire_bytes,
)
from billing_adapters.usage_totals import UsageTotal, by_first_write
from metering.clock import iso_utc, to_us

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

# Under 24 hours old, and the month before only until 06:00 UTC on the 1st.
WINDOW = Window(oldest=timedelta(hours=24), month_grace=timedelta(hours=6))
_ACCOUNT = re.compile(r"[0-9]{1,255}")
_ARN = re.compile(
    r"arn:aws[a-zA-Z-]*:[A-Za-z0-9][\w/.-]{0,62}:[\w/.-]{0,63}:[\w/.-]{0,63}:[A-Za-z0-9][\w:/+=,@.-]{0,1023}", re.ASCII
)
_PRODUCT_CODE = re.compile(r"[-a-zA-Z0-9/=:_.@]{1,255}")


@dataclass(frozen=True, slots=True)
class Licence:
    """Whom AWS bills: a licence of an account (products since 2026-06), or a customer of a product code (legacy).

    `product` groups calls: one call speaks of one product. The two styles are two buyers to AWS: the same hour told in both is
    billed twice, so a subscription changes its style only between two hours.
    """

    product: str
    aws_account_id: str | None = None
    licence_arn: str | None = None
    customer_identifier: str | None = None
    starts_at: datetime | None = None

    def __post_init__(self) -> None:
        is_new = self.licence_arn is not None and self.aws_account_id is not None and self.customer_identifier is None
        is_legacy = self.licence_arn is None and (self.aws_account_id is None) != (self.customer_identifier is None)
        if not (is_new or is_legacy):
            raise ValueError(
                "a licence is an ARN with an account id, or (legacy) one of customer identifier and account id"
            )
        # botocore lets these pass, and AWS would refuse a whole batch for them.
        if self.aws_account_id is not None and not _ACCOUNT.fullmatch(self.aws_account_id):
            raise ValueError(f"an AWS account id is digits, not {self.aws_account_id!r}")
        if self.licence_arn is not None and not _ARN.fullmatch(self.licence_arn):
            raise ValueError(f"{self.licence_arn!r} is no ARN of a licence: arn:aws:license-manager::...:license:l-...")
        if is_legacy and not _PRODUCT_CODE.fullmatch(self.product):
            raise ValueError(f"{self.product!r} is no product code")

    @property
    def is_legacy(self) -> bool:
        return self.licence_arn is None

    @property
    def identity(self) -> dict[str, str]:
        """Return the fields of a record that say who it is."""
        named = {
            "CustomerAWSAccountId": self.aws_account_id,
            "CustomerIdentifier": self.customer_identifier,
            "LicenseArn": self.licence_arn,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def key(self) -> str:
        who = self.licence_arn or f"{self.product}:{self.customer_identifier or self.aws_account_id}"
        return f"{who}@{self.aws_account_id}" if self.licence_arn else who


@dataclass(frozen=True, slots=True)
class HourTotal:
    """A closed hour of a licence and dimension: a source of `prepare`. `total.name` is the dimension.

    `shares`: how the hour's quantity splits over tags that the buyer wants to see, each with its weight; they take no part in
    the price. `final_until`: of a licence that ended, until when AWS takes its last records. `refusal`: why it must not be told.
    """

    total: UsageTotal
    licence: Licence
    shares: tuple[tuple[Mapping[str, str], Decimal], ...] = ()
    final_until: datetime | None = None
    refusal: str | None = None


def hour_intent(hour: HourTotal, region: str, decimals: int) -> Intent:
    """Return what AWS is told of an hour. `decimals` 0 sends whole numbers."""
    total = hour.total
    quantity, _ = by_first_write(total, decimals)
    start = total.start
    timestamp = max(start, hour.licence.starts_at or start)
    record: dict[str, Any] = {
        **hour.licence.identity,
        "Dimension": total.name,
        "Timestamp": to_us(timestamp) // 1_000_000,
        **quantity_field("Quantity", quantity, decimals),
    }
    if hour.shares:
        record["UsageAllocations"] = allocations(quantity, hour.shares, decimals)
    body = {
        "product": hour.licence.product,
        "product_code": hour.licence.product if hour.licence.is_legacy else None,
        "record": record,
        **({"is_ending": True} if hour.final_until is not None else {}),
    }
    refusal = hour.refusal or refusal_of(total.name, quantity, decimals, hour.shares)
    if timestamp >= total.end:
        refusal = f"the licence begins {iso_utc(timestamp)}, after this hour: AWS takes nothing of before"
    if wire_bytes(record) > WIRE_BYTES_MAX:
        refusal = (
            f"a record has less than {WIRE_BYTES_MAX} bytes, not {wire_bytes(record)}; write fewer or shorter tags"
        )
    return Intent(
        kind="hour",
        natural_key=f"{region} {hour.licence.key} {total.name} {iso_utc(start)}",
        payload=orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode(),
        account_id=total.account_id,
        subject=total.subscription_id,
        # The hour is named by what was used, not by what was carried into it: asked again later, it is the same hour.
        content=f"{region} {hour.licence.key} {total.name} {iso_utc(start)}",
        # Hours of one licence and dimension may be told in any order; the rank says which was the last.
        rank=iso_utc(start),
        quantity=quantity,
        series=total.series,
        recover_by=min((at for at in (WINDOW.recover_by(timestamp), hour.final_until) if at is not None), default=None),
        refusal=refusal,
    )
