"""Catalog files: what loads, and for every mistake its line and a sentence that says what to do."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.catalog import Mistake
from metering.meters import MeterRule
from rating.errors import CatalogInvalid
from rating.prices import FlatPrice, GraduatedPrice
from tallybook.catalog import json_schemas, load_catalog, meter_rules
from tallybook.catalog_entries import Source

GOOD = """\
meters:
  - {name: tokens, unit: token, aggregation: sum, attributes: [model, direction]}
  - {name: calls}
plans:
  - name: pro
    version: 3
    currency: USD
    billing_period: {every: month, anchor: calendar, timezone: UTC}
    prices:
      - {id: seat_fee, type: flat, amount: "49.00", when: in_advance}
      - id: tokens_out
        meter: tokens
        where: {direction: output}
        by: [model]
        type: graduated
        tiers: [{up_to: 1000000, unit_price: "0"}, {up_to: 50000000, unit_price: "0.0000020"}, {unit_price: "0.0000012"}]
    entitlements:
      - {feature: sso, type: boolean}
      - {feature: tokens, type: metered, meter: tokens, quota: 60000000, reset: billing_period, overage: allowed}
accounts:
  - {id: acme-inc, name: "Acme, Inc.", currency: USD, tenants: [acme, acme-eu]}
subscriptions:
  - {id: sub-acme, tenant: acme, plan: pro, version: 3, from: "2026-01-01"}
features:
  - {name: sso, description: Single sign-on}
  - {name: tokens}
