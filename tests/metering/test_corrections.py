"""Voids and replacements: later events that name an earlier one. Nothing is edited, nobody touches another's usage."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.corrections import Origin, correction_text, join_correction, split_correction
from metering.engine import open_engine
from metering.errors import BadEvent
from metering.events import encode_attributes, usage_event_schema
from metering.usage import load_events


def event(
    row: int, quantity: str, *, key: str | None = None, tenant: str = "acme", correction: str | None = None
) -> Any:
    return {
        "tenant_id": tenant,
        "meter": "tokens",
        "quantity": Decimal(quantity),
        "event_time": datetime(2026, 10, 1, tzinfo=UTC),
        "recorded_at": datetime(2026, 10, 1, row, tzinfo=UTC),
        "producer_id": "p",
        "segment": 1,
        "row": row,
        "idempotency_key": key,
        "attributes": None,
        "correction": correction,
    }


def counted(events: list[Any]) -> list[int]:
    """Return the rows that count, in order."""
    engine = open_engine(threads=1)
    try:
        load_events(engine, pa.Table.from_pylist(events, schema=usage_event_schema()))
        return [row for (row,) in engine.execute("SELECT row FROM usage_event ORDER BY row").fetchall()]
    finally:
        engine.close()


def test_a_void_takes_the_event_it_names_and_counts_as_none() -> None:
    void = correction_text("void", key="a")
    assert counted([event(0, "5", key="a"), event(1, "7", key="b"), event(2, "0", correction=void)]) == [1]


def test_a_replacement_counts_in_place_of_the_event_it_names() -> None:
    replaces = correction_text("replace", origin=Origin("p", 1, 0))
    assert counted([event(0, "5"), event(1, "7"), event(2, "6", correction=replaces)]) == [1, 2]


def test_nobody_can_touch_the_usage_of_another_tenant() -> None:
    by_key = correction_text("void", key="a")
    by_origin = correction_text("void", origin=Origin("p", 1, 0))
    events = [event(0, "5", key="a"), event(1, "0", tenant="evil", correction=by_key)]
    assert counted([*events, event(2, "0", tenant="evil", correction=by_origin)]) == [0]


def test_a_void_of_a_replacement_leaves_nothing() -> None:
    replaces = event(1, "6", key="b", correction=correction_text("replace", key="a"))
    assert counted([event(0, "5", key="a"), replaces, event(2, "0", correction=correction_text("void", key="b"))]) == []


def test_a_correction_of_a_key_reaches_its_duplicates_too() -> None:
    void = correction_text("void", key="a")
    assert counted([event(0, "5", key="a"), event(1, "5", key="a"), event(2, "0", correction=void)]) == []


def test_order_is_no_matter() -> None:
    events = [
        event(0, "5", key="a"),
        event(1, "6", key="b", correction=correction_text("replace", key="a")),
        event(2, "0", correction=correction_text("void", origin=Origin("p", 1, 3))),
        event(3, "9"),
    ]
    assert {tuple(counted(list(order))) for order in permutations(events)} == {(1,)}


def test_an_event_is_named_in_exactly_one_way() -> None:
    for names in ({}, {"key": "a", "origin": Origin("p", 1, 0)}):
        with pytest.raises(BadEvent, match="one of the two"):
            correction_text("void", **names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin",
    [
        ("p", 1, 0),
        Origin("p", "1", 0),  # type: ignore[arg-type]
        Origin("p", 1, True),
        Origin("p", 1, 2**31),
        Origin("p", 2**63, 0),
        Origin("p", -1, 0),
        Origin("p", 1.0, 0),  # type: ignore[arg-type]
        Origin("", 1, 0),
        Origin("\ud800", 1, 0),
    ],
)
def test_an_origin_that_no_event_can_have_is_refused(origin: Any) -> None:
    with pytest.raises(BadEvent):
        correction_text("void", origin=origin)


@pytest.mark.parametrize("named", ['"row":0,"segment":"one"', '"row":2147483648,"segment":1', '"row":1e99,"segment":1'])
def test_a_stored_correction_that_names_nothing_keeps_nobody_s_usage_from_being_read(named: str) -> None:
    poison = event(1, "0", correction=f'{{"producer_id":"p",{named},"verb":"void"}}')
    assert counted([event(0, "5"), poison]) == [0]


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(max_size=20).filter(str.isprintable)),
    st.sampled_from(["void", "replace"]),
    st.text(min_size=1, max_size=20).filter(str.isprintable),
)
def test_the_journal_carries_a_correction_beside_any_attributes(attributes: Any, verb: Any, key: str) -> None:
    written = encode_attributes(dict(list(attributes.items())[:10]))
    correction = correction_text(verb, key=key)
    assert split_correction(join_correction(written, correction)) == (written, correction)
    assert split_correction(written) == (written, None)
