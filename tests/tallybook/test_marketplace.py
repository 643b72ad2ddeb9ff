"""AWS Marketplace over a workspace: from a registration token to contracts, final hours, and nothing billed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billing_adapters.aws_marketplace_adapter import Adjustment
from billing_adapters.aws_marketplace_adapter.buyers import note_start
from billing_adapters.deliveries import list_deliveries
from billing_adapters.errors import ProviderAway, ProviderListRefused, QuestionRefused, RegistrationRefused
from billing_adapters.provider_list import QUANTITIES, read_table
from billing_adapters.testing.aws_feeds import write_usage_feed
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake, serve
from billing_adapters.testing.sqs_queue import envelope_of_event, envelope_of_sns
from metering.clock import EPOCH, FixedClock, from_us
from rating.errors import CatalogInvalid
from tallybook import Workspace
from tallybook.carried_hours import carried_hours
from tallybook.cli import app
from tallybook.errors import BadSettings
from tallybook.marketplace import (
    adjust,
    assign_buyer,
    buyers_and_states,
    import_entitlements,
    listen_once,
    register_buyer,
)
from tallybook.marketplace_contracts import Bought, merged
from tallybook.runner import Runner

BEGIN = datetime(2026, 3, 10, tzinfo=UTC)
ARN = "arn:aws:license-manager::294406891311:license:l-1"
WHO = {"LicenseArn": ARN, "CustomerAWSAccountId": "000000000001"}
CATALOG = """
meters: [{name: tokens, negative_allowed: true}, {name: seats}]
accounts: [{id: a, name: A, tenants: [acme]}, {id: b, name: B, tenants: [b1, b2]}]
"""
SETTINGS = """
[delivery.aws_marketplace]
from = 2026-03-10
region = "us-east-1"
address = "URL"
queue = "URL/queue"
[delivery.aws_marketplace.dimensions]
tok = "tokens"
[delivery.aws_adjustments]
from = 2026-03-10
address = "URL"
look_again_s = 60
"""


def hour(number: int, minute: int = 0) -> datetime:
    return BEGIN + timedelta(hours=number, minutes=minute)


class Market:
    """A workspace without any contract, a clock, and the fake AWS on the loopback address."""

    def __init__(self, root: Path, url: str, clock: FixedClock, fake: MarketplaceFake) -> None:
        Workspace.init(root, clock=clock).close()
        (root / "catalog" / "all.yaml").write_text(CATALOG, encoding="utf-8")
        (root / "tallybook.toml").write_text(SETTINGS.replace("URL", url), encoding="utf-8")
        self.workspace = Workspace(root, clock=clock)
        self.workspace.apply()
        self.clock, self.fake, self.files = clock, fake, 0

    def use(self, quantity: str, at: datetime, tenant: str = "acme") -> None:
        self.files += 1
        path = self.workspace.layout.root / f"usage-{self.files}.csv"
        path.write_text(f"tenant_id,meter,quantity,event_time\n{tenant},tokens,{quantity},{at:%Y-%m-%dT%H:%M:%SZ}\n")
        self.workspace.import_files([path])

    def go_to(self, at: datetime) -> None:
        self.clock.advance(at - from_us(self.clock.now_us()))

    def deliver(self) -> None:
        self.workspace.deliver(wait=lambda seconds: self.clock.advance(timedelta(seconds=seconds)))

    def billed(self) -> dict[int, Decimal]:
        return {
            (datetime.fromisoformat(at) - BEGIN) // timedelta(hours=1): quantity
            for (_, _, at), quantity in self.fake.billed.items()
        }

    def contracts(self) -> list[tuple[str, Decimal, datetime, datetime | None]]:
        found = [(one.dimension, one.contract) for one in self.workspace.catalog_or_empty().contracts]
        return [(name, one.included, one.starts_at, one.ends_at) for name, one in found]

    def register(self, token: str, account: str | None = "a") -> None:
        register_buyer(self.workspace, token, account)


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Market]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    clock = FixedClock(BEGIN)
    fake = MarketplaceFake(clock)
    fake.add_licence(ARN, account="000000000001", product="code-1", starts_at=BEGIN)
    fake.agreements.add("agmt-1", starts_at=BEGIN)
    fake.buyers.give_token("t-1", product="code-1", agreement_id="agmt-1", **WHO)
    with serve(fake) as url:
        made = Market(tmp_path, url, clock, fake)
        yield made
        made.workspace.close()


def event(kind: str, at: datetime, request: str) -> str:
    detail = {
        "requestId": request,
        "license": {"arn": ARN},
        "product": {"code": "code-1"},
        "agreement": {"id": "agmt-1"},
    }
    return envelope_of_event(f"{kind} - Proposer", detail, request, at)


def test_what_a_buyer_bought_becomes_contracts_and_changes_with_it(market: Market) -> None:
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, hour(48), **WHO)
    market.fake.buyers.entitle("code-1", "sso", {"BooleanValue": True}, hour(48), **WHO)
    market.register("t-1")
    done = import_entitlements(market.workspace)
    assert (done.contracts, done.left_out) == (1, ())
    assert market.contracts() == [("tok", Decimal(100), BEGIN, hour(48))]
    assert import_entitlements(market.workspace).changed == ()
    # More was bought within the term; a notice says that something changed, twice, with an older one after it.
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 150}, hour(48), **WHO)
    message = {"action": "entitlement-updated", "customer-identifier": "c", "product-code": "code-1"}
    for identity, at in (("m-2", hour(1)), ("m-2", hour(1)), ("m-1", hour(0))):
        market.fake.queue.send(envelope_of_sns(message, identity, at))
    market.go_to(hour(2))
    taken, imported = listen_once(market.workspace)
    assert (taken.new, taken.known) == (2, 1)
    assert imported is not None
    assert market.contracts() == [("tok", Decimal(150), BEGIN, hour(48))]
    # Nothing asks for it any more.
    assert listen_once(market.workspace)[1] is None
    # The same licence, prolonged after its end: another term. Gone from AWS: over now.
    market.go_to(hour(49))
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 7}, hour(96), **WHO)
    import_entitlements(market.workspace)
    market.go_to(hour(60))
    market.fake.buyers.entitlements.clear()
    import_entitlements(market.workspace)
    import_entitlements(market.workspace)
    assert market.contracts() == [
        ("tok", Decimal(150), BEGIN, hour(48)),
        ("tok", Decimal(7), hour(48), hour(60)),
    ]


def test_what_cannot_be_imported_is_told_and_all_else_is(market: Market) -> None:
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    market.fake.buyers.entitle("code-1", "unheard", {"IntegerValue": 1}, None, **WHO)
    other = {"LicenseArn": ARN.replace("l-1", "l-2"), "CustomerAWSAccountId": "000000000002"}
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 1}, None, **other)
    third = {"LicenseArn": ARN.replace("l-1", "l-3"), "CustomerAWSAccountId": "000000000003"}
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 1}, None, **third)
    market.fake.buyers.give_token("t-3", product="code-1", **third)
    market.register("t-1")
    market.register("t-3", None)
    left_out = import_entitlements(market.workspace).left_out
    assert [sentence.split(":")[0] for sentence in left_out] == [
        "dimension unheard has no meter",
        "licence l-2 did not register",
        "licence l-3 belongs to no tenant yet",
    ]
    with pytest.raises(RegistrationRefused, match="no billing account"):
        assign_buyer(market.workspace, "l-3", "nobody")
    with pytest.raises(RegistrationRefused, match="does not list tenant"):
        assign_buyer(market.workspace, "l-3", "b", "acme")
    assign_buyer(market.workspace, "l-3", "b", "b2")
    left_out = import_entitlements(market.workspace).left_out
    assert "the start of licence l-3 is not known; no notice and no agreement says it" in left_out
    assert [one[0] for one in market.contracts()] == ["tok"]


def test_a_file_that_the_catalog_refuses_is_put_back(market: Market) -> None:
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    market.register("t-1")
    (market.workspace.layout.catalog / "other.yaml").write_text("meters: [{name: tokens, aggregation: nonsense}]\n")
    with pytest.raises(CatalogInvalid):
        import_entitlements(market.workspace)
    assert not (market.workspace.layout.catalog / "aws-marketplace.yaml").exists()
    assert market.contracts() == []


def test_a_file_that_was_written_and_not_applied_is_applied_by_the_next_import(market: Market) -> None:
    """As after a kill between the two: a notice that was handled without a contract would leave hours unbilled."""
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    market.register("t-1")
    import_entitlements(market.workspace, applies=False)
    assert market.contracts() == []
    message = {"action": "entitlement-updated", "customer-identifier": "c", "product-code": "code-1"}
    market.fake.queue.send(envelope_of_sns(message, "m-1", hour(0)))
    done = listen_once(market.workspace)[1]
    assert done is not None
    assert (done.changed, done.revision) == ((), market.workspace.catalog().revision)
    assert market.contracts() == [("tok", Decimal(100), BEGIN, None)]
    # What is applied already is not applied again.
    assert import_entitlements(market.workspace).revision is None


def test_a_licence_that_ends_is_metered_to_its_last_minute_and_then_no_more(market: Market) -> None:
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    market.register("t-1")
    import_entitlements(market.workspace)
    market.use("150", hour(0, 10))
    market.use("30", hour(5, 10))
    market.use("4", hour(5, 40))
    market.fake.add_licence(ARN, account="000000000001", product="code-1", starts_at=BEGIN, ends_at=hour(5, 30))
    market.go_to(hour(5, 46))
    # Out of order, and twice.
    for request, kind, at in (("r2", "License Deprovisioned", hour(5, 30)), ("r1", "License Updated", BEGIN)) * 2:
        market.fake.queue.send(event(kind, at, request))
    market.fake.buyers.entitlements.clear()
    listen_once(market.workspace)
    ((_, state),) = buyers_and_states(market.workspace)
    assert state is not None
    assert (state.state, state.final_until) == ("ending", hour(6, 30))
    market.deliver()
    # The open hour is told now, without what was used after the end.
    assert market.billed() == {0: Decimal(50), 5: Decimal(30)}
    market.use("9", hour(5, 20))
    market.go_to(hour(9))
    market.deliver()
    assert market.billed() == {0: Decimal(50), 5: Decimal(30)}


def test_topics_that_are_named_are_believed_by_their_signature_alone(market: Market) -> None:
    message = {"action": "subscribe-success", "customer-identifier": "cust-9", "product-code": "code-2"}
    unsigned = envelope_of_sns(message, "m-1", BEGIN)
    topic = json.loads(unsigned)["TopicArn"]
    settings = market.workspace.layout.settings_file
    text = settings.read_text(encoding="utf-8")
    for named, why in ((topic, "not at https://sns.REGION"), (f"{topic}-other", "which the settings do not name")):
        settings.write_text(text.replace("queue =", f'topics = ["{named}"]\nqueue ='), encoding="utf-8")
        market.fake.queue.send(unsigned)
        with Workspace(market.workspace.layout.root, clock=market.clock) as workspace:
            done, _ = listen_once(workspace)
        assert (done.new, market.fake.queue.held) == (0, 1)
        assert why in done.refused[0]
        market.clock.advance(timedelta(minutes=1))
        market.fake.queue._messages.clear()
    # Without topics, the policy of the queue speaks for what is in it.
    market.fake.queue.send(unsigned)
    assert listen_once(market.workspace)[0].new == 1


def test_the_scheduler_listens(market: Market) -> None:
    market.register("t-1")
    market.fake.queue.send(event("License Deprovisioned", hour(5, 30), "r2"))
    market.go_to(hour(8))
    (run,) = Runner(market.workspace, only=["listen"]).run_due()
    assert (run.place, run.outcome, run.detail) == ("aws_marketplace", "done", "1 new notices")


def test_an_ending_licence_does_not_wait_for_the_scheduler_s_hour(market: Market) -> None:
    """Hours go one by one, each when it is over; AWS takes the last records of a licence for about an hour only."""
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 0}, None, **WHO)
    market.register("t-1")
    import_entitlements(market.workspace)
    market.use("5", hour(3, 10))
    market.use("7", hour(5, 2))
    market.fake.queue.send(event("License Deprovisioned", hour(5, 5), "r2"))
    market.go_to(hour(5, 40))
    market.workspace.deliver(usage_until=EPOCH, wait=lambda _seconds: None)
    assert market.billed() == {}
    listen_once(market.workspace)
    market.workspace.deliver(usage_until=EPOCH, wait=lambda _seconds: None)
    assert market.billed() == {3: Decimal(5), 5: Decimal(7)}


def test_what_a_licence_s_last_hour_missed_is_parked_as_lost(market: Market) -> None:
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    market.register("t-1")
    import_entitlements(market.workspace)
    market.use("150", hour(5, 10))
    market.fake.queue.send(event("License Deprovisioned", hour(5, 30), "r2"))
    market.go_to(hour(8))
    listen_once(market.workspace)
    market.deliver()
    market.deliver()
    assert market.billed() == {}
    with market.workspace.books.connect() as connection:
        (row,) = list_deliveries(connection)
    assert (row.state, row.outcome, row.money, row.quantity) == ("parked", "EXPIRED", "LOST", Decimal(50))


def test_the_same_use_is_never_told_under_two_licences(market: Market) -> None:
    """Both styles of identity at once would be billed twice: the later one is parked, with that reason."""
    market.fake.add_customer("code-1", "cust-1", starts_at=BEGIN)
    contracts = """