"""


def write(folder: Path, **files: str | bytes) -> Path:
    catalog = folder / "catalog"
    catalog.mkdir(exist_ok=True)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (catalog / f"{name}.yaml").write_bytes(raw)
    return catalog


def mistakes(folder: Path, **files: str | bytes) -> list[str]:
    with pytest.raises(CatalogInvalid) as refused:
        load_catalog(write(folder, **files))
    assert str(refused.value).splitlines() == [str(mistake) for mistake in refused.value.mistakes]
    return [str(mistake) for mistake in refused.value.mistakes]


def changed(before: str, after: str) -> str:
    assert GOOD.count(before) == 1, before
    return GOOD.replace(before, after)


def test_the_catalog_of_the_design_loads_exactly(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path, all=GOOD))
    plan = catalog.plans[0]
    fee, tokens = plan.prices
    assert isinstance(fee, FlatPrice)
    assert (str(fee.amount), fee.when, fee.prorate, fee.meter) == ("49.00", "in_advance", True, None)
    assert isinstance(tokens, GraduatedPrice)
    assert (tokens.where, tokens.by) == ({"direction": ("output",)}, ("model",))
    assert [tier.up_to for tier in tokens.tiers] == [Decimal(1000000), Decimal(50000000), None]
    assert [str(tier.unit_price) for tier in tokens.tiers] == ["0", "0.0000020", "0.0000012"]
    assert plan.entitlements[1].quota == 60000000
    assert catalog.accounts[0].tenants == ("acme", "acme-eu")
    assert catalog.sources["plan", "pro/3"] == Source("catalog/all.yaml", 5, "plans[0]")
    assert [rule.name for rule in meter_rules(catalog)] == ["calls", "tokens"]
    assert meter_rules(catalog)[1] == MeterRule("tokens", "token", "sum", None, False)


def test_any_split_into_files_is_the_same_catalog(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    whole = load_catalog(write(tmp_path / "one", all=GOOD))
    parts = yaml.safe_load(re.sub(r"(: |\[)([0-9]+)(?=[,}\n\]])", r'\1"\2"', GOOD))
    (tmp_path / "many").mkdir()
    files = {name: json.dumps({name: listed[::-1]}) for name, listed in parts.items()}
    assert load_catalog(write(tmp_path / "many", **files)) == whole


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # keys and shapes
        ("unit: token,", "unti: token,", "2: meters[0].unti: unknown key 'unti'; did you mean 'unit'?"),
        ("plans:\n", "plan:\n", "4: plan: unknown key 'plan'; did you mean 'plans'?"),
        ('amount: "49.00", ', "", "10: plans[0].prices[0].amount: amount is missing; write amount: money per billing"),
        (
            "type: flat, ",
            "",
            "10: plans[0].prices[0]: type is missing; write type: capacity or dynamic or flat or graduated or",
        ),
        ("type: flat", "type: flatt", "10: plans[0].prices[0]: 'flatt' is no type of price; did you mean 'flat'?"),
        (
            "type: flat",
            "meter: calls, type: flat",
            "10: plans[0].prices[0].meter: unknown key 'meter'; write one of: id",
        ),
        (
            "aggregation: sum",
            "aggregation: sun",
            "2: meters[0].aggregation: 'sun' is not known here; did you mean 'sum'?",
        ),
        ("by: [model]", "by: model", "14: plans[0].prices[1].by: 'model' cannot stand here; this is a list"),
        ("name: calls", "name: [calls]", "3: meters[1].name: a meter name is text, not a list"),
        ("  - {name: calls}", "  - calls", "3: meters[1]: 'calls' cannot stand here; this is a mapping"),
        ("features:\n", "features: {}\nfeature_list:\n", "25: feature_list: unknown key 'feature_list'"),
        (
            "id: seat_fee, ",
            "id: seat_fee, id: fee, ",
            "10: the key 'id' stands here twice (first in line 10); remove one",
        ),
        ("name: pro\n", "name:\n", "5: plans[0].name: a plan name is text, not a null"),
        # numbers, booleans, words
        ('"49.00"', "1e-6", "10: plans[0].prices[0].amount: '1e-6' is not a plain decimal number; write digits"),
        ('"49.00"', "1_000", "10: plans[0].prices[0].amount: '1_000' is not a plain decimal number"),
        ('"49.00"', ".5", "10: plans[0].prices[0].amount: '.5' is not a plain decimal number"),
        ('"49.00"', "+5", "10: plans[0].prices[0].amount: '+5' is not a plain decimal number"),
        ('"49.00"', "NaN", "10: plans[0].prices[0].amount: 'NaN' is not a plain decimal number"),
        ('"49.00"', '"1,000.00"', "10: plans[0].prices[0].amount: '1,000.00' is not a plain decimal number"),
        ('"49.00"', "0x10", "10: plans[0].prices[0].amount: '0x10' is not a plain decimal number"),
        ('"49.00"', '"٤٩"', "10: plans[0].prices[0].amount: '٤٩' is not a plain decimal number"),
        ('"49.00"', "1000000000000", "10: plans[0].prices[0].amount: 1000000000000 has more than 12 digits before"),
        (
            '"0.0000020"',
            "0.0000000000001",
            "16: plans[0].prices[1].tiers[1].unit_price: 0.0000000000001 has more than 12",
        ),
        ("version: 3\n", "version: 3.0\n", "6: plans[0].version: '3.0' is not a whole number from 1 on"),
        ("version: 3\n", "version: 0\n", "6: plans[0].version: '0' is not a whole number from 1 on"),
        (
            "when: in_advance",
            "prorate: yes",
            "10: plans[0].prices[0].prorate: 'yes' is not a boolean; write true or false",
        ),
        ("currency: USD\n", "currency: usd\n", "7: plans[0].currency: 'usd' is not a currency of ISO 4217"),
        ("timezone: UTC", "timezone: Paris", "8: plans[0].billing_period.timezone: 'Paris' is not a time zone"),
        ("anchor: calendar", "anchor: 2026-02-30", "8: plans[0].billing_period.anchor: 2026-02-30 is not a day"),
        ('"2026-01-01"', "01.01.2026", "23: subscriptions[0].from: '01.01.2026' is not a time; write a date such as"),
        ('"2026-01-01"', '"2026-01-01T00:00"', "23: subscriptions[0].from: '2026-01-01T00:00' is not a time"),
        ('"2026-01-01"', '"9999-01-01"', "23: subscriptions[0].from: 9999-01-01 is not in 1970 to 2199"),
        ("{direction: output}", "{direction: ~}", "13: plans[0].prices[1].where.direction: a null is not an attribute"),
        (
            "{direction: output}",
            "{direction: [a, a]}",
            "13: plans[0].prices[1].where.direction: write at least one value",
        ),
        ("[model, direction]", "[model, model]", "2: meters[0].attributes[1]: 'model' stands here twice; remove one"),
        # tiers
        (
            "up_to: 50000000",
            "up_to: 1000000",
            "16: plans[0].prices[1].tiers[1].up_to: 1000000 does not rise above 1000000",
        ),
        ("up_to: 50000000", "up_to: 5", "so tiers[0] and tiers[1] overlap; sort the tiers"),
        ("up_to: 50000000, ", "", "16: plans[0].prices[1].tiers[1]: tiers[1] has no up_to and so takes all the rest"),
        (', {unit_price: "0.0000012"}', "", "tiers[1].up_to: the last tier ends at 50000000, and what is above it"),
        ("up_to: 1000000,", 'up_to: "-1",', "16: plans[0].prices[1].tiers[0].up_to: -1 is below 0; write 0 or more"),
        # one entry against another
        (
            "meter: tokens\n",
            "meter: tokenz\n",
            "12: plans[0].prices[1].meter: meter 'tokenz' is not declared under meters",
        ),
        (
            "{direction: output}",
            "{directon: output}",
            "13: plans[0].prices[1].where.directon: meter 'tokens' declares no",
        ),
        ("by: [model]", "by: [modle]", "14: plans[0].prices[1].by[0]: meter 'tokens' declares no attribute 'modle'"),
        ("id: tokens_out", "id: seat_fee", "11: plans[0].prices[1].id: 'seat_fee' is the id of two prices; rename one"),
        ("feature: sso", "feature: ssso", "18: plans[0].entitlements[0].feature: feature 'ssso' is not declared"),
        (
            "metered, meter: tokens",
            "metered, meter: x",
            "19: plans[0].entitlements[1].meter: meter 'x' is not declared",
        ),
        (
            "metered, meter: tokens, ",
            "metered, ",
            "19: plans[0].entitlements[1]: a metered entitlement needs its meter",
        ),
        (
            "type: boolean",
            "type: boolean, quota: 5",
            "18: plans[0].entitlements[0].quota: a boolean entitlement has no",
        ),
        ("type: boolean", "type: static", "18: plans[0].entitlements[0]: a static entitlement needs its value"),
        (
            "plan: pro, version: 3",
            "plan: prp, version: 3",
            "23: subscriptions[0].plan: plan 'prp' is not declared under",
        ),
        ("plan: pro, version: 3", "plan: pro, version: 4", "23: subscriptions[0].version: plan 'pro' has no version 4"),
        (
            "tenants: [acme, acme-eu]",
            "tenants: []",
            "23: subscriptions[0].tenant: tenant 'acme' is in no account, so nobody",
        ),
        (
            "tenant: acme,",
            "tenant: acme, account: x,",
            "23: subscriptions[0].account: account 'x' is not declared under",
        ),
        ("[acme, acme-eu]", "[acme, acme]", "21: accounts[0].tenants[1]: 'acme' stands here twice; remove one"),
        (
            'Inc.", currency: USD',
            'Inc.", currency: EUR',
            "23: subscriptions[0].plan: account 'acme-inc' pays in EUR, and",
        ),
        ("name: calls", "name: tokens", "3: meters[1].name: meter 'tokens' is already declared in catalog/all.yaml:2"),
        ('"2026-01-01"', '"2026-01-01", to: 2026-01-01', "23: subscriptions[0].to: 2026-01-01 is not after from"),
        (
            '"2026-01-01"',
            "2026-01-01, until: 2025-12-31T23:00:00-01:00",
            "subscriptions[0].until: 2026-01-01T00:00:00Z is",
        ),
        (
            "name: calls",
            "name: calls, aggregation: unique_count",
            "3: meters[1]: unique_count must know which attribute",
        ),
        ("name: calls", "name: calls, unique_attribute: a", "3: meters[1].unique_attribute: only unique_count counts"),
    ],
)
def test_each_mistake_has_its_line_and_says_what_to_do(tmp_path: Path, before: str, after: str, expected: str) -> None:
    found = mistakes(tmp_path, all=changed(before, after))
    assert any(expected in line for line in found), found
    assert all(line.startswith("catalog/all.yaml:") and re.search(r"[;,] ", line) for line in found), found


def test_a_mistake_does_not_make_what_refers_to_it_look_wrong(tmp_path: Path) -> None:
    for before, after in (
        ("version: 3\n", "version: three\n"),
        ("aggregation: sum", "aggregation: sun"),
        ("id: acme-inc, ", ""),
        ("name: sso, ", "name: sso, x: y, "),
        ("meters:\n", "metres:\n"),
    ):
        assert len(mistakes(tmp_path, all=changed(before, after))) == 1, after


def test_python_names_of_keys_are_no_keys_of_the_files(tmp_path: Path) -> None:
    found = mistakes(tmp_path, all=changed('from: "2026-01-01"', 'starts_at: "2026-01-01"'))
    assert [line.split(": ", 2)[1] for line in found] == ["subscriptions[0].from", "subscriptions[0].starts_at"]


def test_all_mistakes_of_all_files_are_found_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        meters="meters:\n  - {name: calls, unti: x}\n  - {nam: tokens}\n",
        plans="plans:\n  - name: a\n    version: 0\n    currency: XXX\n",
        broken="plans:\n  - [\n",
        binary=b"\x00\x01\xff\xfe",
    )
    assert [line.split(": ", 1)[0] for line in found] == [
        "catalog/binary.yaml:1",
        "catalog/broken.yaml:3",
        "catalog/meters.yaml:2",
        "catalog/meters.yaml:3",
        "catalog/meters.yaml:3",
        "catalog/plans.yaml:3",
        "catalog/plans.yaml:4",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "1: this is not UTF-8 text; save the file as YAML text in UTF-8"),
        (b"meters:\n  - {name: a\x00}\n", "2: a character is not allowed in YAML"),
        ("meters:\n  - {name: a\n", "is not YAML"),
        ("meters:\n\t- name: a\n", "2: this is not YAML"),
        ("- name: a\n", "1: the file must be a mapping of lists; write meters:, features:, plans:, accounts:, sub"),
        ("just words\n", "1: the file must be a mapping of lists"),
        ("meters: {name: a}\n", "1: meters: meters is a list; begin each entry with a dash"),
        ("meters: 5\n", "1: meters: meters is a list"),
        ("meters: []\n---\nplans: []\n", "2: a second document begins here (---); write it as a file of its own"),
        ("meters: *missing\n", "1: *missing refers to an anchor that does not exist before it"),
        ("meters: &a\n  - *a\n", "2: *a refers to an anchor that does not exist before it"),
        ("meters:\n  - !!python/object:os.system {name: a}\n", "2: the tag tag:yaml.org,2002:python/object:os.system"),
        ("meters:\n  - !secret {name: a}\n", "2: the tag !secret means nothing here; remove it"),
        ("meters:\n  - {[a]: b, name: c}\n", "2: a key must be a word; write key: value"),
        ("meters: []\nmeters: []\n", "2: the key 'meters' stands here twice (first in line 1); remove one"),
        ("meters: " + "[" * 100_000, "1: lists and mappings are nested deeper than 32; check the brackets"),
    ],
)
def test_unreadable_files_are_mistakes_too(tmp_path: Path, content: str | bytes, expected: str) -> None:
    found = mistakes(tmp_path, bad=content)
    assert expected in "\n".join(found)


def test_aliases_are_written_out_but_cannot_explode(tmp_path: Path) -> None:
    anchored = GOOD.replace("{every: month, anchor: calendar, timezone: UTC}", "&monthly {every: month}")
    anchored += "plans_: 0\n"
    second = "  - {name: lite, version: 1, currency: USD, billing_period: *monthly}\naccounts:\n"
    text = anchored.replace("plans_: 0\n", "").replace("accounts:\n", second)
    assert [plan.billing_period.every for plan in load_catalog(write(tmp_path, all=text)).plans] == ["month", "month"]
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    found = mistakes(tmp_path, all="\n".join(layers))
    assert "aliases unfold into too much; write the values out" in found[0]


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    found = mistakes(tmp_path, big=b"#" * (16 * 1024 * 1024 + 1))
    assert found == ["catalog/big.yaml: the file has 16777217 bytes, more than 16777216; split it into several files"]


def test_a_folder_without_catalog_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=r"catalog: there is no such folder; run `tallybook init`"):
        load_catalog(tmp_path / "catalog")
    write(tmp_path)
    with pytest.raises(CatalogInvalid, match=r"there is no \*.yaml file in the folder; write meters"):
        load_catalog(tmp_path / "catalog")
    (tmp_path / "catalog" / "plans.yml").write_text("plans: []")
    with pytest.raises(CatalogInvalid, match=r"plans.yml: only \*.yaml is read; rename it to plans.yaml"):
        load_catalog(tmp_path / "catalog")


def test_empty_lists_empty_files_comments_and_hidden_files_are_fine(tmp_path: Path) -> None:
    folder = write(
        tmp_path, empty="", comment="# nothing yet\n", null="meters:\nplans: ~\n", bom=b"\xef\xbb\xbfmeters: []"
    )
    (folder / ".#plans.yaml").write_text("half written {")
    assert load_catalog(folder).entries() == {}


def test_words_stay_words(tmp_path: Path) -> None:
    """Norway, octal numbers, sexagesimal times and dates are text where text is meant."""
    text = """
