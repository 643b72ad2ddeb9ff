"""The catalog in the books: revisions, what may change, and that nothing of it is lost on the way."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text

from entitlements.features import Entitlement, Feature
from metering.catalog import Meter
from rating.balances import Balance
from rating.errors import NotFound, PlanVersionChanged
from rating.grants import TenantGrant
from rating.plans import Account, Plan, Subscription
from tallybook.books import catalog_entries, catalog_names, catalog_revisions, migrate, open_books
from tallybook.catalog import Catalog, apply_catalog, load_catalog, load_revision
from tallybook.catalog_history import content_hash, definition_of, load_last_revision_of
from tests.tallybook.shop import open_shop

NOW = datetime(2026, 10, 1, tzinfo=UTC)

TEXT = """
meters:
  - {name: tokens, unit: token, attributes: [model]}
  - {name: calls, aggregation: count}
plans:
  - name: pro
    version: 3
    currency: USD
    prices:
      - {id: fee, type: flat, amount: "49.00"}
      - {id: out, meter: tokens, type: graduated, tiers: [{up_to: 10, unit_price: 0}, {unit_price: "0.0000020"}]}
  - {name: free, version: 1, currency: USD}
accounts:
  - {id: acme-inc, name: "Acme, Inc.", tenants: [acme]}
subscriptions:
  - {id: sub-acme, tenant: acme, plan: pro, version: 3, from: 2026-01-01}