contracts:
  - {id: new, tenant: acme, licence: l-1, dimension: tok, meter: tokens, included: 0, from: 2026-03-10}
  - {id: old, tenant: acme, licence: "code-1:cust-1", dimension: tok, meter: tokens, included: 0, from: 2026-03-10}
"""
    (market.workspace.layout.catalog / "more.yaml").write_text(contracts)
    market.workspace.apply()
    market.fake.buyers.give_token(
        "t-2", product="code-1", CustomerIdentifier="cust-1", CustomerAWSAccountId="000000000001"
    )
    market.register("t-1")
    market.register("t-2")
    market.use("5", hour(0, 10))
    market.go_to(hour(2))
    market.deliver()
    assert list(market.fake.billed.values()) == [Decimal(5)]
    with market.workspace.books.connect() as connection:
        found = {row.subject: (row.state, row.reason) for row in list_deliveries(connection)}
    assert found["new"] == ("delivered", "")
    assert found["old"][0] == "parked"
    assert "AWS would bill it twice" in found["old"][1]


def test_the_command_line_reads_the_token_from_stdin(market: Market) -> None:
    root = ["-w", str(market.workspace.layout.root), "marketplace"]
    shown = CliRunner().invoke(app, [*root, "register", "--account", "a", "--json"], input="t-1\n")
    assert json.loads(shown.stdout)["buyers"][0]["licence"] == "l-1"
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    assert CliRunner().invoke(app, [*root, "import"]).exit_code == 0
    market.fake.queue.send(event("License Updated", BEGIN, "r1"))
    listened = CliRunner().invoke(app, [*root, "listen", "--json"])
    assert (listened.exit_code, json.loads(listened.stdout)["new"]) == (0, 1)
    buyers = CliRunner().invoke(app, [*root, "buyers", "--json"])
    assert json.loads(buyers.stdout)["buyers"][0]["state"]["state"] == "active"
    assert "nobody" not in CliRunner().invoke(app, [*root, "buyers"]).stdout
    refused = CliRunner().invoke(app, [*root, "assign", "l-1", "--account", "b"])
    assert isinstance(refused.exception, RegistrationRefused)


def test_merging_is_the_same_however_often_and_forgets_no_term() -> None:
    def bought(included: int, ends: datetime | None) -> Bought:
        return Bought("l-1", "tok", "code-1", "acme", "tokens", Decimal(included), BEGIN, ends)

    first = merged([], [bought(5, hour(10))], set(), hour(1))
    assert merged(first, [bought(5, hour(10))], set(), hour(2)) == first
    # Expired, and AWS shows it still: no new term.
    assert merged(first, [bought(5, hour(10))], set(), hour(11)) == first
    second = merged(first, [bought(6, None)], set(), hour(11))
    assert [(one["included"], one["from"], one.get("to")) for one in second] == [
        ("5", "2026-03-10T00:00:00Z", "2026-03-10T10:00:00Z"),
        ("6", "2026-03-10T10:00:00Z", None),
    ]
    gone = merged(second, [], {("l-1", "tok")}, hour(12))
    assert gone[1]["to"] == "2026-03-10T12:00:00Z"
    assert merged(gone, [], {("l-1", "tok")}, hour(13)) == gone
    # Not asked about: nothing ends.
    assert merged(second, [], set(), hour(12)) == second


def test_an_adjustment_is_asked_for_once_and_what_aws_reports_is_read(market: Market, tmp_path: Path) -> None:
    root = ["-w", str(market.workspace.layout.root), "marketplace"]
    market.fake.agreements.invoice("agmt-1", "inv-1", "20.00")
    market.register("t-1")
    command = [*root, "adjust", "--agreement", "agmt-1", "--invoice", "inv-1", "--currency", "USD", "--why", "twice"]
    wanted = Adjustment("12.5", "a", "agmt-1", "inv-1", Decimal("12.50"), "USD", description="twice")
    assert [adjust(market.workspace, wanted)[1] for _ in range(2)] == [True, False]
    again = CliRunner().invoke(app, [*command, "--amount", "12.50", "--json"])
    assert json.loads(again.stdout)["is_new"] is False
    too_much = CliRunner().invoke(app, [*command, "--amount", "20.01"])
    assert isinstance(too_much.exception, QuestionRefused)
    for no_amount in ("much", "NaN", "1_250", "1e1", "-1"):
        assert CliRunner().invoke(app, [*command, f"--amount={no_amount}"]).exit_code == 2, no_amount
    market.deliver()
    market.fake.agreements.settle()
    market.go_to(hour(2))
    market.deliver()
    with market.workspace.books.connect() as connection:
        (row,) = list_deliveries(connection)
    assert (row.state, row.account_id, row.amount) == ("delivered", "a", Decimal("-12.5"))
    assert [one["status"] for one in market.fake.agreements.requests.values()] == ["COMPLETED"]

    write_usage_feed(tmp_path / "usage.csv", [
        {"usage_feed_id": "u1", "usage_date": "2026-03-10", "agreement_id": "agmt-1", "dimension_key": "tok",
         "usage_quantity": "50.00", "usage_rate_per_unit_in_pricing_currency": "0.010000"},
    ])  # fmt: skip
    read = CliRunner().invoke(
        app, [*root, "feeds", "--usage", str(tmp_path / "usage.csv"), "--out", str(tmp_path / "lists")]
    )
    assert read.exit_code == 0, read.output
    found = read_table(QUANTITIES, tmp_path / "lists" / "aws_marketplace_quantities.parquet").to_pylist()
    assert [(one["account_id"], one["name"], one["quantity"]) for one in found] == [("a", "tok", Decimal(50))]


def test_subscriptions_bill_everything_and_pure_contracts_nothing(market: Market) -> None:
    settings = market.workspace.layout.settings_file
    settings.write_text(
        settings.read_text().replace(
            "[delivery.aws_marketplace.dim",
            """