meters: [{name: no, attributes: [country]}, {name: 010}, {name: "null"}]
plans:
  - name: 1:30
    version: 1
    currency: USD
    prices: [{id: on, type: unit, meter: no, unit_price: 1, where: {country: [no, "null"]}}]
"""
    catalog = load_catalog(write(tmp_path, all=text))
    assert [meter.name for meter in catalog.meters] == ["010", "no", "null"]
    assert catalog.plans[0].name == "1:30"
    assert catalog.plans[0].prices[0].where == {"country": ("no", "null")}


OVERLAP = "  - {id: sub-2, tenant: acme, plan: pro, version: 3, from: 2026-06-01}\nfeatures:\n"


def test_a_tenant_cannot_be_on_one_plan_twice_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, all=GOOD.replace("features:\n", OVERLAP))
    assert found == [
        "catalog/all.yaml:24: subscriptions[1].from: tenant 'acme' is already on plan 'pro' by 'sub-acme' at this time; "
        "end that one with to: 2026-06-01, or start later"
    ]
    ended = GOOD.replace('from: "2026-01-01"', "from: 2026-01-01, to: 2026-06-01").replace("features:\n", OVERLAP)
    assert len(load_catalog(write(tmp_path, all=ended)).subscriptions) == 2


def test_a_second_subscription_inside_a_longer_one_overlaps_even_behind_a_short_one(tmp_path: Path) -> None:
    inside = "".join(
        f"  - {{id: sub-{n}, tenant: acme, plan: pro, version: 3, from: 2026-0{n}-01, to: 2026-0{n}-15}}\n"
        for n in (2, 3)
    )
    assert len(mistakes(tmp_path, all=GOOD.replace("features:\n", inside + "features:\n"))) == 2


def test_a_tenant_has_one_payer(tmp_path: Path) -> None:
    second = "  - {id: other, name: Other, tenants: [zoe, acme]}\nsubscriptions:\n"
    assert mistakes(tmp_path, all=GOOD.replace("subscriptions:\n", second)) == [
        "catalog/all.yaml:22: accounts[1].tenants[1]: tenant 'acme' already belongs to account 'acme-inc'; "
        "one account pays for a tenant, remove one"
    ]


def test_the_schemas_for_editors_know_every_key_of_a_good_file() -> None:
    schema = json_schemas()
    refer = re.compile(r"#/\$defs/(\w+)")
    assert set(refer.findall(json.dumps(schema))) <= set(schema["$defs"])
    assert set(schema["properties"]) == {
        "meters",
        "features",
        "plans",
        "accounts",
        "subscriptions",
        "balances",
        "grants",
        "ledger_accounts",
        "sellers",
        "contracts",
        "alerts",
    }
    _check_keys(schema, schema, yaml.safe_load(GOOD), "")
    assert {"from", "to", "until"} <= set(schema["$defs"]["Subscription"]["properties"])


def _check_keys(root: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> None:
    from tallybook.catalog_sentences import schema_at

    schema = dict(schema_at({**schema, "$defs": root["$defs"]}, ()))
    tags = schema.get("discriminator", {}).get("mapping", {})
    if tags:
        schema = root["$defs"][tags[value["type"]].rsplit("/", 1)[1]]
    if isinstance(value, list):
        for item in value:
            _check_keys(root, schema["items"], item, f"{path}[]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            assert key in schema["properties"], f"{path}.{key}"
            _check_keys(root, schema["properties"][key], item, f"{path}.{key}")


ODD = [
    "~",
    "[]",
    "{}",
    "[[]]",
    "{a: [b]}",
    '""',
    "-1",
    "1e400",
    "'\\x00'",
    "true",
    "2026-13-01",
    "&x y",
    "[~]",
    "{~: 1}",
    "\U0001f600",
]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_file_it_loads_or_says_what_is_wrong(data: st.DataObject) -> None:
    """One or two values of a good file become something odd: no error but CatalogInvalid, and every line in the file."""
    places = [match.span(1) for match in re.finditer(r"(?::|\[|,|-) ?([\w.\"-]+|\{[^{}]*\})(?=[,}\]\n])", GOOD)]
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2, unique=True))
    text = GOOD
    for start, end in sorted(chosen, reverse=True):
        text = text[:start] + data.draw(st.sampled_from(ODD)) + text[end:]
    with tempfile.TemporaryDirectory() as folder:
        found = _mistakes_or_none(write(Path(folder), all=text))
    assert all(1 <= mistake.line <= text.count("\n") + 1 for mistake in found), found
    assert not any("Input should" in mistake.message for mistake in found), found


def _mistakes_or_none(folder: Path) -> tuple[Mistake, ...]:
    try:
        load_catalog(folder)
    except CatalogInvalid as refused:
        return refused.mistakes
    return ()


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=200) | st.text("[]{}:,-&*! \n\tab'\"#|>%@", max_size=60).map(str.encode))
def test_any_bytes_are_a_catalog_or_a_mistake(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(CatalogInvalid):
        load_catalog(write(Path(folder), all=raw))


def test_a_discount_names_prices_and_plans_that_there_are(tmp_path: Path) -> None:
    coupon = 'discounts: [{id: d, percent: "10", prices: [seat_fees]}]'
    account = 'tenants: [acme, acme-eu], discounts: [{id: e, percent: "10", plans: [free]}]'
    text = GOOD.replace('from: "2026-01-01"', f'from: "2026-01-01", {coupon}')
    found = mistakes(tmp_path, all=text.replace("tenants: [acme, acme-eu]", account))
    assert len(found) == 2
    assert "the discount 'e' is for plan 'free', which is in no plan it can lower; write one of: pro" in found[0]
    assert (
        "the discount 'd' is for price 'seat_fees', which is in no plan it can lower; did you mean 'seat_fee'?"
        in found[1]
    )


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("changes: [{from: 2026-02-01, version: 9}]", "plan 'pro' has no version 9 (there is 3)"),
        ("changes: [{from: 2026-02-01, plan: prp, version: 3}]", "plan 'prp' is not declared under plans"),
        ("quantities: {seats: 5}", "no price of its plans is per unit of 'seats'"),
        ("overrides: {seat_fees: {amount: 40}}", "its plans have no price 'seat_fees'; did you mean 'seat_fee'?"),
        ("overrides: {seat_fee: {unit_price: 40}}", "plan 'pro' version 3 would not be valid"),
        ("overrides: {seat_fee: {amount: ten}}", "'ten' is not a plain decimal number"),
    ],
)
def test_what_a_subscription_says_of_its_time_fits_its_plans(tmp_path: Path, keys: str, why: str) -> None:
    found = mistakes(tmp_path, all=GOOD.replace('from: "2026-01-01"', f'from: "2026-01-01", {keys}'))
    assert len(found) == 1
    assert why in found[0]
    assert "subscriptions[0]." in found[0]


def test_a_price_per_unit_needs_to_know_how_many(tmp_path: Path) -> None:
    found = mistakes(tmp_path, all=GOOD.replace("when: in_advance", "per_unit_of: seats"))
    assert len(found) == 1
    assert "nothing says how many; write quantities: {seats: <number>}" in found[0]


def test_a_tenant_is_not_on_one_plan_twice_through_a_change(tmp_path: Path) -> None:
    second = """
plans:
  - {name: other, version: 1, currency: USD}
subscriptions:
  - {id: z, tenant: acme, plan: other, version: 1, from: "2026-01-01", changes: [{from: "2026-02-01", plan: pro, version: 3}]}
"""
    found = mistakes(tmp_path, all=GOOD, more=second)
    assert len(found) == 1
    assert "tenant 'acme' is already on plan 'pro' by 'sub-acme' at this time" in found[0]