"""

Apply = Callable[..., Any]


@pytest.fixture
def apply(books: Engine, tmp_path: Path) -> Apply:
    """Return a function that applies TEXT, with words replaced: apply("old", "new", ...)."""
    folder = tmp_path / "catalog"
    folder.mkdir()

    def run(*replaced: str, now: datetime = NOW) -> Any:
        text = TEXT
        for before, after in zip(replaced[::2], replaced[1::2], strict=True):
            assert before in text, before
            text = text.replace(before, after)
        (folder / "all.yaml").write_text(text)
        return apply_catalog(books, load_catalog(folder), now)

    return run


def test_the_first_apply_is_revision_one_and_the_same_again_is_nothing(apply: Apply, books: Engine) -> None:
    first = apply()
    assert first.revision == 1
    assert [(change.kind, change.key, change.what) for change in first.changes] == [
        ("account", "acme-inc", "added"),
        ("meter", "calls", "added"),
        ("meter", "tokens", "added"),
        ("plan", "free/1", "added"),
        ("plan", "pro/3", "added"),
        ("subscription", "sub-acme", "added"),
    ]
    again = apply(now=NOW + timedelta(days=1))
    assert (again.revision, again.changes) == (1, ())
    with books.connect() as connection:
        assert connection.execute(select(catalog_revisions)).all() == [(1, NOW, "6 added")]


def test_another_spelling_of_the_same_number_is_no_change(apply: Apply) -> None:
    apply()
    assert apply('"49.00"', "49", "0.0000020", "0.000002").changes == ()


def test_what_changed_is_said_field_by_field(apply: Apply, books: Engine) -> None:
    apply()
    second = apply(
        "unit: token,",
        "unit: subtoken,",
        "tenants: [acme]",
        "tenants: [acme, acme-eu]",
        "2026-01-01",
        "2026-02-01, to: 2026-09-01",
    )
    assert second.revision == 2
    assert [(change.kind, change.what, change.detail) for change in second.changes] == [
        ("account", "changed", "tenants[1] none -> acme-eu"),
        ("meter", "changed", "unit token -> subtoken"),
        ("subscription", "changed", "from 2026-01-01 -> 2026-02-01; to none -> 2026-09-01"),
    ]
    assert load_revision(books).subscriptions[0].ends_at == date(2026, 9, 1)
    assert load_revision(books, 1).subscriptions[0].ends_at is None


def test_a_plan_version_that_nobody_uses_may_change_and_go(apply: Apply) -> None:
    apply()
    changed = apply("name: free, version: 1, currency: USD", "name: free, version: 1, currency: EUR")
    assert [change.detail for change in changed.changes] == ["currency USD -> EUR"]
    assert [change.what for change in apply("  - {name: free, version: 1, currency: USD}\n", "").changes] == ["removed"]


@pytest.mark.parametrize(
    ("before", "after", "detail"),
    [
        ("0.0000020", "0.0000018", "prices[out].tiers[1].unit_price 0.0000020 -> 0.0000018"),
        ('"49.00"', '"59.00"', "prices[fee].amount 49.00 -> 59.00"),
        ('"49.00"', '"49.00", prorate: false', "prices[fee].prorate true -> false"),
        (
            "{id: fee, ",
            "{id: seat, ",
            "prices[fee] {amount:49.00,id:fee,prorate:true,type:flat,when:in_advance,",
        ),
        ("currency: USD\n", "currency: USD\n    description: x\n", "description none -> x"),
        (
            "currency: USD\n",
            "currency: USD\n    billing_period: {anchor: 2026-01-15}\n",
            "billing_period.anchor calendar -> 2026",
        ),
    ],
)
def test_a_plan_version_in_use_cannot_change(apply: Apply, books: Engine, before: str, after: str, detail: str) -> None:
    apply()
    with pytest.raises(PlanVersionChanged) as refused:
        apply(before, after)
    message = str(refused.value)
    assert message.startswith(
        "catalog/all.yaml:6: plan 'pro' version 3 is in use (subscription 'sub-acme') and cannot change: "
    )
    assert detail in message
    assert message.endswith("write the new ones as version 4, and move subscriptions to it")
    assert load_revision(books).revision == 1


def test_the_order_of_prices_belongs_to_the_terms(apply: Apply) -> None:
    lines = [line for line in TEXT.splitlines(keepends=True) if "{id: fee" in line or "{id: out" in line]
    apply()
    with pytest.raises(PlanVersionChanged, match="prices order fee, out -> out, fee"):
        apply("".join(lines), "".join(lines[::-1]))


def test_a_plan_version_stays_immutable_after_its_last_subscription_moved_on(apply: Apply) -> None:
    apply()
    apply("plan: pro, version: 3, from", "plan: free, version: 1, from")
    with pytest.raises(PlanVersionChanged, match="plan 'pro' version 3 is in use"):
        apply("plan: pro, version: 3, from", "plan: free, version: 1, from", '"49.00"', '"50.00"')


def test_the_next_version_is_above_every_version_there_is(apply: Apply) -> None:
    more = "  - {name: pro, version: 7, currency: USD}\naccounts:\n"
    apply("accounts:\n", more)
    with pytest.raises(PlanVersionChanged, match="write the new ones as version 8"):
        apply("accounts:\n", more, '"49.00"', '"50.00"')


def test_nothing_that_invoices_refer_to_can_be_removed(apply: Apply, books: Engine) -> None:
    apply()
    start = TEXT.index("plans:")
    with pytest.raises(PlanVersionChanged) as refused:
        apply(TEXT[start:], "")
    assert refused.value.changes == (
        "account 'acme-inc' cannot be removed, because invoices refer to it; put it back",
        "plan 'pro' version 3 is in use (subscription 'sub-acme') and cannot be removed, because invoices refer to it; "
        "put it back",
        "subscription 'sub-acme' cannot be removed, because its usage is still to be billed or was billed; "
        "put it back and end it with to: <the first day that no longer counts>",
    )
    assert len(load_revision(books).entries()) == 6


def test_a_meter_that_a_plan_prices_cannot_count_otherwise(apply: Apply) -> None:
    apply()
    with pytest.raises(
        PlanVersionChanged,
        match=r"'tokens' is used by plan 'pro' version 3 and cannot count otherwise \(aggregation sum -> max\); declare",
    ):
        apply("unit: token,", "unit: token, aggregation: max,")
    assert [change.detail for change in apply("aggregation: count", "aggregation: max").changes] == [
        "aggregation count -> max"
    ]


BALANCES = """
  - {id: group-inc, name: "Group, Inc.", tenants: []}
