"""Matching against the obvious one in plain Python; every key once, no cent lost, and a matching that is wrong is caught."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from billing_adapters.reconciliation.matching import STATUSES, Tolerance, keyed, match, match_side_schema, sample
from tests import oracle_matching as oracle
from tests.properties.mutated import fails, mutate
from tests.rated import engine

Row = dict[str, Any]
World = tuple[list[Row], list[Row], dict[str, Tolerance], datetime | None]
CUT = datetime(2026, 11, 2, tzinfo=UTC)
DIGITS = {"USD": 2, "JPY": 0, "KWD": 3}
CENT = Decimal("0.01")


def row(key: str, amount: str | None, currency: str = "USD", **more: Any) -> Row:
    quantity = more.get("quantity")
    return {
        "key": key,
        "currency": currency,
        "detail_rows": more.get("detail_rows", 1),
        "quantity": None if quantity is None else Decimal(quantity),
        "amount": None if amount is None else Decimal(amount),
        "occurred_at": more.get("occurred_at"),
    }


def table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=match_side_schema())


def statuses(world: World) -> dict[tuple[str, str], str]:
    match_world(world)
    return {(one["key"], one["currency"]): one["status"] for one in matched()}


def match_world(world: World) -> Any:
    ours, theirs, tolerances, settled_before = world
    return match(engine(), table(ours), table(theirs), settled_before=settled_before, tolerances=tolerances)


def matched() -> list[Row]:
    found: list[Row] = engine().sql("FROM matched ORDER BY key, currency").to_arrow_table().to_pylist()
    return found


# Few keys for many rows, so that lists meet; amounts that are near each other and near the limits.
_AMOUNTS = st.sampled_from(
    [None, "0", "0.01", "10.00", "10.01", "9.99", "10.02", "11.00", "11.01", "9", "8.99", "-10", "5000", "5010.05"]
)
_QUANTITIES = st.sampled_from([None, None, "1", "1.000000001", "1.000000002", "0.999999999", "2", "3"])
_TIMES = st.sampled_from([None, CUT, CUT - timedelta(microseconds=1), CUT + timedelta(hours=1)])
_ROWS = st.builds(
    lambda key, amount, currency, quantity, detail_rows, occurred_at: row(
        key, amount, currency, quantity=quantity, detail_rows=detail_rows, occurred_at=occurred_at
    ),
    st.sampled_from("abcdefghijklmnopqrstuvwxyz"),
    _AMOUNTS,
    st.sampled_from([*DIGITS, "XTS"]),
    _QUANTITIES,
    st.sampled_from([0, 1, 40_000, 4_000_000]),
    _TIMES,
)
_SHARES = st.sampled_from(["0", "0.000000001", "0.1", "1"]).map(Decimal)
_LIMITS = st.sampled_from(["0", "0.01", "1", "0.000000001"]).map(Decimal)
_TOLERANCES = st.builds(Tolerance, _LIMITS, _LIMITS, _SHARES, _LIMITS, _LIMITS, _SHARES, st.booleans())
WORLDS: st.SearchStrategy[World] = st.tuples(
    st.lists(_ROWS, min_size=20, max_size=80),
    st.lists(_ROWS, min_size=20, max_size=80),
    st.fixed_dictionaries(dict.fromkeys([*DIGITS, "XTS"], _TOLERANCES)),
    st.sampled_from([None, CUT]),
)


def check(world: World) -> None:
    ours, theirs, tolerances, settled_before = world
    counts = match_world(world)
    allowed = {
        currency: {field.name: getattr(tolerance, field.name) for field in fields(tolerance)}
        for currency, tolerance in tolerances.items()
    }
    expected = oracle.match(ours, theirs, allowed, DIGITS, settled_before)
    found = matched()
    assert sorted((one["key"], one["currency"]) for one in found) == sorted(expected), "every key once"
    for one in found:
        match_of = oracle.Match(**{name: one[name] for name in oracle.Match.__dataclass_fields__})
        assert match_of == expected[one["key"], one["currency"]]
        ours_is, theirs_is = match_of.our_amount, match_of.their_amount
        if ours_is is not None and theirs_is is not None:
            assert one["amount_difference"] == theirs_is - ours_is
    for currency in tolerances:
        mine = [count for count in counts if count.currency == currency]
        for side, rows in (("our", ours), ("their", theirs)):
            members = [one for one in rows if one["currency"] == currency]
            assert sum(getattr(count, f"{side}_rows") for count in mine) == len(members)
            for name in ("quantity", "amount"):
                kept = sum((one[name] for one in members if one[name] is not None), Decimal(0))
                assert sum(getattr(count, f"{side}_{name}") for count in mine) == kept, "sums are preserved"
    assert sum(count.keys for count in counts) == len(expected)


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(world=WORLDS)
def test_it_is_the_obvious_matching(world: World) -> None:
    check(world)


@pytest.mark.prove
@settings(max_examples=1000, deadline=None)
@given(world=WORLDS)
def test_it_is_the_obvious_matching_in_very_many_worlds(world: World) -> None:
    check(world)


def test_each_status_has_its_example() -> None:
    old, young = CUT - timedelta(days=1), CUT
    ours = [
        row("same", "10.00", occurred_at=old),
        row("rounded", "10.00", occurred_at=old),
        row("dear", "10.00", occurred_at=old),
        row("more", "10.00", quantity="5", occurred_at=old),
        row("unsent", "480.00", occurred_at=old),
        row("euro", "7.00", "EUR", occurred_at=old),
        row("fresh", "3.00", occurred_at=young),
    ]
    theirs = [
        row("same", "10.00", occurred_at=old),
        row("rounded", "10.01", occurred_at=old),
        row("dear", "10.02", occurred_at=old),
        row("more", "12.00", quantity="6", occurred_at=old),
        row("orphan", "99.00", occurred_at=old),
        row("euro", "7.00", "USD", occurred_at=old),
    ]
    tolerances = {"USD": Tolerance(amount_above=CENT)}
    found = statuses((ours, theirs, tolerances, CUT))
    assert found == {
        ("same", "USD"): "match",
        ("rounded", "USD"): "within_tolerance",
        ("dear", "USD"): "amount_differs",
        ("more", "USD"): "quantity_differs",
        ("unsent", "USD"): "only_ours",
        ("orphan", "USD"): "only_theirs",
        ("euro", "EUR"): "currency_differs",
        ("euro", "USD"): "currency_differs",
        ("fresh", "USD"): "timing",
    }
    assert set(found.values()) == set(STATUSES)
    shown = sample(engine(), rows=1).to_pylist()
    assert [one["key"] for one in shown if one["status"] == "only_ours"] == ["unsent"]
    assert "match" not in {one["status"] for one in shown}


@pytest.mark.parametrize(
    ("detail_rows", "currency", "difference", "status"),
    [
        (5, "USD", "1.00", "within_tolerance"),
        (5, "USD", "1.01", "amount_differs"),
        (40_000, "USD", "1.00", "within_tolerance"),
        (40_001, "USD", "1.01", "amount_differs"),
        (1_000_000, "USD", "5.00", "within_tolerance"),
        (1_000_000, "USD", "-5.00", "within_tolerance"),
        (1_000_000, "USD", "5.01", "amount_differs"),
        (100_000_000, "USD", "50.00", "within_tolerance"),
        (100_000_000, "JPY", "5000", "within_tolerance"),
        (100_000_000, "JPY", "5001", "amount_differs"),
        (100_000_000, "USD", "99999999999999", "amount_differs"),
    ],
)
def test_rounding_of_details_is_allowed_what_focus_allows(
    detail_rows: int, currency: str, difference: str, status: str
) -> None:
    ours = [row("invoice", "1000", currency, detail_rows=detail_rows)]
    theirs = [row("invoice", str(1000 + Decimal(difference)), currency)]
    tolerances = {currency: Tolerance(is_rounding=True)}
    assert statuses((ours, theirs, tolerances, None)) == {("invoice", currency): status}


def test_a_document_that_is_there_twice_is_one_key_with_two_rows() -> None:
    match_world(([row("a", "10")], [row("a", "10"), row("a", "10")], {}, None))
    (one,) = matched()
    assert (one["status"], one["our_rows"], one["their_rows"], one["amount_difference"]) == ("amount_differs", 1, 2, 10)


def test_a_key_is_made_of_declared_columns() -> None:
    columns = pa.table({"kind": ["invoice", "void"], "id": ["in_1", None]})
    assert keyed(columns, ["kind", "id"]).to_pylist() == ["invoice\x1fin_1", "void\x1f"]


@pytest.mark.parametrize("limit", [Decimal(-1), Decimal("NaN"), 1])
def test_a_tolerance_is_a_decimal_of_zero_or_more(limit: Any) -> None:
    with pytest.raises(ValueError, match="Decimal of 0 or more"):
        Tolerance(amount_above=limit)


def test_a_side_of_floats_is_refused() -> None:
    exact = match_side_schema().empty_table()
    floats = exact.set_column(4, "amount", pa.array([], pa.float64()))
    for ours, theirs in ((floats, exact), (exact, floats)):
        with pytest.raises(ValueError, match="amount is a binary float"):
            match(engine(), ours, theirs)


def test_a_share_is_at_most_all() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        Tolerance(quantity_share=Decimal("1.1"))


MUTANTS = {
    "what only we have is forgotten": ("FULL OUTER JOIN theirs", "RIGHT JOIN theirs"),
    "what only they have is forgotten": ("FULL OUTER JOIN theirs", "LEFT JOIN theirs"),
    "currencies are mixed": (
        "FULL OUTER JOIN theirs USING (key, currency)",
        "FULL OUTER JOIN theirs ON ours.key = theirs.key AND ours.currency <> 'JPY'",
    ),
    "rows of a key are counted once": ("count(*) AS rows,\n        sum(quantity)", "1 AS rows,\n        sum(quantity)"),
    "the largest row of a key stands for all": (
        "sum(amount)::DECIMAL(38, 12) AS amount,\n        max(occurred_at) AS newest_at\n    FROM match_theirs",
        "max(amount)::DECIMAL(38, 12) AS amount,\n        max(occurred_at) AS newest_at\n    FROM match_theirs",
    ),
    "the sign is turned": ("ELSE theirs.amount - ours.amount", "ELSE ours.amount - theirs.amount"),
    "above is below": (
        "WHEN amount_difference > 0 THEN amount_above",
        "WHEN amount_difference < 0 THEN amount_above",
    ),
    "a limit is not reached": ("abs(amount_difference) <= CASE", "abs(amount_difference) < CASE"),
    "a limit of units is not reached": ("abs(quantity_difference) <= CASE", "abs(quantity_difference) < CASE"),
    "a share is of theirs": (
        "abs(coalesce(our_amount, 0)) * (amount_share",
        "abs(coalesce(their_amount, 0)) * (amount_share",
    ),
    "a share is rounded": (
        "abs(quantity_difference) * 1000000000\n                    <= abs(coalesce(our_quantity, 0)) * "
        "(quantity_share::DECIMAL(38, 9) * 1000000000)::BIGINT",
        "abs(quantity_difference) <= (abs(coalesce(our_quantity, 0)) * quantity_share)::DECIMAL(38, 12)",
    ),
    "rounding is always allowed": (
        "OR (\n            is_rounding\n            AND",
        "OR (\n            true\n            AND",
    ),
    "rounding is 99 subunits": ("<= 100 * subunit", "<= 99 * subunit"),
    "the root is not halved": (
        " * ".join(["TRY_CAST(2 * amount_difference AS DECIMAL(18, 12))"] * 2),
        " * ".join(["TRY_CAST(1 * amount_difference AS DECIMAL(18, 12))"] * 2),
    ),
    "the cut itself is old": ("ours.newest_at >= $settled_before", "ours.newest_at > $settled_before"),
    "only ours can be young": (" OR coalesce(theirs.newest_at >= $settled_before, false)", ""),
    "all that is young is timing": (
        "WHEN is_both AND is_near_quantity",
        "WHEN NOT is_young AND is_both AND is_near_quantity",
    ),
    "timing hides a currency": (
        "WHEN is_other_currency THEN 'currency_differs'\n        WHEN is_young THEN 'timing'",
        "WHEN is_young THEN 'timing'\n        WHEN is_other_currency THEN 'currency_differs'",
    ),
    "a currency that both have differs": (
        "(our_rows = 0 OR their_rows = 0) AND other_currency.key",
        "other_currency.key",
    ),
    "ours alone is another currency": ("INTERSECT", "UNION"),
    "what is not there is near": ("WHEN is_both AND is_near_quantity", "WHEN is_near_quantity"),
    "quantities do not count": ("is_both AND is_same_quantity AND is_same_amount", "is_both AND is_same_amount"),
    "an unknown quantity differs": ("coalesce(quantity_difference, 0) = 0", "coalesce(quantity_difference, 1) = 0"),
    "amounts come first": (
        "WHEN NOT is_near_quantity THEN 'quantity_differs'\n        ELSE 'amount_differs'",
        "WHEN NOT is_near_amount THEN 'amount_differs'\n        ELSE 'quantity_differs'",
    ),
}


def at_the_limits() -> World:
    """Return a world whose differences are at each limit, one unit below and one above it."""
    tolerances = {
        "USD": Tolerance(amount_above=CENT, amount_below=Decimal(1)),
        "KWD": Tolerance(is_rounding=True),
        "JPY": Tolerance(amount_share=Decimal("0.1")),
        "XTS": Tolerance(quantity_above=Decimal(2), quantity_below=Decimal(1)),
    }
    differences = {
        "USD": ["0.01", "0.02", "-0.99", "-1", "-1.01"],
        "KWD": ["0.099", "0.1", "0.101", "0.999", "1", "-1", "1.001"],
        "JPY": ["99", "100", "101", "-100", "-101", "110"],
        "XTS": ["1", "2", "3", "-1", "-2"],
    }
    ours, theirs = [], []
    for currency, changes in differences.items():
        for change in changes:
            # Few rows allow 100 subunits, 0.100 KWD; 4 million the root of it, 2,000, halved: 1.000 KWD.
            detail_rows = 4_000_000 if abs(Decimal(change)) > Decimal("0.5") else 1
            quantity = "1000" if currency == "XTS" else None
            ours.append(row(change, "1000", currency, quantity=quantity, detail_rows=detail_rows))
            moved = str(1000 + Decimal(change))
            theirs.append(row(change, "1000", currency, quantity=moved) if quantity else row(change, moved, currency))
    return ours, theirs, tolerances, None


def test_limits_are_reached_and_not_passed() -> None:
    check(at_the_limits())


def at_the_last_digit() -> World:
    """Return a world in which a billionth of ours is allowed, and the difference is that, or more by what rounding would hide."""
    tolerances = {"USD": Tolerance(quantity_share=Decimal("0.000000001"))}
    ours = [row("a", None, "USD", quantity="1"), row("b", None, "USD", quantity="0.999999999")]
    theirs = [row("a", None, "USD", quantity="1.000000001"), row("b", None, "USD", quantity="1")]
    return ours, theirs, tolerances, None


def test_a_share_is_taken_to_its_last_digit() -> None:
    check(at_the_last_digit())
    assert {one["key"]: one["status"] for one in matched()} == {"a": "within_tolerance", "b": "quantity_differs"}


@cache
def dense_worlds() -> list[World]:
    """Return worlds in which nearly every rule matters for some key, the same ones each time."""
    found: list[World] = [at_the_limits(), at_the_last_digit()]

    @seed(7)
    @settings(max_examples=12, deadline=None, phases=[Phase.generate], database=None)
    @given(world=WORLDS)
    def collect(world: World) -> None:
        found.append(world)

    collect()
    return found


@pytest.mark.parametrize("name", MUTANTS)
def test_a_matching_that_is_wrong_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, other = MUTANTS[name]
    module = "billing_adapters.reconciliation"
    mutate(monkeypatch, module, "match", text, other, (f"{module}.matching",))
    assert any(fails(partial(check, world)) for world in dense_worlds()), f"nobody sees that {name}"
