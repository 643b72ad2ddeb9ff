"""Control points of small worlds: what closes and deliveries would have written down as they acted, with leaks between two."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

Row = dict[str, Any]
CLOSE = "close-1"


def point(point: str, reason: str, **more: Any) -> Row:
    """Return one control point as controls read it; texts that it does not tell apart are empty."""
    texts = ("batch_id", "previous_batch_id", "adapter", "account_id", "tenant_id", "meter", "currency")
    figures: Row = {"quantity": None, "amount": None, "position": None, "event_count": 1}
    return {**dict.fromkeys(texts, ""), **figures, "point": point, "reason": reason, **more}


def of_close(lines: list[Row], stored: dict[tuple[str, str], tuple[int, Decimal]], *, is_leaking: bool) -> list[Row]:
    """Return what a close wrote of its lines and of the usage events that it read.

    Leaking: it saw 33.3 of 333.3 units of `rounded` not at all, rated 100 of 700 units of `drifted` not, and charged 5.00 less
    than it rated of `promised`.
    """
    same = {"batch_id": CLOSE, "position": 1}
    points = []
    for (tenant, meter), (rows, quantity) in stored.items():
        short = Decimal("33.3") if is_leaking and tenant == "rounded" else Decimal(0)
        seen = {"tenant_id": tenant, "meter": meter, "event_count": rows, "quantity": quantity - short}
        points.append(point("P3", "subscribed", **same, **seen))
    for line in lines:
        named = {name: line[name] or "" for name in ("account_id", "tenant_id", "meter", "currency")}
        unrated = Decimal(100) if is_leaking and line["tenant_id"] == "drifted" else Decimal(0)
        uncharged = Decimal(5) if is_leaking and line["tenant_id"] == "promised" else Decimal(0)
        quantity, amount = line["quantity"], line["exact_amount"]
        if line["meter"]:
            points.append(point("P3", "priced", **same, **named, quantity=quantity))
        points += [
            point("P4", "rated", **same, **named, quantity=quantity - unrated, amount=amount + uncharged),
            point("P4", "charged", **same, **named, quantity=quantity, amount=amount),
            point("P5", "line", **same, **named, quantity=quantity, amount=line["amount"]),
        ]
    return points


def of_deliveries(booked: list[Row], sent: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return what the close of each document wrote of it, and deliveries on their way; and the documents of these closes."""
    close_of = {row["invoice_id"]: f"close-{row['invoice_id']}" for row in booked}
    points = [
        point("P5", row["document_type"], batch_id=close_of[row["invoice_id"]], position=at, account_id=row["account_id"],
              currency=row["currency"], amount=row["amount_due"])
        for at, row in enumerate(booked, start=1)
    ]  # fmt: skip
    for row in sent:
        if row["kind"] == "void":
            continue
        named = {name: row[name] for name in ("adapter", "account_id", "currency")}
        act = {**named, "batch_id": row["delivery_id"], "previous_batch_id": row["invoice_id"], "amount": row["sent"]}
        points.append(point("P6", "meant", **act))
        if row["bucket"] == "confirmed":
            points.append(point("P6", "delivered", **act))
    documents = [{**row, "close_id": close_of[row["invoice_id"]]} for row in booked]
    return points, documents