balances:
  - {id: prepaid, account: acme-inc, currency: USD, amount: "100", effective: 2026-01-01}
subscriptions:
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [("account: acme-inc, currency", "account: group-inc, currency"), ("USD, amount", "EUR, amount")],
)
def test_a_balance_stays_with_its_account_and_currency(apply: Apply, before: str, after: str) -> None:
    """Burns are booked by account: another account would find the balance full again."""
    apply("\nsubscriptions:\n", BALANCES)
    with pytest.raises(PlanVersionChanged, match=r"cannot be moved to account .* end it with expires"):
        apply("\nsubscriptions:\n", BALANCES.replace(before, after))
    ended = apply("\nsubscriptions:\n", BALANCES.replace("2026-01-01}", "2026-01-01, expires: 2026-11-01}"))
    assert [change.kind for change in ended.changes] == ["balance"]


def test_what_was_removed_may_come_back_and_every_revision_stays_readable(apply: Apply, books: Engine) -> None:
    free = "  - {name: free, version: 1, currency: USD}\n"
    apply()
    apply(free, "")
    assert apply().revision == 3
    names = [[plan.name for plan in load_revision(books, revision).plans] for revision in (1, 2, 3)]
    assert names == [["free", "pro"], ["pro"], ["free", "pro"]]
    with books.connect() as connection:
        table = catalog_entries.c
        spans = connection.execute(
            select(table.revision_from, table.revision_to).where(table.key == "free/1").order_by(table.revision_from)
        ).all()
    assert spans == [(1, 2), (3, None)]


def test_there_is_nothing_before_the_first_apply_and_nothing_after_the_last(apply: Apply, books: Engine) -> None:
    with pytest.raises(NotFound, match="no catalog was applied yet; write catalog"):
        load_revision(books)
    apply()
    for revision in (0, 2):
        with pytest.raises(NotFound, match=f"there is no catalog revision {revision}; the books hold 1 to 1"):
            load_revision(books, revision)


def test_two_that_apply_at_once_agree(books: Engine, books_url: str, tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "all.yaml").write_text(TEXT)
    catalog = load_catalog(tmp_path / "catalog")
    found: list[Any] = []

    def run() -> None:
        engine = open_books(books_url)
        found.append(apply_catalog(engine, catalog, NOW))
        engine.dispose()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [applied.revision for applied in found] == [1, 1]
    assert sorted(len(applied.changes) for applied in found) == [0, 6]


def test_a_definition_is_canonical_and_its_hash_looks_at_the_meaning() -> None:
    one = Subscription(id="s", tenant="t", plan="p", version=1, starts_at="2026-01-01T01:00:00+01:00")
    written = json.loads(definition_of(one))
    said = {"from": "2026-01-01T00:00:00Z", "id": "s", "plan": "p", "tenant": "t", "version": 1}
    assert written.items() >= said.items()
    # What was not said is empty, and the text has one form.
    assert not any(value for name, value in written.items() if name not in said)
    assert definition_of(one) == json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    plans = [
        Plan.model_validate(
            {"name": "p", "version": 1, "currency": "USD", "prices": [{"id": "f", "type": "flat", "amount": text}]}
        )
        for text in ("49.00", "49", "49.01")
    ]
    assert content_hash(plans[0]) == content_hash(plans[1]) != content_hash(plans[2])
    assert json.loads(definition_of(plans[0]))["prices"][0]["amount"] == "49.00"


# --- generated catalogs: what goes in comes out -------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=12).filter(
    lambda text: len(text.encode()) <= 100
)
words = st.sampled_from(["model", "direction", "region"])


def decimals(digits: int, places: int, low: int | None = None) -> st.SearchStrategy[str]:
    limit = 10 ** (digits + places) - 1
    return st.integers(-limit if low is None else low, limit).map(lambda n: f"{Decimal(n).scaleb(-places):f}")