contract_only = ["code-2"]
[delivery.aws_marketplace.subscribed]
code-1 = ["tok", "unheard"]
[delivery.aws_marketplace.dim""",
        )
    )
    market.workspace.close()
    market.workspace = Workspace(market.workspace.layout.root, clock=market.clock)
    other = {"LicenseArn": ARN.replace("l-1", "l-2"), "CustomerAWSAccountId": "000000000002"}
    market.fake.agreements.add("agmt-2", starts_at=BEGIN)
    market.fake.buyers.give_token("t-2", product="code-2", agreement_id="agmt-2", **other)
    market.fake.buyers.entitle("code-2", "tok", {"IntegerValue": 1}, None, **other)
    market.register("t-1")
    register_buyer(market.workspace, "t-2", "b", "b1")
    done = import_entitlements(market.workspace)
    assert [sentence.split(":")[0] for sentence in done.left_out] == ["dimension unheard has no meter"]
    assert sorted(market.contracts()) == [("tok", Decimal(0), BEGIN, None), ("tok", Decimal(1), BEGIN, None)]
    market.use("5", hour(0, 10))
    market.use("7", hour(0, 10), tenant="b1")
    market.go_to(hour(2))
    market.deliver()
    assert list(market.fake.billed.values()) == [Decimal(5)]
    assert import_entitlements(market.workspace).changed == ()


def test_told_and_carried_are_the_ledger(market: Market) -> None:
    market.fake.buyers.entitle("code-1", "tok", {"IntegerValue": 100}, None, **WHO)
    market.register("t-1")
    import_entitlements(market.workspace)
    market.use("150.0000005", hour(0, 10))
    market.use("2.25", hour(1, 10))
    market.go_to(hour(1, 20))
    market.deliver()
    (one,) = carried_hours(market.workspace)
    assert (one.ledger, one.accepted, one.carried) == (Decimal("52.2500005"), Decimal(50), Decimal("2.2500005"))
    # What was told is taken back, and the licence ends: only an adjustment can lower it.
    market.use("-30", hour(0, 10))
    market.fake.queue.send(event("License Deprovisioned", hour(1, 30), "r2"))
    market.go_to(hour(4))
    listen_once(market.workspace)
    market.deliver()
    (one,) = carried_hours(market.workspace)
    assert (one.ledger, one.accepted, one.carried, one.is_overmetered) == (
        Decimal("22.2500005"),
        Decimal(50),
        Decimal("-27.7499995"),
        True,
    )
    shown = CliRunner().invoke(app, ["-w", str(market.workspace.layout.root), "marketplace", "carried", "--json"])
    assert (shown.exit_code, json.loads(shown.stdout)["carried"][0]["accepted"]) == (1, "50")


def test_nothing_of_before_the_licence_is_told(market: Market) -> None:
    """The contract says midnight; AWS's agreement began at half past two."""
    market.fake.agreements.add("agmt-1", starts_at=hour(2, 30))
    market.fake.add_licence(ARN, account="000000000001", product="code-1", starts_at=hour(2, 30))
    contracts = """
contracts:
  - {id: c, tenant: acme, licence: l-1, dimension: tok, meter: tokens, included: 0, from: 2026-03-10}
"""
    (market.workspace.layout.catalog / "more.yaml").write_text(contracts)
    market.workspace.apply()
    market.register("t-1")
    import_entitlements(market.workspace)
    with market.workspace.books.begin() as connection:
        note_start(connection, "l-1", hour(2, 30))
    market.use("5", hour(1, 10))
    market.use("7", hour(2, 40))
    market.go_to(hour(4))
    market.deliver()
    assert market.billed() == {2: Decimal(7)}


def test_a_report_of_commerce_analytics_is_asked_for_and_read_by_what_the_settings_say_of_it(
    market: Market, tmp_path: Path
) -> None:
    """Its columns are the seller's to name; without a key no file is read twice."""
    market.register("t-1")
    root = ["-w", str(market.workspace.layout.root), "marketplace"]
    where = ["--day", "2026-03-10", "--role", "arn:r", "--bucket", "ours", "--topic", "arn:t", "--prefix", "cas"]
    asked = CliRunner().invoke(app, [*root, "request-report", "daily_business_usage_by_instance_type", *where])
    assert asked.exit_code == 0, asked.output
    assert "request data-set-1" in asked.output
    (request,) = market.fake.data_sets
    assert request["dataSetType"] == "daily_business_usage_by_instance_type"
    assert from_us(int(request["dataSetPublicationDate"]) * 1_000_000) == BEGIN
    unknown = CliRunner().invoke(app, [*root, "request-report", "everything", *where])
    assert isinstance(unknown.exception, QuestionRefused)
    assert "daily_business_fees" in str(unknown.exception)
    market.fake.fail("away")
    assert isinstance(
        CliRunner().invoke(app, [*root, "request-report", "daily_business_fees", *where]).exception, ProviderAway
    )

    path = tmp_path / "daily_business_usage_by_instance_type_2026-03-10.csv"
    path.write_text(
        "Usage Date,Customer,What,Units\n2026-03-10,000000000001,tok,2.50\n2026-03-10,000000000001,tok,2.50\n"
    )
    command = [*root, "feeds", "--out", str(tmp_path / "lists"), "--shape", "commerce", "--usage", str(path)]
    assert isinstance(CliRunner().invoke(app, command).exception, BadSettings)
    settings = market.workspace.layout.settings_file
    settings.write_text(
        settings.read_text()
        + """
[delivery.aws_marketplace.reports.commerce]
day = "Usage Date"
dimension = "What"
quantity = "Units"
buyer = "Customer"
"""
    )
    read = CliRunner().invoke(app, command, catch_exceptions=False)
    assert read.exit_code == 0, read.output
    (found,) = read_table(QUANTITIES, tmp_path / "lists" / "aws_marketplace_quantities.parquet").to_pylist()
    assert (found["account_id"], found["name"], found["quantity"]) == ("a", "tok", Decimal(5))
    copy = tmp_path / "copy.csv"
    copy.write_bytes(path.read_bytes())
    twice = CliRunner().invoke(app, [*command, "--usage", str(copy)])
    assert isinstance(twice.exception, ProviderListRefused)
    # Delivery goes on with the section as it is.
    market.deliver()
