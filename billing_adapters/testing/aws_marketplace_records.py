"""The form of usage records, as AWS checks it and botocore does not: providers.md, sections 2.1 and 2.2.

Enters: a record as it was sent. Leaves: nothing. Refuses: by the exception that the caller names, with AWS's own name for it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST_BYTES_MAX, QUANTITY_MAX = 1_000_000, 2_147_483_647
ALLOCATIONS_MAX, TAGS_MAX = 2500, 5
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")
_TAG = re.compile(r"[a-zA-Z0-9+ \-=._:/@]+")
_FIELDS = frozenset(
    {
        "CustomerAWSAccountId",
        "CustomerIdentifier",
        "Dimension",
        "LicenseArn",
        "Quantity",
        "QuantityAsDecimal",
        "Timestamp",
        "UsageAllocations",
    }
)


def check_record(record: dict[str, Any], product_code: str | None, refused: Callable[..., Exception]) -> None:
    """Refuse a record that is out of form."""
    if record.keys() - _FIELDS or not 1 <= len(record.get("Dimension", "")) <= 255:
        raise refused("ValidationException", f"a record is out of form: {sorted(record)}")
    is_legacy = ("CustomerIdentifier" in record) != ("CustomerAWSAccountId" in record)
    if product_code is None and not ({"LicenseArn", "CustomerAWSAccountId"} <= record.keys()):
        raise refused("InvalidLicenseException", "a licence and an account are needed, or a product code")
    if product_code is not None and ("LicenseArn" in record or not is_legacy):
        raise refused("InvalidCustomerIdentifierException", "one of customer identifier and account, and no licence")
    if "Quantity" in record and "QuantityAsDecimal" in record:
        raise refused("ValidationException", "Quantity and QuantityAsDecimal exclude each other")
    _check_quantity(record.get("Quantity"), record.get("QuantityAsDecimal"), refused)
    if "UsageAllocations" in record:
        check_allocations(record, refused)


def _check_quantity(whole: object, text: object, refused: Callable[..., Exception]) -> None:
    if whole is not None and (type(whole) is not int or not 0 <= whole <= QUANTITY_MAX):
        raise refused("ValidationException", f"{whole} is not a whole number of 0 to {QUANTITY_MAX}")
    if text is not None and (not isinstance(text, str) or not _DECIMAL.fullmatch(text)):
        raise refused("ValidationException", f"{text} is not a decimal of 10 and 6 digits")


def check_allocations(record: dict[str, Any], refused: Callable[..., Exception], quantity: str = "Quantity") -> None:
    """Refuse allocations that do not add up to the quantity of their record, which is in the field of that name."""
    allocations = record["UsageAllocations"]
    if not 1 <= len(allocations) <= ALLOCATIONS_MAX:
        raise refused("InvalidUsageAllocationsException", f"{len(allocations)} allocations")
    is_decimal = f"{quantity}AsDecimal" in record
    field = "AllocatedUsageQuantityAsDecimal" if is_decimal else "AllocatedUsageQuantity"
    total, seen = Decimal(0), set()
    for one in allocations:
        if one.keys() - {field, "Tags"} or field not in one:
            raise refused("InvalidUsageAllocationsException", f"an allocation has {sorted(one)}")
        _check_quantity(None if is_decimal else one[field], one[field] if is_decimal else None, refused)
        total += Decimal(one[field])
        tags = one.get("Tags", [])
        if len(tags) > TAGS_MAX or ("Tags" in one and not tags):
            raise refused("InvalidTagException", f"{len(tags)} tags")
        if any(not _TAG.fullmatch(tag["Key"] + tag["Value"]) for tag in tags):
            raise refused("InvalidTagException", "characters of a tag")
        seen.add(tuple(sorted((tag["Key"], tag["Value"]) for tag in tags)))
    whole = record[f"{quantity}AsDecimal"] if is_decimal else record.get(quantity, 0)
    if total != Decimal(whole) or len(seen) < len(allocations):
        raise refused("InvalidUsageAllocationsException", "allocations do not add up, or have the same tags")