def tiers() -> st.SearchStrategy[list[dict[str, str]]]:
    edges = st.lists(st.integers(0, 10**12), max_size=4, unique=True).map(sorted)
    return st.tuples(edges, st.lists(decimals(12, 12), min_size=5, max_size=5)).map(
        lambda pair: (
            [{"up_to": str(edge), "unit_price": price} for edge, price in zip(pair[0], pair[1], strict=False)]
            + [{"unit_price": pair[1][-1], "flat_amount": pair[1][0]}]
        )
    )


@st.composite
def prices(draw: st.DrawFn, price_id: str, meter: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["flat", "unit", "graduated", "volume", "package"]))
    price: dict[str, Any] = {"id": price_id, "type": kind}
    if kind == "flat":
        when = st.sampled_from(["in_advance", "in_arrears"])
        return price | {"amount": draw(decimals(12, 2)), "when": draw(when), "prorate": draw(st.booleans())}
    values = st.lists(names, min_size=1, max_size=3, unique=True)
    price |= {"meter": meter, "where": draw(st.dictionaries(words, values | names, max_size=2))}
    price |= {"by": draw(st.lists(words, max_size=2, unique=True))}
    if kind == "unit":
        return price | {"unit_price": draw(decimals(12, 12))}
    if kind == "package":
        return price | {"package_size": draw(decimals(20, 9, low=1)), "package_price": draw(decimals(12, 2))}
    return price | {"tiers": draw(tiers())}


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    meters = [
        Meter.model_validate(
            {"name": name, "aggregation": draw(st.sampled_from(["count", "sum", "max", "min", "last"]))}
        )
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    ]
    plan_names = draw(st.lists(names, max_size=3, unique=True))
    plans = [draw(_plans(name, meters[0].name)) for name in plan_names]
    tenants = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    accounts = [Account(id="payer", name=draw(names), tenants=tuple(tenants))]
    subscriptions = [
        Subscription(
            id=f"sub-{number}", tenant=tenants[0], plan=plan.name, version=plan.version, starts_at=draw(_times)
        )
        for number, plan in enumerate(plans)
    ]
    features = [Feature(name=name) for name in draw(st.lists(names, max_size=2, unique=True))]
    return Catalog.of([*meters, *plans, *accounts, *subscriptions, *features])


