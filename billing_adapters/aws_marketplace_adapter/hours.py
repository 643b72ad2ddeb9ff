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
from billing_adapters.usage_totals import UsageTotal, by_first_write
from metering.clock import iso_utc, to_us
from metering.numbers import plain, trimmed
from rating.allocation import allocate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

# Under 24 hours old, and the month before only until 06:00 UTC on the 1st.
WINDOW = Window(oldest=timedelta(hours=24), month_grace=timedelta(hours=6))
DECIMALS_MAX = 6
TAGS_MAX, ALLOCATIONS_MAX = 5, 2500
_QUANTITY = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")
_WHOLE_MAX = 2_147_483_647
_TAG_KEY = re.compile(r"[a-zA-Z0-9+ \-=._:/@]{1,100}")
_TAG_VALUE = re.compile(r"[a-zA-Z0-9+ \-=._:/@]{1,256}")


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
    the price.
    """

    total: UsageTotal
    licence: Licence
    shares: tuple[tuple[Mapping[str, str], Decimal], ...] = ()


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
        **_quantity(quantity, decimals, ""),
    }
    if hour.shares:
        record["UsageAllocations"] = _allocations(quantity, hour, decimals)
    body = {
        "product": hour.licence.product,
        "product_code": hour.licence.product if hour.licence.is_legacy else None,
        "record": record,
    }
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
        recover_by=WINDOW.recover_by(timestamp),
        refusal=_refusal(hour, quantity, decimals),
    )


def _quantity(quantity: Decimal, decimals: int, prefix: str) -> dict[str, Any]:
    field = f"{prefix}UsageQuantity" if prefix else "Quantity"
    if decimals == 0:
        return {field: int(quantity)}
    return {f"{field}AsDecimal": trimmed(quantity)}


def _allocations(quantity: Decimal, hour: HourTotal, decimals: int) -> list[dict[str, Any]]:
    """Split what is sent, not what was used: the parts must add up to it exactly."""
    parts = allocate(quantity, [weight for _, weight in hour.shares], decimals)
    return [
        {
            **_quantity(part, decimals, "Allocated"),
            **({"Tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]} if tags else {}),
        }
        for (tags, _), part in zip(hour.shares, parts, strict=True)
    ]


def _refusal(hour: HourTotal, quantity: Decimal, decimals: int) -> str | None:
    if not 1 <= len(hour.total.name) <= 255:
        return "a dimension has 1 to 255 characters"
    if not _QUANTITY.fullmatch(trimmed(quantity)) or (decimals == 0 and quantity > _WHOLE_MAX):
        return (
            f"{plain(quantity)} {hour.total.name} is more than AWS takes of an hour; give the dimension a larger unit"
        )
    if len(hour.shares) > ALLOCATIONS_MAX:
        return f"an hour has up to {ALLOCATIONS_MAX} allocations, not {len(hour.shares)}"
    seen = {tuple(sorted(tags.items())) for tags, _ in hour.shares}
    if len(seen) < len(hour.shares):
        return "two allocations of an hour have the same tags"
    for tags, _ in hour.shares:
        if len(tags) > TAGS_MAX:
            return f"an allocation has up to {TAGS_MAX} tags, not {len(tags)}"
        for key, value in tags.items():
            if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
                return f"AWS takes no tag {key!r}: {value!r}; letters, digits, space and + - = . _ : / @ only"
    return None
