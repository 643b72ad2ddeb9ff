"""Hours of contracts from the lake to the fake AWS Marketplace: net of what is included, late usage with a later hour."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_adapters.deliveries import list_deliveries
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake, serve
from metering.clock import FixedClock, from_us
from tallybook import Workspace
from tallybook.doctor_workspace import delivery
from tallybook.errors import BadSettings

ARN = "arn:aws:license-manager::294406891311:license:l-1"
BEGIN = datetime(2026, 3, 10, tzinfo=UTC)
CATALOG = """
meters: [{name: tokens}]
accounts: [{id: a, name: A, tenants: [acme]}]
contracts:
  - {id: c1, tenant: acme, licence: l-1, dimension: tok, meter: tokens, included: 100, from: 2026-03-10}
"""
SETTINGS = """
[delivery.aws_marketplace]
from = 2026-03-10
region = "us-east-1"
address = "{url}"
[delivery.aws_marketplace.licences.l-1]
product = "prod-1"
aws_account_id = "000000000001"
licence_arn = "{arn}"
"""


class Market:
    """A workspace with one contract, a clock, and the fake AWS on the loopback address."""

    def __init__(self, root: Path, url: str, clock: FixedClock, fake: MarketplaceFake) -> None:
        self.workspace = Workspace.init(root, clock=clock)
        (root / "catalog" / "all.yaml").write_text(CATALOG, encoding="utf-8")
        self.workspace.apply()
        (root / "tallybook.toml").write_text(SETTINGS.format(url=url, arn=ARN), encoding="utf-8")
        self.workspace = Workspace(root, clock=clock)
        self.clock, self.fake, self.files = clock, fake, 0

    def use(self, quantity: str, at: datetime) -> None:
        self.files += 1
        path = self.workspace.layout.root / f"usage-{self.files}.csv"
        path.write_text(f"tenant_id,meter,quantity,event_time\nacme,tokens,{quantity},{at:%Y-%m-%dT%H:%M:%SZ}\n")
        self.workspace.import_files([path])

    def go_to(self, at: datetime) -> None:
        self.clock.advance(at - from_us(self.clock.now_us()))

    def deliver(self) -> None:
        self.workspace.deliver(wait=lambda seconds: self.clock.advance(timedelta(seconds=seconds)))

    def billed(self) -> dict[int, Decimal]:
        """Return what AWS billed, by the hour since the beginning."""
        found = {}
        for (_, _, at), quantity in self.fake.billed.items():
            found[(datetime.fromisoformat(at) - BEGIN) // timedelta(hours=1)] = quantity
        return found


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Market]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    clock = FixedClock(BEGIN)
    fake = MarketplaceFake(clock)
    fake.add_licence(ARN, account="000000000001", product="prod-1", starts_at=BEGIN)
    with serve(fake) as url:
        made = Market(tmp_path, url, clock, fake)
        yield made
        made.workspace.close()


def hour(number: int, minute: int = 0) -> datetime:
    return BEGIN + timedelta(hours=number, minutes=minute)


def test_hours_are_told_net_once_they_are_closed_and_late_usage_comes_later(market: Market) -> None:
    market.use("90", hour(0, 10))
    market.use("30.25", hour(1, 10))
    market.use("5", hour(2, 50))
    market.go_to(hour(2, 14))
    market.deliver()
    # Hour 1 is over, but not for long enough to be complete.
    assert market.billed() == {}
    market.go_to(hour(2, 15))
    market.deliver()
    market.deliver()
    assert market.billed() == {1: Decimal("20.25")}
    market.use("7", hour(1, 20))
    market.go_to(hour(3, 20))
    market.deliver()
    assert market.billed() == {1: Decimal("20.25"), 2: Decimal(12)}


def split_by(market: Market, *tags: str) -> None:
    """Let the dimension be split, and the meter have the attributes for it."""
    settings = market.workspace.layout.settings_file
    lines = settings.read_text(encoding="utf-8")
    table = f"[delivery.aws_marketplace.allocations]\ntok = {{{', '.join(tags)}}}\n"
    settings.write_text(f"{lines}{table}", encoding="utf-8")
    market.workspace = Workspace(market.workspace.layout.root, clock=market.clock)


def use_by_team(market: Market, at: datetime, *rows: str) -> None:
    market.files += 1
    path = market.workspace.layout.root / f"usage-{market.files}.csv"
    lines = [f"acme,tokens,{row},{at:%Y-%m-%dT%H:%M:%SZ}" for row in rows]
    path.write_text("\n".join(["tenant_id,meter,quantity,team,model,event_time", *lines, ""]), encoding="utf-8")
    market.workspace.import_files([path])


def allocated(market: Market) -> list[list[tuple[str, dict[str, str]]]]:
    """Return what AWS was told of tags, by hour: quantities with their tags."""
    return [
        [
            (part["AllocatedUsageQuantityAsDecimal"], {tag["Key"]: tag["Value"] for tag in part.get("Tags", ())})
            for part in parts
        ]
        for _, parts in sorted(market.fake.allocated.items())
        if parts
    ]


def test_an_hour_is_split_over_tags_by_what_was_used_in_it(market: Market) -> None:
    split_by(market, 'team = "Team"', 'model = "Model"')
    use_by_team(market, hour(0, 10), "130,red,", "20,red,", "50,Zürich,m1", "7,,")
    use_by_team(market, hour(1, 10), "0.0000011,red,m1", "0.0000011,blue,m1", "0.0000011,,")
    market.go_to(hour(2, 20))
    market.deliver()
    # 207 less the 100 that are included, in the ratio of 150, 50 and 7; what is left goes by the largest remainder.
    first, second = allocated(market)
    assert first == [
        ("77.536232", {"Team": "red"}),
        ("25.845411", {"Team": "Z_rich-4251685e", "Model": "m1"}),
        ("3.618357", {}),
    ]
    assert [sum(Decimal(quantity) for quantity, _ in parts) for parts in (first, second)] == [
        Decimal(107),
        Decimal("0.000003"),
    ]
    assert list(market.billed().values()) == [Decimal(107), Decimal("0.000003")]
    assert [tags for _, tags in second] == [{"Team": "blue", "Model": "m1"}, {"Team": "red", "Model": "m1"}, {}]


def test_what_is_only_carried_into_an_hour_has_no_tags(market: Market) -> None:
    split_by(market, 'team = "Team"')
    use_by_team(market, hour(0, 10), "100,red,")
    use_by_team(market, hour(1, 10), "5,red,")
    market.go_to(hour(2, 20))
    market.deliver()
    use_by_team(market, hour(1, 20), "3,red,")
    market.go_to(hour(3, 20))
    market.deliver()
    assert market.billed() == {1: Decimal(5), 2: Decimal(3)}
    assert allocated(market) == [[("5", {"Team": "red"})]]


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (("team = 'Zürich'",), "AWS takes no tag 'Zürich'"),
        (("team = 1",), "AWS takes no tag 1"),
        (("team = 'T'", "model = 'T'"), "two attributes have the same tag"),
        (tuple(f"a{n} = 'T{n}'" for n in range(6)), "write 1 to 5 attributes"),
    ],
)
def test_tags_that_aws_does_not_take_are_refused_before_anything_is_told(
    market: Market, tags: tuple[str, ...], why: str
) -> None:
    split_by(market, *tags)
    with pytest.raises(BadSettings, match=why):
        market.deliver()


def test_a_meter_that_declares_other_attributes_is_not_split(market: Market) -> None:
    split_by(market, "team = 'Team'")
    market.use("150", hour(0, 10))
    market.go_to(hour(1, 20))
    catalog = CATALOG.replace("{name: tokens}", "{name: tokens, attributes: [model]}")
    (market.workspace.layout.catalog / "all.yaml").write_text(catalog, encoding="utf-8")
    market.workspace.apply()
    with pytest.raises(BadSettings, match="has no attribute team"):
        market.deliver()
    assert market.billed() == {}


def test_what_an_outage_let_expire_comes_with_the_first_hour_that_can_be_told(market: Market) -> None:
    market.use("150", hour(0, 10))
    market.use("1", hour(20, 10))
    market.go_to(hour(30, 20))
    market.deliver()
    assert sum(market.billed().values()) == 51
    assert min(market.billed()) > 6
    with market.workspace.books.connect() as connection:
        assert {row.state for row in list_deliveries(connection)} == {"delivered"}


def test_the_last_hour_of_a_contract_is_told_as_soon_as_the_contract_is_over(market: Market) -> None:
    catalog = CATALOG.replace("from: 2026-03-10", "from: 2026-03-10, to: 2026-03-10T05:10:00Z")
    (market.workspace.layout.catalog / "all.yaml").write_text(catalog, encoding="utf-8")
    market.workspace.apply()
    market.use("150", hour(5, 5))
    market.use("9", hour(5, 20))
    market.go_to(hour(5, 25))
    market.deliver()
    # The hour is not over, the contract is; what was used afterwards is not AWS's.
    assert market.billed() == {5: Decimal(50)}
    market.go_to(hour(8))
    market.deliver()
    assert market.billed() == {5: Decimal(50)}


def test_one_provider_s_key_is_no_reason_to_let_another_one_s_hours_expire(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TALLYBOOK_STRIPE_KEY", raising=False)
    # By name it comes first.
    text = market.workspace.layout.settings_file.read_text()
    market.workspace.layout.settings_file.write_text("[delivery.a_missing_one]\nfrom = 2026-03-10\n" + text)
    market.use("150", hour(0, 10))
    market.go_to(hour(2))
    opened = Workspace(market.workspace.layout.root, clock=market.clock)
    with opened as again, pytest.raises(AdapterMisconfigured, match="a_missing_one"):
        again.deliver(wait=lambda _seconds: None)
    assert sum(market.billed().values()) == 50


def test_a_revoked_right_says_what_waits_and_until_when(market: Market) -> None:
    market.use("150", hour(0, 10))
    market.fake.is_disabled = True
    market.go_to(hour(2))
    with pytest.raises(AdapterMisconfigured, match="1 deliveries wait, the first of them until 2026-03-11T00:00:00Z"):
        market.deliver()
    with Workspace(market.workspace.layout.root, clock=market.clock) as again:
        assert delivery(again).result == "ok"
        market.go_to(hour(22, 1))
        found = delivery(again)
    assert (found.result, "refused from 2026-03-11T00:00:00Z on" in found.what) == ("fail", True)


def test_licences_that_say_nothing_are_refused(market: Market) -> None:
    text = market.workspace.layout.settings_file.read_text().replace("aws_account_id", "account")
    market.workspace.layout.settings_file.write_text(text)
    with Workspace(market.workspace.layout.root) as again, pytest.raises(BadSettings, match="licences of"):
        again.deliver()