_times = st.dates(date(1971, 1, 1), date(2199, 12, 1)) | st.datetimes(
    datetime(1971, 1, 1),  # noqa: DTZ001
    datetime(2199, 12, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@st.composite
def _plans(draw: st.DrawFn, name: str, meter: str) -> Plan:
    ids = draw(st.lists(names, max_size=3, unique=True))
    anchor = draw(st.sampled_from(["calendar", "subscription"]) | st.dates(date(2000, 1, 1)))
    quota = draw(st.none() | decimals(20, 9, low=0))
    metered = {"feature": "f", "type": "metered", "meter": meter} | ({"quota": quota} if quota else {})
    return Plan.model_validate(
        {
            "name": name,
            "version": draw(st.integers(1, 99)),
            "currency": draw(st.sampled_from(["USD", "JPY", "BHD"])),
            "billing_period": {"every": draw(st.sampled_from(["day", "month", "year"])), "anchor": anchor},
            "prices": [draw(prices(price_id, meter)) for price_id in ids],
            "entitlements": draw(st.sampled_from([[], [metered], [{"feature": "f", "type": "static", "value": "5"}]])),
        }
    )


@pytest.fixture(scope="module")
def empty_books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of migrated, empty books to copy: migrating anew for every example would take most of the time."""
    path = tmp_path_factory.mktemp("empty") / "books.sqlite"
    engine = open_books(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=catalogs(), second=catalogs())
def test_any_catalog_comes_out_of_the_books_as_it_went_in(empty_books: Path, first: Catalog, second: Catalog) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(empty_books, f"{folder}/books.sqlite")
        engine = open_books(f"sqlite:///{folder}/books.sqlite")
        assert apply_catalog(engine, first, NOW).revision == 1
        assert apply_catalog(engine, first, NOW).changes == ()
        try:
            applied = apply_catalog(engine, second, NOW)
        except PlanVersionChanged:
            second, applied = first, apply_catalog(engine, first, NOW)
        assert load_revision(engine, 1) == first
        assert load_revision(engine) == second
        assert load_revision(engine).revision == applied.revision
        for entry in first.entries().values():
            assert type(entry).model_validate_json(definition_of(entry)) == entry
        engine.dispose()


def test_every_kind_of_entry_is_equal_to_itself_read_back() -> None:
    entry = Entitlement(feature="f", type="metered", meter="m", quota="5.5")
    assert Entitlement.model_validate_json(definition_of(entry)) == entry
    counted = Meter.model_validate({"name": "users", "aggregation": "unique_count", "attributes": ["user"]})
    assert counted.unique_attribute == "user"
    assert Meter.model_validate_json(definition_of(counted)) == counted


def test_one_tenant_is_read_without_the_customers_of_others(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        more = """
accounts:
  - {id: group, name: Group, tenants: [north, "so\\"uth"]}
subscriptions:
  - {id: sub-north, tenant: north, plan: pro, version: 1, from: "2026-01-01"}
  - {id: sub-south, tenant: "so\\"uth", plan: pro, version: 1, from: "2026-01-01"}
  - {id: sub-guest, tenant: acme, account: group, plan: pro, version: 1, from: "2025-01-01", to: "2026-01-01"}
balances:
  - {id: group-money, account: group, currency: USD, amount: "5", effective: "2026-01-01"}
"""
        (workspace.layout.catalog / "group.yaml").write_text(more, encoding="utf-8")
        workspace.apply()
        whole = workspace.catalog()
        found = load_last_revision_of(workspace.books, "north")
        assert (found.meters, found.plans, found.revision) == (whole.meters, whole.plans, whole.revision)
        assert [one.id for one in found.accounts] == ["group"]
        assert [one.id for one in found.subscriptions] == ["sub-guest", "sub-north", "sub-south"]
        assert [one.id for one in found.balances] == ["group-money"]
        assert [one.id for one in load_last_revision_of(workspace.books, "acme").subscriptions] == [
            "sub-acme", "sub-guest", "sub-north", "sub-south",
        ]  # fmt: skip
        assert load_last_revision_of(workspace.books, "nobody").subscriptions == ()


def test_books_of_an_earlier_release_learn_whom_their_entries_name(apply: Apply, books: Engine) -> None:
    apply()
    whole = load_revision(books)
    held = {"plan": "free", "version": 1, "from": "2026-01-01"}
    more = [
        Subscription.model_validate({"id": 'a "b"', "tenant": "acme", "account": "acme-inc", **held}),
        Balance.model_validate(
            {"id": "money", "account": "acme-inc", "currency": "USD", "amount": "5", "effective": "2026-01-01"}
        ),
        TenantGrant.model_validate(
            {"id": "gift", "tenant": "acme", "feature": "tokens", "amount": "5", "effective": "2026-01-01"}
        ),
    ]
    apply_catalog(books, Catalog.of([*whole.entries().values(), *more]), NOW)
    with books.begin() as connection:
        written = set(connection.execute(select(catalog_names)).all())
        # What this migration makes, and those after it.
        for table in ("catalog_names", "settlements", "receivables"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0012'"))
    migrate(books)
    with books.connect() as connection:
        assert set(connection.execute(select(catalog_names)).all()) == written
    assert {(row.part, row.name, row.kind, row.revision_from) for row in written} == {
        ("tenant", "acme", "account", 1), ("tenant", "acme", "subscription", 1), ("tenant", "acme", "subscription", 2),
        ("account", "acme-inc", "subscription", 2), ("account", "acme-inc", "balance", 2), ("tenant", "acme", "grant", 2),
    }  # fmt: skip


def test_a_plan_that_a_subscription_changes_to_is_in_use(apply: Apply) -> None:
    changes = ("from: 2026-01-01}", "from: 2026-01-01, changes: [{from: 2026-03-01, plan: free, version: 1}]}")
    apply(*changes)
    with pytest.raises(PlanVersionChanged, match="plan 'free' version 1 is in use"):
        apply(*changes, "name: free, version: 1, currency: USD", "name: free, version: 1, currency: EUR")
